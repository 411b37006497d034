"""Random graphs for the reference model: several regions, and all that they can do to each other.

Sub-graphs, interrupts, growths that lead to growths, snapshots, rollbacks (into growths too),
events, named activities that are shared, ways back, budgets.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.properties.runnable import EVENTS, guards, happenings, spans

DURING: list[Any] = [
    "slow",
    "late",
    {"type": "lr_factor", "factor": 0.5},
    {"type": "lr_factor", "factor": 0.3},
    {"type": "freeze", "of": "x.*"},
    {"type": "difficulty", "level": 1},
    {"type": "lr_ramp", "start": 0, "over": "4 steps", "curve": "cosine"},
    {"type": "lr_ramp", "end": 0.1, "over": "9 samples"},
]


class Maker:
    """Draws one region's stages."""

    def __init__(self, draw: Any, region: str, everywhere: list[str], *, subs: bool) -> None:
        self.draw = draw
        self.region = region
        self.everywhere = everywhere
        self.subs = subs
        self.timed = [f"t{n}" for n in range(draw(st.integers(2, 4)))]
        self.own, self.base = f"s_{region}", f"b_{region}"
        self.with_options = draw(st.booleans())

    def one_of(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def some(self, share: int) -> bool:
        """One time in so many."""
        return self.draw(st.integers(1, share)) == share

    @property
    def targets(self) -> list[str]:
        growths = ["g", "g", "h", "try", *(["c", "c2"] if self.subs else [])]
        return [*self.timed, *growths]

    @property
    def asked(self) -> list[str]:
        inner = ["c.lo", "c2.hi", "c"] if self.subs else []
        return [*self.timed, "g", "w", "hold", "away", *inner]

    def guard(self) -> str:
        places = (self.region, self.asked, self.everywhere)
        return self.draw(guards(*places, snapshots=(self.own, self.base)))

    def roll_back(self) -> dict[str, Any]:
        chosen = self.one_of("g", "try") if self.with_options else "try"
        differs = {"exclude": chosen} if self.some(3) else {"rng": "fork"}
        return {"type": "roll_back", "to": self.own, **differs}

    def send(self) -> dict[str, Any]:
        return {"type": "send", "event": self.one_of(*EVENTS)}

    def ways(self, targets: list[str], most: int = 3) -> list[dict[str, Any]]:
        found = []
        for _ in range(self.draw(st.integers(0, most))):
            way: dict[str, Any] = {"target": self.one_of(*targets)}
            if not self.some(8):
                way["when"] = self.guard()
            if self.some(2):
                way["at_most"] = self.draw(st.integers(1, 3))
            if self.some(4):
                way["actions"] = [self.send()]
            if self.some(6):
                way.setdefault("actions", []).append({"type": "snapshot", "name": self.own})
                way["on_error"] = {"retry": self.one_of(0, 1), "then": self.one_of("t0", "g")}
            if self.some(8):
                way["at_most"] = 2
                way["actions"] = [self.roll_back()]
            found.append(way)
        if self.some(12):
            found.append({"target": "stop", "when": self.guard()})
        return found

    def lasting(self, stage: dict[str, Any], targets: list[str]) -> dict[str, Any]:
        """A stage with a duration, at times, and what comes after it."""
        if self.some(2):
            stage["duration"] = self.one_of("1 step", "3 steps", "5 steps", "7 samples", "0.5 ep")
            stage["next"] = self.one_of(*targets)
        if self.some(4):
            stage["min_duration"] = f"{self.draw(spans)} steps"
        return stage

    def stage(self) -> dict[str, Any]:
        kind = self.one_of("train", "train", "settle", "consolidate", "warmup")
        during = self.draw(st.lists(st.sampled_from(DURING), max_size=2, unique_by=str))
        stage = {"kind": kind, "transitions": self.ways(self.targets), "during": during}
        if kind == "settle":
            stage["lr_factor"] = 0.3
        if self.some(5):
            taken = self.one_of(("snapshot", self.own), ("baseline", self.base))
            stage["actions"] = [{"type": taken[0], "name": taken[1]}]
        if kind == "warmup":
            ramp = {"type": "lr_ramp", "start": 0, "over": f"{self.draw(spans)} steps"}
            stage["during"] = ["late", ramp] if self.some(2) else [ramp]
            return {**stage, "next": self.one_of(*self.targets)}
        return self.lasting(stage, self.targets)

    def growth(self, following: list[str]) -> dict[str, Any]:
        actions: list[dict[str, Any]] = [{"type": "deepen", "stack": "b", "add": 1}]
        if self.some(3):
            actions.append({"type": "widen", "space": "mlp", "factor": 2})
        if self.some(3):
            actions[0]["name"] = "more"
        if self.some(2):
            actions.insert(0, {"type": "snapshot", "name": self.own})
        return {"kind": "grow", "actions": actions, "next": self.one_of(*following)}

    def options(self, actions: list[Any]) -> dict[str, Any]:
        """One growth in a stage as several to choose from."""
        before = [action for action in actions if action["type"] == "snapshot"]
        own = [action for action in actions if action["type"] != "snapshot"]
        wide = {"type": "widen", "space": "mlp", "factor": 2}
        found = {"options": [{"name": "deep", "actions": own}, {"name": "wide", "actions": [wide]}]}
        if self.some(2):
            found["options"].append({"name": "odd", "actions": [{**own[0], "name": "more"}]})
        if self.some(4):
            before.append(wide)
        return {**found, "actions": before, "choose": self.one_of("next", "largest")}

    def trial(self) -> dict[str, Any]:
        growth: dict[str, Any] = {"type": "deepen", "stack": "b", "add": 1}
        deep = [{"type": "snapshot", "name": self.own}, growth] if self.some(3) else [growth]
        wide = [{"type": "widen", "space": "mlp", "factor": 2}]
        options = [{"name": "deep", "actions": deep}, {"name": "wide", "actions": wide}]
        trial: dict[str, Any] = {
            "kind": "trial",
            "options": options,
            "over": self.one_of("1 step", "2 steps", "3 steps", "5 samples"),
            "metric": self.one_of("m", "n"),
            "next": self.one_of("w", "w", "hold"),
        }
        if self.some(2):
            trial["worth"] = self.one_of(0.1, 0.5)
        if "worth" in trial or not self.some(4):
            trial["otherwise"] = self.one_of("t0", "hold", "away")
        return trial

    def stages(self, *, final: bool) -> dict[str, Any]:
        stages = {name: self.stage() for name in self.timed}
        first = stages["t0"]
        kept = [("snapshot", self.own), ("baseline", self.base)]
        taken = [{"type": kind, "name": name} for kind, name in kept]
        first["actions"] = [*taken, *first.get("actions", [])]
        ramp = {"type": "alpha_ramp", "of": "grown", "over": f"{self.draw(spans)} steps"}
        ramp["curve"] = self.one_of("linear", "cosine", "exponential")
        stages["g"] = self.growth(["w", "w", "hold", "h"])
        if self.with_options:
            stages["g"] |= self.options(stages["g"]["actions"])
        stages["try"] = self.trial()
        stages["h"] = self.growth(["w", "hold", "t0"])
        stages["w"] = {
            "kind": "warmup",
            "during": ["late", ramp] if self.some(2) else [ramp],
            "next": self.one_of("hold", "t0"),
            "transitions": self.ways(["hold", "t1"], 1),
        }
        stages["hold"] = self.lasting(
            {"kind": "consolidate", "transitions": self.ways(self.targets, 2)}, self.targets
        )
        kind = self.one_of("train", "train", "settle")
        back: dict[str, Any] = {"target": "back", "when": f"elapsed({self.draw(spans)} steps)"}
        if self.some(2):
            back["on_error"] = {"then": "t0"}
        out = [*self.ways(["g", "t1"], 1), back]
        stages["away"] = {"kind": kind, "during": ["slow"], "transitions": out}
        if kind == "settle":
            stages["away"]["lr_factor"] = 0.5
        if self.subs:
            stages["c"] = {"use": "cycle", "next": self.one_of("t0", "hold", "g", "c2")}
            stages["c2"] = {"use": "cycle", "next": self.one_of("t1", "w2")}
            stages["w2"] = {"kind": "warmup", "during": ["late"], "next": self.one_of("t0", "c2")}
        if final:
            stages["end"] = {"kind": "final"}
            stages["t1"]["transitions"].append({"target": "end", "when": self.guard()})
        return stages

    def interrupts(self) -> list[dict[str, Any]]:
        found = []
        for index in range(self.draw(st.integers(0, 3))):
            way: dict[str, Any] = {"name": f"i{index}", "when": self.guard()}
            way["at_most"] = self.draw(st.integers(1, 3))
            if self.some(2):
                inner = ["c.lo", "c2.hi", "c2.ww"] if self.subs else []
                within = [*self.timed, "w", "hold", "hold", "away", *inner]
                way["within"] = self.draw(
                    st.lists(st.sampled_from(within), min_size=1, max_size=3, unique=True)
                )
            if self.some(3):
                way["target"] = self.one_of("t0", "t1", "g", "away")
                way["actions"] = [self.roll_back()]
                way["on_error"] = {"then": "t0"}
            else:
                way["target"] = self.one_of("away", "away", "away", "t1", "g")
                if self.some(2):
                    way["when"] = f"elapsed({self.draw(spans)} steps)"
                if self.some(2):
                    way["within"] = ["w", "hold"]
            found.append(way)
        return found


def _cycle(make: Maker, guard: Any) -> dict[str, Any]:
    """A sub-graph: it grows, with names of its own."""
    mark = {"type": "snapshot", "name": "mark"}
    grow = {"type": "deepen", "stack": "b", "add": 1, "name": "unit"}
    ramp = {"type": "alpha_ramp", "of": {"grown": "unit"}, "over": "3 steps"}
    lo: dict[str, Any] = {
        "kind": "train",
        "during": ["soft", "slow"],
        "actions": [mark],
        "transitions": [{"target": "gg", "when": guard()}, {"target": "end", "when": guard()}],
    }
    undo = {
        "name": "undo",
        "when": guard(),
        "target": make.one_of("lo", "hi", "gg"),
        "at_most": 1,
        "actions": [{"type": "roll_back", "to": "mark", "data": "skip"}],
    }
    leave = {"name": "leave", "when": guard(), "target": "end", "at_most": 2}
    return {
        "initial": make.one_of("lo", "lo", "gg"),
        "activities": {"soft": {"type": "lr_factor", "factor": 0.9}},
        "stages": {
            "lo": make.lasting(lo, ["gg", "hi", "end"]),
            "gg": {"kind": "grow", "actions": [grow], "next": "ww"},
            "ww": {"kind": "warmup", "during": [ramp], "next": "hi"},
            "hi": make.lasting(
                {
                    "kind": "consolidate",
                    "during": ["soft"],
                    "transitions": [{"target": make.one_of("lo", "gg"), "when": guard()}],
                },
                ["end", "lo"],
            ),
            "end": {"kind": "final"},
        },
        "interrupts": [undo, leave][: make.draw(st.integers(0, 2))],
    }


@st.composite
def regional_graphs(draw: Any) -> dict[str, Any]:
    """A document that compiles and runs, however senseless."""
    regions = ["a", "b", "c", "d"][: draw(st.sampled_from([1, 2, 2, 3, 4]))]
    subs = draw(st.booleans())
    stages = ["t0", "t1", "g", "w", "hold", *(["c.lo", "c.hi"] if subs else [])]
    everywhere = [f"{region}:{stage}" for region in regions for stage in stages]
    made: dict[str, Any] = {}
    for region in regions:
        make = Maker(draw, region, everywhere, subs=subs)
        made[region] = {
            "initial": "g" if region == "a" and make.some(6) else "t0",
            "priority": draw(st.integers(0, 2)),
            "stages": make.stages(final=region == "a" or make.some(2)),
            "interrupts": make.interrupts(),
        }
    every = {"every": f"{draw(st.integers(2, 5))} steps"} if draw(st.booleans()) else {}
    budget: dict[str, Any] = {"steps": draw(st.integers(15, 60))}
    if draw(st.integers(0, 3)):
        budget["params"] = draw(st.sampled_from([100_000, 140, 160]))
    if draw(st.integers(0, 7)) == 0:
        budget |= draw(st.sampled_from([{"epochs": 3}, {"samples": 60}]))
    document: dict[str, Any] = {
        "stagegraph": 1,
        "name": "random",
        "metrics": {"m": {"goal": "minimize", **every}, "n": {"goal": "maximize"}},
        "events": list(EVENTS),
        "budget": budget,
        "max_overlap": draw(st.sampled_from([1, 1, 2, 3])),
        "activities": {
            "slow": {"type": "lr_factor", "factor": 0.7},
            "late": {"type": "lr_ramp", "start": 0.1, "over": "7 steps"},
        },
        "regions": made,
    }
    outer = Maker(draw, regions[0], everywhere, subs=False)

    def guard() -> str:
        return draw(guards(regions[0], ["lo", "gg"], everywhere, snapshots=("mark",)))

    if subs:
        document["graphs"] = {"cycle": _cycle(outer, guard)}
    if outer.some(3):
        when = draw(guards(regions[0], [f"{regions[0]}:t0"], everywhere))
        to = outer.one_of(f"{regions[0]}:t1", "t1", "away", "stop")
        document["interrupts"] = [{"name": "root", "when": when, "target": to, "at_most": 1}]
    return document


def costs_of(document: dict[str, Any]) -> dict[str, int]:
    """What every growth of every region adds."""
    costs: dict[str, int] = {}
    for region in document["regions"]:
        costs |= {f"{region}:g": 10, f"{region}:h": 5, f"{region}:c.gg": 15, f"{region}:c2.gg": 20}
        if "options" in document["regions"][region]["stages"]["g"]:
            del costs[f"{region}:g"]
            costs |= {f"{region}:g.deep": 10, f"{region}:g.wide": 25}
        costs |= {f"{region}:try.deep": 10, f"{region}:try.wide": 20}
    return costs


def _plain(happening: dict[str, Any]) -> dict[str, Any]:
    """Without commands; and boundaries that fail are few."""
    left_out = {"mail", "explain"} | ({"fail"} if happening.get("samples") != 0 else set())
    return {key: told for key, told in happening.items() if key not in left_out}


streams = st.lists(happenings.map(_plain), min_size=15, max_size=45)
"""What comes with each update: metrics with NaN and gaps, evaluations, events, failures."""
