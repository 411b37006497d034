"""Strategies: documents that are well-formed, and mostly senseless."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

STAGES = ("a", "b", "c", "d", "e")
REGIONS = ("main", "data")
UNITS = ("steps", "epochs", "samples", "tokens", "seconds")

names = st.sampled_from(STAGES)
amounts = st.integers(1, 5).flatmap(lambda n: st.sampled_from([f"{n} {unit}" for unit in UNITS]))
numbers = st.sampled_from(
    (
        "0",
        "1",
        "2.5",
        "step",
        "epoch",
        "params",
        "seconds",
        "loss",
        "last(loss)",
        "best(loss)",
        "spent(steps)",
        "left(steps)",
        "left(params)",
        "visits(a)",
        "visits(b)",
        "-loss",
        "loss / 0",
        "2 * loss",
        "loss * step",
        "1 - step",
    )
)
leaf = st.one_of(
    st.builds(
        lambda a, op, b: f"{a} {op} {b}",
        numbers,
        st.sampled_from(("<", "<=", ">", ">=", "==", "!=")),
        numbers,
    ),
    amounts.map(lambda amount: f"elapsed({amount})"),
    st.sampled_from(
        (
            "completed()",
            "plateau(loss, worth=1%)",
            "plateau(loss, patience=2 steps)",
            "regressed(loss, by=5%, since=before)",
            "in(a)",
            "in(data:b)",
            "done(data)",
            "done(main)",
            "event(go)",
            "affordable(b)",
            "plateau(loss, worth=1%, over=9 steps)",
        )
    ),
)
guards = st.recursive(
    leaf,
    lambda inner: st.one_of(
        inner.map(lambda g: f"not ({g})"),
        st.tuples(inner, inner).map(lambda gs: f"({gs[0]}) and ({gs[1]})"),
        st.tuples(inner, inner).map(lambda gs: f"({gs[0]}) or ({gs[1]})"),
    ),
    max_leaves=5,
)
growths = st.sampled_from(
    (
        {"type": "deepen", "stack": "blocks", "add": 2},
        {"type": "widen", "space": "mlp", "factor": 2, "name": "tall"},
    )
)
actions = st.lists(
    st.one_of(
        growths,
        st.sampled_from(
            (
                {"type": "snapshot", "name": "before"},
                {"type": "roll_back", "to": "before", "rng": "fork"},
                {"type": "roll_back", "to": "before"},
                {"type": "send", "event": "go"},
            )
        ),
    ),
    max_size=2,
)
selections = st.sampled_from(("all", "grown", {"grown": "tall"}, "blocks.*"))
cohorts = st.sampled_from(("grown", {"grown": "tall"}))
activities = st.one_of(
    st.builds(lambda of, over: {"type": "alpha_ramp", "of": of, "over": over}, cohorts, amounts),
    st.builds(
        lambda of, over: {"type": "lr_ramp", "of": of, "start": 0, "over": over},
        selections,
        amounts,
    ),
    selections.map(lambda of: {"type": "freeze", "of": of}),
    st.just({"type": "difficulty", "level": 1}),
    st.just({"type": "hyper", "optimizer": "betas.0", "value": 0.5}),
    amounts.map(
        lambda over: {
            "type": "sequence_length",
            "length": {"start": 8, "end": 64, "over": over},
        }
    ),
    st.just("low"),
)


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), strategy)


def without_none(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value is not None}


def ways(targets: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "target": targets,
            "when": optional(guards),
            "actions": actions,
            "at_most": optional(st.integers(1, 3)),
            "on_error": optional(names.map(lambda then: {"then": then})),
        }
    ).map(without_none)


transitions = ways(st.sampled_from((*STAGES, "back", "stop")))
timed = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(("train", "consolidate", "settle", "warmup")),
        "during": st.lists(activities, min_size=1, max_size=3),
        "actions": actions,
        "transitions": st.lists(transitions, max_size=3),
        "min_duration": optional(amounts),
        "duration": optional(amounts),
        "next": optional(names),
    }
).map(
    lambda data: without_none(
        {
            **data,
            "duration": None if data["kind"] == "warmup" else data["duration"],
            "lr_factor": 0.5 if data["kind"] == "settle" else None,
        }
    )
)
stages = st.one_of(
    timed,
    st.just({"kind": "final"}),
    st.builds(
        lambda more, grows, then: {"kind": "grow", "actions": [*more, grows], "next": then},
        actions,
        growths,
        names,
    ),
    st.builds(
        lambda one, two, over, then: {
            "kind": "trial",
            "options": [
                {"name": "one", "actions": [one]},
                {"name": "two", "actions": [two]},
            ],
            "over": over,
            "metric": "loss",
            "next": then,
        },
        growths,
        growths,
        amounts,
        names,
    ),
    names.map(lambda then: {"use": "group", "next": then}),
)
interrupts = st.lists(
    st.tuples(
        transitions, st.sampled_from(("i", "j", "k", "l")), optional(st.lists(names, min_size=1))
    ).map(lambda parts: without_none({**parts[0], "name": parts[1], "within": parts[2]})),
    max_size=2,
)
regions = st.builds(
    lambda initial, found, more, priority: {
        "initial": initial,
        "stages": found,
        "interrupts": more,
        "priority": priority,
    },
    names,
    st.one_of(
        st.fixed_dictionaries({**dict.fromkeys(STAGES, stages), "e": st.just({"kind": "final"})}),
        st.dictionaries(st.sampled_from((*STAGES, "x")), stages, min_size=1),
    ),
    interrupts,
    st.integers(0, 1),
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A document that can be read as a graph; what it means is another question."""
    body: dict[str, Any] = {
        "stagegraph": 1,
        "name": "random",
        "metrics": {"loss": without_none({"goal": "minimize", "every": draw(optional(amounts))})},
        "events": ["go"],
        "budget": without_none(
            {"steps": draw(optional(st.integers(1, 9))), "params": draw(optional(st.just(99)))}
        ),
        "max_overlap": draw(st.integers(1, 3)),
        "waive": draw(st.sampled_from(({}, {}, {"no-monitor": "random"}, {"dead-end": "random"}))),
        "activities": {"low": {"type": "freeze", "of": "low.*"}},
        "graphs": {
            "group": {
                "initial": "a",
                "stages": {
                    "a": draw(timed),
                    "b": draw(stages),
                },
            }
        },
        "interrupts": draw(interrupts),
    }
    if draw(st.booleans()):
        one = draw(regions)
        return {**body, "initial": one["initial"], "stages": one["stages"]}
    return {**body, "regions": {name: draw(regions) for name in REGIONS}}


