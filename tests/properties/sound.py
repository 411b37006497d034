"""Sound graphs: every name is declared, every stage is reached and leads on to an end.

They keep the promises of their kinds: a growth is followed by a warm-up over what it grew and a
consolidation, growths are few, plateaus have time to be seen, rollbacks a snapshot behind them.
"""

from __future__ import annotations

from hypothesis import strategies as st

from stagegraph.schema.stagegraph import StageGraph

METRICS = {
    "loss": {"goal": "minimize", "every": "10 steps"},
    "acc": {"goal": "maximize", "every": "20 steps"},
}
EVENTS = ["go", "slow_down"]
BUDGET = {"params": "10M", "steps": "1M", "tokens": "100B"}


def sound_graphs(max_regions=3, max_parts=4):
    """Graphs that could be run: one region or several, growths, trials, loops, interrupts."""
    return _sound_data(max_regions, max_parts).map(StageGraph.model_validate)


@st.composite
def _sound_data(draw, max_regions, max_parts):
    count = draw(st.integers(1, max_regions))
    names = ["arch", "data", "head"][:count] if count > 1 else ["main"]
    shapes = {name: draw(_chains(max_parts)) for name in names}
    regions = {name: draw(_regions(name, shapes)) for name in names}
    graph = {
        "stagegraph": 1,
        "name": draw(st.sampled_from(["sound", "a longer title: ünïcödé"])),
        "metrics": METRICS,
        "events": EVENTS,
        "budget": BUDGET,
        "max_overlap": draw(st.integers(1, count)),
    }
    if any(part == "use" for chain in shapes.values() for part in chain):
        graph["graphs"] = {"cycle": _cycle()}
    if count == 1:
        return {**graph, **regions["main"]}
    return {**graph, "regions": regions}


PARTS = ["train", "growth", "settle", "consolidate", "trial", "use", "ease"]


def _chains(max_parts):
    """The parts of a region, one after another."""
    return st.lists(st.sampled_from(PARTS), max_size=max_parts)


def _timed_stages(chain):
    """The first stage of each part that takes time, by the part's number."""
    return ["start", *(f"p{i}" for i, part in enumerate(chain) if part in ("train", "settle"))]


@st.composite
def _regions(draw, name, shapes):
    chain = shapes[name]
    follow = [f"p{i}" for i in range(len(chain))] + ["done"]
    start = {"kind": "train", **draw(_training(name, shapes)), "duration": draw(_lengths())}
    start["actions"] = [{"type": "snapshot", "name": f"begin_{name}"}]
    start["next"] = follow[0]
    start["transitions"] = [*start["transitions"], *draw(_forward(name, shapes, follow))]
    stages = {"start": start}
    for i, part in enumerate(chain):
        stages.update(draw(_part(part, i, follow[i + 1], name, shapes)))
    stages["done"] = {"kind": "final"}
    region = {"initial": "start", "stages": stages}
    if draw(st.booleans()):
        region["interrupts"] = [draw(_rollbacks(name))]
    return region


def _lengths():
    return st.integers(1, 20).map(lambda n: f"{n}k steps")


@st.composite
def _forward(draw, name, shapes, follow):
    """A way out of the start that may jump ahead; never into the middle of a growth."""
    ahead = draw(st.sampled_from(follow))
    return [{"target": ahead, "when": draw(_conditions(name, shapes)), "at_most": 3}]


@st.composite
def _training(draw, name, shapes):
    """What any stage of training may hold, and a way back to the start, at most a few times."""
    held = draw(
        st.sampled_from(
            [
                [],
                [{"type": "lr_factor", "factor": 0.5}],
                [{"type": "lr_ramp", "start": 0.1, "end": 1, "over": "500 steps"}],
                [{"type": "freeze", "of": "blocks.0.*"}],
            ]
        )
    )
    transitions = []
    if draw(st.booleans()):
        transitions.append(
            {
                "target": "start",
                "when": draw(_conditions(name, shapes)),
                "at_most": draw(st.integers(1, 3)),
                "actions": [{"type": "send", "event": draw(st.sampled_from(EVENTS))}],
            }
        )
    return {"during": held, "transitions": transitions}


