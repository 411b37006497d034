"""Graphs that run, and what may happen to them: metrics with gaps, evaluations, events."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

METRICS = ("m", "n")
EVENTS = ("ping", "pong")

numbers = st.sampled_from(["0", "1", "2", "0.5", "3"])
spans = st.integers(1, 6)


@st.composite
def leaves(draw: Any, region: str, stages: list[str], everywhere: list[str]) -> str:
    """A guard without ``and``, ``or``, ``not``."""
    op = draw(st.sampled_from(["<", "<=", ">", ">=", "==", "!="]))
    number, span = draw(numbers), draw(spans)
    metric = draw(st.sampled_from(METRICS))
    return draw(
        st.sampled_from(
            [
                f"{metric} {op} {number}",
                f"{metric} {op} {number} * last(n)",
                f"best({metric}) {op} {number}",
                f"nonfinite({metric}) {op} {number}",
                f"1 / ({metric} - {number}) {op} 1",
                f"step {op} {span * 3}",
                f"spent(steps) - step {op} {span}",
                f"left(steps) {op} {span * 4}",
                f"samples {op} {span * 5}",
                f"epoch {op} {span / 4}",
                f"elapsed({span} steps)",
                f"elapsed({span * 2} samples)",
                f"visits({draw(st.sampled_from(stages))}) {op} {number}",
                f"in({draw(st.sampled_from(everywhere))})",
                f"done({draw(st.sampled_from(everywhere)).partition(':')[0]})",
                f"event({draw(st.sampled_from(EVENTS))})",
                f"plateau({metric}, patience={span} steps)",
                f"plateau({metric}, worth=50%, over={span * 2} steps, confirm=1)",
                f"plateau({metric}, worth=50%, over=8 steps, confirm=1, confidence=50%)",
                f"gain({metric}, over={span * 4} steps) {op} 0.1",
                "completed()",
                "affordable(g)",
                "exhausted(g)",
                "exhausted(try)",
                f"params {op} 105",
            ]
        )
    )


@st.composite
def guards(draw: Any, *args: Any, snapshots: tuple[str, ...] = ()) -> str:
    """A guard, a few levels deep."""

    def inner(depth: int) -> str:
        shape = draw(st.integers(0, 9)) if depth else 0
        if shape < 5:
            if snapshots and draw(st.integers(0, 6)) == 0:
                lasting = draw(st.sampled_from(["", ", lasting=2 steps"]))
                name = draw(st.sampled_from(snapshots))
                metric = draw(st.sampled_from(METRICS))
                asked = draw(
                    st.sampled_from(["regressed", "recovered", "improved", "unstable", "unstable"])
                )
                if asked == "unstable":
                    more = draw(st.sampled_from(["", ", allow=3 steps", ", within=6 steps"]))
                    over = draw(st.sampled_from(["2 steps", "6 steps"]))
                    return f"unstable({metric}, since={name}, over={over}{more})"
                mark = "within" if asked == "recovered" else "by"
                return f"{asked}({metric}, {mark}=10%, since={name}{lasting})"
            return draw(leaves(*args))
        if shape < 6:
            return f"not ({inner(depth - 1)})"
        word = " and " if shape < 8 else " or "
        parts = [f"({inner(depth - 1)})" for _ in range(draw(st.integers(2, 4)))]
        return word.join(parts)

    return inner(2)


def _ways(draw: Any, region: str, names: list[str], everywhere: list[str]) -> list[dict[str, Any]]:
    ways = []
    for _ in range(draw(st.integers(0, 3))):
        target = draw(st.sampled_from([*names, "try", "stop"]))
        if target == "stop" and draw(st.integers(0, 3)):
            target = names[0]
        way: dict[str, Any] = {"target": target}
        if draw(st.integers(0, 9)):
            way["when"] = draw(
                guards(region, names, everywhere, snapshots=(f"s_{region}", f"b_{region}"))
            )
        if draw(st.booleans()):
            way["at_most"] = draw(st.integers(1, 3))
        if draw(st.integers(0, 4)) == 0:
            way["actions"] = [{"type": "send", "event": draw(st.sampled_from(EVENTS))}]
        ways.append(way)
    return ways


_DURING: list[Any] = [
    "slow",
    "late",
    {"type": "lr_factor", "factor": 0.5},
    {"type": "difficulty", "level": 1},
    {"type": "mixture", "weights": {"a": 1, "b": {"start": 0, "end": 1, "over": "5 steps"}}},
    {"type": "batch_size", "factor": 2, "lr": "sqrt"},
    {"type": "hyper", "knob": "clip", "value": {"start": -1, "end": 5000, "over": "7 samples"}},
    {"type": "freeze", "of": "x.*"},
    {"type": "lr_ramp", "start": 0, "over": "4 steps", "curve": "cosine"},
    {"type": "lr_ramp", "end": 0.1, "over": "9 samples"},
    {
        "type": "distill",
        "teachers": [
            "seen",
            {"name": "again", "weight": {"start": 0, "end": 2, "over": "5 steps"}},
        ],
        "weight": {"start": 1, "end": 0, "over": "0.5 epochs", "curve": "exponential"},
        "temperature": {"start": 4, "end": 1, "over": "9 samples"},
    },
]


def _stage(draw: Any, region: str, names: list[str], everywhere: list[str]) -> dict[str, Any]:
    kind = draw(st.sampled_from(["train", "train", "settle", "consolidate", "warmup"]))
    stage: dict[str, Any] = {
        "kind": kind,
        "transitions": _ways(draw, region, names, everywhere),
        "during": draw(st.lists(st.sampled_from(_DURING), max_size=2, unique_by=str)),
    }
    if kind == "settle":
        stage["lr_factor"] = 0.3
    if kind == "warmup":
        stage["during"] = [{"type": "lr_ramp", "start": 0, "over": f"{draw(spans)} steps"}]
        stage["next"] = draw(st.sampled_from(names))
    elif draw(st.booleans()):
        unit = draw(st.sampled_from(["steps", "samples", "epochs"]))
        amount = draw(spans) if unit != "epochs" else draw(st.sampled_from([0.25, 0.5, 1]))
        stage["duration"] = f"{amount} {unit}"
        stage["next"] = draw(st.sampled_from(names))
    if draw(st.integers(0, 3)) == 0:
        stage["min_duration"] = f"{draw(spans)} steps"
    if draw(st.integers(0, 3)) == 0:
        stage["actions"] = [
            {"type": "snapshot", "name": f"s_{region}"},
            {"type": "baseline", "name": f"b_{region}"},
            {"type": "teacher", "name": "again"},
            {"type": "save", "name": "kept"},
        ]
    return stage


def _region(draw: Any, region: str, names: list[str], everywhere: list[str]) -> dict[str, Any]:
    stages = {name: _stage(draw, region, names, everywhere) for name in names if name[0] == "t"}
    first = stages["t0"]
    first["actions"] = [
        {"type": "snapshot", "name": f"s_{region}"},
        {"type": "baseline", "name": f"b_{region}"},
        {"type": "teacher", "name": "seen"},
        {"type": "teacher", "name": "again"},
    ]
    options = {
        "options": [
            {"name": "deep", "actions": [{"type": "deepen", "stack": "b", "add": 1}]},
            {"name": "wide", "actions": [{"type": "widen", "space": "mlp", "factor": 2}]},
        ]
    }
    stages["g"] = {
        "kind": "grow",
        "actions": [{"type": "deepen", "stack": "b", "add": 1}],
        "next": "w",
    }
    with_options = draw(st.booleans())
    if with_options:
        choose = draw(st.sampled_from(["next", "largest"]))
        stages["g"] |= {"actions": [], "choose": choose, **options}
    stages["try"] = {
        "kind": "trial",
        **options,
        "over": draw(st.sampled_from(["1 step", "2 steps", "3 steps", "5 samples"])),
        "metric": draw(st.sampled_from(METRICS)),
        "next": "w",
        "otherwise": "t0",
        **draw(st.sampled_from([{}, {"worth": 0.1}])),
    }
    over = f"{draw(spans)} steps"
    stages["w"] = {
        "kind": "warmup",
        "during": [{"type": "alpha_ramp", "of": "grown", "over": over}],
        "next": draw(st.sampled_from(["t0", "t1"])),
    }
    stages["away"] = {
        "kind": "train",
        "transitions": [
            {"target": "back", "when": f"elapsed({draw(spans)} steps)", "on_error": {"then": "t0"}}
        ],
    }
    final = draw(st.booleans()) or region == "a"
    if final:
        stages["end"] = {"kind": "final"}
    interrupts: list[dict[str, Any]] = []
    for index in range(draw(st.integers(0, 2))):
        guard = draw(guards(region, names, everywhere, snapshots=(f"s_{region}", f"b_{region}")))
        way: dict[str, Any] = {"name": f"i{index}", "when": guard, "at_most": 2}
        if draw(st.booleans()):
            way["target"] = draw(st.sampled_from(["t0", "t1", "away"]))
            tried = ["g", "try"] if with_options else ["try"]
            excluding = {"exclude": draw(st.sampled_from(tried))}
            differs = draw(st.sampled_from([{"rng": "fork"}, {"rng": "fork"}, excluding]))
            way["actions"] = [{"type": "roll_back", "to": f"s_{region}", **differs}]
            if "exclude" in differs:
                way["on_error"] = {"then": "t0"}
        else:
            way["target"] = "away"
        interrupts.append(way)
    return {
        "initial": "t0",
        "priority": draw(st.integers(0, 2)),
        "stages": stages,
        "interrupts": interrupts,
    }


looks = st.sampled_from(
    [{}, {}, {}, {"look_every": "3 steps"}, {"look_every": "5 samples"}, {"look_every": "0.5 ep"}]
)
"""How often a metric's values are looked at."""