@st.composite
def chains(draw: st.DrawFn) -> dict[str, Any]:
    """A sound document: growths one after the other, each warmed up and consolidated."""
    found: dict[str, Any] = {}
    first = "done"
    for index in reversed(range(draw(st.integers(0, 3)))):
        over, worth = draw(amounts), draw(st.sampled_from(("1%", "0.5%")))
        growth = {**draw(growths), "name": f"g{index}"}
        ramp = {"type": "lr_ramp", "of": "grown", "start": 0, "over": over}
        found |= {
            f"train{index}": {
                "kind": "train",
                "transitions": [
                    {"target": f"grow{index}", "when": f"plateau(loss, worth={worth})"}
                ],
                "duration": draw(amounts),
                "next": f"grow{index}",
            },
            f"grow{index}": {"kind": "grow", "actions": [growth], "next": f"warmup{index}"},
            f"warmup{index}": {"kind": "warmup", "during": [ramp], "next": f"rest{index}"},
            f"rest{index}": {"kind": "consolidate", "duration": draw(amounts), "next": first},
        }
        first = f"train{index}"
    return {
        "stagegraph": 1,
        "name": "chain",
        "metrics": {"loss": {"goal": "minimize", "every": "1 step"}},
        "initial": first,
        "stages": {**found, "done": {"kind": "final"}},
    }
