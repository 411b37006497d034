"""Random graphs, each written twice: as a document of ours and as a statechart for XState.

What XState has under the same rules is in them: a configuration of parallel regions, interrupts
before transitions before ``next``, stages that take no time, final stages, ``at_most``,
``visits``, ``min_duration`` and durations, ``in`` and ``done``, guards that are unknown. What only
we have is left out: locks (one region alone grows), events that wait, ``back``, rollbacks.
"""

from __future__ import annotations

from random import Random
from typing import Any

Guard = dict[str, Any]

BOUNDARIES = 20
FRAMES = 6
"""How many named guards there are; what they answer is given at each boundary."""


def guard(random: Random, region: str, stages: dict[str, list[str]], depth: int = 2) -> Guard:
    """A guard as a tree: leaves, ``all``, ``any``, ``not``."""
    shape = random.randrange(8) if depth else 0
    if shape in (5, 6):
        parts = [guard(random, region, stages, depth - 1) for _ in range(random.randint(2, 3))]
        return {"type": "all" if shape == 5 else "any", "of": parts}
    if shape == 7:
        return {"type": "not", "of": guard(random, region, stages, depth - 1)}
    other = random.choice(sorted(stages))
    return random.choice(
        [
            {"type": "frame", "name": f"f{random.randrange(FRAMES)}"},
            {"type": "frame", "name": f"f{random.randrange(FRAMES)}"},
            {"type": "in", "region": other, "stage": random.choice(stages[other])},
            {"type": "done", "region": other},
            {"type": "visits", "stage": f"{other}:{random.choice(stages[other])}", "times": 2},
            {"type": "elapsed", "region": region, "steps": random.randint(1, 4)},
            {"type": "completed"},
        ]
    )


def graph(random: Random) -> dict[str, Any]:
    """Regions with stages; every way's guard is a tree."""
    names = ["a", "b", "c"][: random.randint(1, 3)]
    stages = {region: [f"t{n}" for n in range(random.randint(2, 4))] for region in names}
    stages["a"] += ["g", "h"]
    made = {}
    for region in names:
        timed = [name for name in stages[region] if name[0] == "t"]
        final = region == "a" or random.random() < 0.5
        targets = [*stages[region], *(["end"] if final else [])]
        specs = {name: _stage(random, region, stages, targets) for name in timed}
        if region == "a":
            specs["g"] = {"kind": "grow", "next": random.choice(["h", *timed])}
            specs["h"] = {"kind": "grow", "next": random.choice(timed)}
        if final:
            specs["end"] = {"kind": "final"}
        interrupts = [
            _way(random, region, stages, targets, within=random.sample(timed, k=2))
            for _ in range(random.randint(0, 2))
        ]
        initial = random.choice(["t0", "t1", *(["g"] if region == "a" else [])])
        made[region] = {"initial": initial, "stages": specs, "interrupts": interrupts}
    return made


def _stage(
    random: Random, region: str, stages: dict[str, list[str]], targets: list[str]
) -> dict[str, Any]:
    kind = random.choice(["train", "train", "settle", "warmup"])
    ways = [_way(random, region, stages, targets) for _ in range(random.randint(0, 3))]
    spec: dict[str, Any] = {"kind": kind, "ways": ways}
    if kind == "warmup" or random.random() < 0.6:
        spec |= {"duration": random.randint(1, 4), "next": random.choice(targets)}
    if random.random() < 0.3:
        spec["min_duration"] = random.randint(1, 4)
    return spec


def _way(
    random: Random, region: str, stages: dict[str, list[str]], targets: list[str], **more: Any
) -> dict[str, Any]:
    way = {"target": random.choice(targets), "guard": guard(random, region, stages), **more}
    if random.random() < 0.03:
        way["target"] = "stop"
    if random.random() < 0.4:
        way["at_most"] = random.randint(1, 2)
    return way


def frames(random: Random) -> list[dict[str, bool | None]]:
    """What the named guards answer at each boundary; ``None`` is unknown."""
    answers = (True, False, False, None)
    return [{f"f{n}": random.choice(answers) for n in range(FRAMES)} for _ in range(BOUNDARIES)]


# As a document


def document(regions: dict[str, Any]) -> dict[str, Any]:
    """The graph in our form. A named guard is a metric that is 1, 0, or NaN for unknown."""
    return {
        "stagegraph": 1,
        "name": "chart",
        "metrics": {f"f{n}": {"goal": "minimize"} for n in range(FRAMES)},
        "regions": {
            region: {
                "initial": spec["initial"],
                "stages": {name: _written(stage) for name, stage in spec["stages"].items()},
                "interrupts": [
                    {"name": f"i{n}", "within": way["within"], **_written_way(way)}
                    for n, way in enumerate(spec["interrupts"])
                ],
            }
            for region, spec in regions.items()
        },
    }