@st.composite
def runnable_graphs(draw: Any) -> dict[str, Any]:
    """A document that compiles and runs; the checks may have much to say about it."""
    regions = ["a", "b", "c"][: draw(st.integers(1, 3))]
    names = {
        region: [*(f"t{n}" for n in range(draw(st.integers(2, 4)))), "g"] for region in regions
    }
    everywhere = [f"{region}:{name}" for region in regions for name in names[region]]
    every = {"every": f"{draw(st.integers(2, 5))} steps"} if draw(st.booleans()) else {}
    document: dict[str, Any] = {
        "stagegraph": 1,
        "name": "random",
        "metrics": {
            "m": {"goal": "minimize", **every, **draw(looks)},
            "n": {"goal": "maximize", **draw(looks)},
        },
        "events": list(EVENTS),
        "budget": {"params": 140, "steps": draw(st.integers(15, 60))},
        "max_overlap": draw(st.integers(1, 2)),
        "activities": {
            "slow": {"type": "lr_factor", "factor": 0.7},
            "late": {"type": "lr_ramp", "start": 0.1, "over": "7 steps"},
        },
        "regions": {r: _region(draw, r, [*names[r]], everywhere) for r in regions},
    }
    return document


def costs_of(document: dict[str, Any]) -> dict[str, int]:
    """Ten parameters for every growth, and for an option by where it stands."""
    costs: dict[str, int] = {}
    for region, spec in document["regions"].items():
        places = ["g.deep", "g.wide"] if "options" in spec["stages"]["g"] else ["g"]
        costs |= {f"{region}:{place}": 10 for place in (*places, "try.deep", "try.wide")}
        costs[f"{region}:try.wide"] = 15
    return costs