@st.composite
def _part(draw, part, i, follow, name, shapes):
    here = f"p{i}"
    timed = {**draw(_training(name, shapes)), "duration": draw(_lengths()), "next": follow}
    ramps = [
        {"type": "alpha_ramp", "of": "grown", "over": "300 steps"},
        {"type": "lr_ramp", "of": "grown", "start": 0, "end": 1, "over": "300 steps"},
    ]
    deepen = {"type": "deepen", "stack": "blocks", "add": draw(st.integers(1, 2))}
    widen = {"type": "widen", "space": "mlp", "factor": 2}
    after = {
        f"{here}_warmup": {"kind": "warmup", "during": ramps, "next": f"{here}_hold"},
        f"{here}_hold": {"kind": "consolidate", "duration": draw(_lengths()), "next": follow},
    }
    match part:
        case "growth":
            growth = draw(st.sampled_from([[deepen], [widen], [widen, deepen]]))
            snapshot = {"type": "snapshot", "name": f"before_{name}_{i}"}
            grow = {"kind": "grow", "actions": [snapshot, *growth], "next": f"{here}_warmup"}
            return {here: grow, **after}
        case "trial":
            options = [{"name": "deep", "actions": [deepen]}, {"name": "wide", "actions": [widen]}]
            trial = {"kind": "trial", "options": options, "over": "200 steps", "metric": "loss"}
            return {here: {**trial, "next": f"{here}_warmup"}, **after}
        case "use":
            return {here: {"use": "cycle", "next": follow}}
        case "ease":
            ramp = {"type": "lr_ramp", "start": 1, "end": 0.1, "over": "400 steps"}
            return {here: {"kind": "warmup", "during": [ramp], "next": follow}}
        case "settle":
            return {here: {"kind": "settle", "lr_factor": 0.3, **timed}}
        case _:
            return {here: {"kind": part, **timed}}


@st.composite
def _conditions(draw, name, shapes):
    """A guard over what this graph declares."""
    others = sorted(set(shapes) - {name})
    leaves = [
        "plateau(loss, worth=1%, over=200 steps)",
        "plateau(acc, patience=300 steps)",
        "loss < 0.5",
        "best(loss) * 1.05 < last(loss)",
        "left(steps) <= 6k",
        "spent(tokens) > 1B",
        "elapsed(700 steps)",
        "event(go)",
        "event(slow_down)",
        "visits(start) >= 2",
        f"not regressed(loss, by=5%, since=begin_{name}, lasting=300 steps)",
    ]
    leaves += [f"done({other})" for other in others]
    leaves += [f"in({other}:{stage})" for other in others for stage in _timed_stages(shapes[other])]
    chosen = draw(st.lists(st.sampled_from(leaves), min_size=1, max_size=3))
    return draw(st.sampled_from([" and ", " or "])).join(chosen)


@st.composite
def _rollbacks(draw, name):
    """An interrupt out of the region's start, back to where it began, with a smaller LR."""
    back = {"type": "roll_back", "to": f"begin_{name}", "lr_factor": 0.5}
    return {
        "name": f"undo_{name}",
        "within": ["start"],
        "when": f"regressed(loss, by=20%, since=begin_{name}, lasting=100 steps)",
        "actions": [back if draw(st.booleans()) else {**back, "rng": "fork"}],
        "target": "start",
        "at_most": draw(st.integers(1, 3)),
    }


def _cycle():
    """A sub-graph: grow, warm up, consolidate."""
    return {
        "initial": "grow",
        "stages": {
            "grow": {
                "kind": "grow",
                "actions": [{"type": "widen", "space": "mlp", "factor": 2}],
                "next": "warm",
            },
            "warm": {
                "kind": "warmup",
                "during": [{"type": "lr_ramp", "of": "grown", "start": 0, "over": "200 steps"}],
                "next": "hold",
            },
            "hold": {"kind": "consolidate", "duration": "1k steps", "next": "end"},
            "end": {"kind": "final"},
        },
    }