def _written(stage: dict[str, Any]) -> dict[str, Any]:
    if stage["kind"] == "grow":
        return {**stage, "actions": [{"type": "deepen", "stack": "b", "add": 1}]}
    if stage["kind"] == "final":
        return stage
    spec = {"kind": stage["kind"], "transitions": [_written_way(way) for way in stage["ways"]]}
    if "min_duration" in stage:
        spec["min_duration"] = f"{stage['min_duration']} steps"
    if stage["kind"] == "settle":
        spec["lr_factor"] = 0.5
    if "next" in stage:
        spec["next"] = stage["next"]
        over = f"{stage['duration']} steps"
        if stage["kind"] == "warmup":
            spec["during"] = [{"type": "lr_ramp", "start": 0, "over": over}]
        else:
            spec["duration"] = over
    return spec


def _written_way(way: dict[str, Any]) -> dict[str, Any]:
    limit = {"at_most": way["at_most"]} if "at_most" in way else {}
    return {"target": way["target"], "when": text(way["guard"]), **limit}


def text(tree: Guard) -> str:
    """A guard in our grammar."""
    match tree["type"]:
        case "all" | "any":
            word = " and " if tree["type"] == "all" else " or "
            return "(" + word.join(text(part) for part in tree["of"]) + ")"
        case "not":
            return f"not {text(tree['of'])}"
        case "frame":
            return f"{tree['name']} > 0"
        case "in":
            return f"in({tree['region']}:{tree['stage']})"
        case "done":
            return f"done({tree['region']})"
        case "visits":
            return f"visits({tree['stage']}) >= {tree['times']}"
        case "elapsed":
            return f"elapsed({tree['steps']} steps)"
    return "completed()"


# As a statechart


def chart(regions: dict[str, Any]) -> dict[str, Any]:
    """The graph as ``walk.mjs`` reads it: ways in the order of asking, ``not`` at the leaves."""
    finals = {region: "end" in spec["stages"] for region, spec in regions.items()}
    made: dict[str, Any] = {}
    for region, spec in regions.items():
        states: dict[str, Any] = {}
        for name, stage in spec["stages"].items():
            if stage["kind"] == "final":
                states[name] = {"final": True}
            elif stage["kind"] == "grow":
                states[name] = {"through": stage["next"]}
            else:
                states[name] = {"ways": list(_ways(region, name, spec, finals))}
        made[region] = {"initial": spec["initial"], "stages": states}
    return {"regions": made}


def _ways(region: str, name: str, spec: dict[str, Any], finals: dict[str, bool]) -> Any:
    """S6: interrupts; then, once ``min_duration`` has passed, transitions; then ``next``."""
    stage = spec["stages"][name]
    stayed = {"type": "elapsed", "region": region, "steps": stage.get("min_duration", 0)}
    over: Guard = {"type": "constant", "is": False}
    if "next" in stage:
        over = {"type": "elapsed", "region": region, "steps": stage["duration"], "is": True}

    def way(edge: str, target: str, *conditions: Guard) -> dict[str, Any]:
        to = None if target == "stop" else target
        return {"edge": edge, "target": to, "guard": {"type": "all", "of": list(conditions)}}

    def conditions(given: dict[str, Any], edge: str) -> list[Guard]:
        limit = {"type": "fewer", "edge": edge, "than": given.get("at_most", 10**6)}
        return [limit, _pushed(given["guard"], over, finals, positive=True)]

    for n, given in enumerate(spec["interrupts"]):
        edge = f"{region}:interrupts.i{n}"
        if name in given["within"]:
            yield way(edge, given["target"], *conditions(given, edge))
    for n, given in enumerate(stage["ways"]):
        edge = f"{region}:{name}.transitions[{n}]"
        yield way(edge, given["target"], {**stayed, "is": True}, *conditions(given, edge))
    if "next" in stage:
        yield way(f"{region}:{name}.next", stage["next"], {**stayed, "is": True}, over)


def _pushed(tree: Guard, over: Guard, finals: dict[str, bool], *, positive: bool) -> Guard:
    """The guard, or its opposite, with ``not`` at the leaves."""
    match tree["type"]:
        case "not":
            return _pushed(tree["of"], over, finals, positive=not positive)
        case "all" | "any":
            kind = tree["type"] if positive else {"all": "any", "any": "all"}[tree["type"]]
            parts = [_pushed(part, over, finals, positive=positive) for part in tree["of"]]
            return {"type": kind, "of": parts}
        case "in":
            return {"type": "in", "state": {tree["region"]: tree["stage"]}, "is": positive}
        case "done":
            if not finals[tree["region"]]:
                return {"type": "constant", "is": not positive}
            return {"type": "in", "state": {tree["region"]: "end"}, "is": positive}
        case "completed":
            return {
                **over,
                "is": over["is"] is positive if over["type"] == "constant" else positive,
            }
    return {**tree, "is": positive}