values = st.one_of(
    st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, -1.0, math.nan, math.inf, -math.inf, 1e300]),
    st.floats(-4, 4),
)
commands = st.one_of(
    st.sampled_from(
        [("event", "ping", ""), ("event", "pong", ""), ("event", "unknown", "")]
        + [("command", name, "") for name in ("hold", "continue", "checkpoint", "pause")]
        + [("command", name, region) for name in ("hold", "continue") for region in "abc"]
    ),
    st.builds(
        lambda region, stage: ("command", "force", f"{region}:{stage}"),
        st.sampled_from("abc"),
        st.sampled_from(["t0", "t1", "t2", "g", "g", "try", "w", "away", "end", "back"]),
    ),
    st.builds(
        lambda amount, unit, region: ("command", "extend", f"{amount} {unit} {region}"),
        spans,
        st.sampled_from(["steps", "samples", "epochs"]),
        st.sampled_from("abc"),
    ),
)
"""Mail from outside: kind, name, argument; some of it is refused."""

happenings = st.fixed_dictionaries(
    {},
    optional={
        "with_step": st.dictionaries(st.sampled_from(METRICS), values, min_size=1),
        "observe": st.dictionaries(st.sampled_from(METRICS), values),
        "answer": st.dictionaries(st.sampled_from(METRICS), values),
        "late": st.dictionaries(st.sampled_from(METRICS), values, min_size=1),
        "send": st.sampled_from(EVENTS),
        "explain": st.just(None),
        "samples": st.integers(0, 3),
        "fail": st.just(None),
        "mail": st.lists(commands, min_size=1, max_size=3),
    },
)
"""What comes with one update."""

streams = st.lists(happenings, min_size=5, max_size=45)
