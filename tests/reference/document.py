"""The document, laid flat: every stage of every region, with its ways out in the order of asking.

Part of the reference model: written from the rules, as plainly as possible, and sharing nothing
with the compiler or the engine. Rules S6 (order), S18 (references) and S20 (``use``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from stagegraph.schema.activities import LrFactor
from stagegraph.schema.stagegraph import StageGraph

GROWTHS = ("deepen", "widen")


@dataclass
class Way:
    """A way out of a stage: an interrupt, a transition, or ``next``."""

    id: str
    kind: str
    region: str
    prefix: str
    scope: str
    """Whose memory its guard has: a stage's, or its region's for interrupts (S7)."""
    spec: Any
    """The interrupt or the transition; for ``next`` its target's reference."""

    @property
    def target(self) -> str:
        return self.spec if self.kind == "next" else self.spec.target

    @property
    def guard(self) -> Any:
        return None if self.kind == "next" else self.spec.when

    @property
    def actions(self) -> tuple[Any, ...]:
        return () if self.kind == "next" else self.spec.actions

    @property
    def at_most(self) -> int | None:
        return None if self.kind == "next" else self.spec.at_most

    @property
    def on_error(self) -> Any:
        return None if self.kind == "next" else self.spec.on_error

    @property
    def roll_back(self) -> Any:
        return next((a for a in self.actions if a.type == "roll_back"), None)


@dataclass
class Stage:
    """A stage at its place in a region; ``prefix`` is that of the sub-graph around it."""

    key: str
    region: str
    name: str
    prefix: str
    spec: Any
    ways: list[Way] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return self.spec.kind

    @property
    def actions(self) -> tuple[Any, ...]:
        return getattr(self.spec, "actions", ())

    @property
    def options(self) -> tuple[Any, ...]:
        return getattr(self.spec, "options", ())

    def option(self, name: str) -> Any:
        return next(option for option in self.options if option.name == name)

    def leads_to(self, name: str) -> Way:
        """The way out of a trial, which is taken by itself: ``next`` or ``otherwise``."""
        reference = getattr(self.spec, name)
        return Way(f"{self.key}.{name}", "next", self.region, self.prefix, self.key, reference)


def outwards(prefix: str) -> list[str]:
    """``a.b.`` as ``a.b.``, ``a.``, nothing: names are looked up from the inside out."""
    parts = prefix.split(".")[:-1]
    return ["".join(f"{part}." for part in parts[:n]) for n in range(len(parts), -1, -1)]


class Document:
    """All stages of a graph by key (``region:stage``), and its names."""

    def __init__(self, graph: StageGraph) -> None:
        self.graph = graph
        self.stages: dict[str, Stage] = {}
        self.regions = sorted(
            graph.all_regions, key=lambda name: (-graph.all_regions[name].priority, name)
        )
        """In the order of acting (S13)."""
        self.alias: dict[str, tuple[str, str]] = {}
        """A ``use``, and the finals in it: where they lead, as prefix and reference (S20)."""
        self.activities: dict[str, dict[str, tuple[Any, str]]] = {}
        self.names: dict[str, set[str]] = {"snapshot": set(), "cohort": set()}
        inner: dict[str, list[tuple[Any, str]]] = {}
        for name, region in graph.all_regions.items():
            self.activities[name] = {key: (spec, "") for key, spec in graph.activities.items()}
            inner[name] = []
            self._include(name, region.stages, "", None, inner[name])
        for name, region in graph.all_regions.items():
            own = [(i, "") for i in graph.interrupts if self._belongs(i, name)]
            own += [(i, "") for i in region.interrupts]
            self._add_ways(name, [*own, *inner[name]])
        self._note_names()

    def _include(
        self, region: str, stages: Any, prefix: str, leads_to: Any, interrupts: list[Any]
    ) -> None:
        for name, spec in stages.items():
            key = f"{region}:{prefix}{name}"
            if hasattr(spec, "use"):
                graph, inside = self.graph.graphs[spec.use], f"{prefix}{name}."
                self.alias[key] = (inside, graph.initial)
                interrupts += [(interrupt, inside) for interrupt in graph.interrupts]
                for activity, what in graph.activities.items():
                    self.activities[region][inside + activity] = (what, inside)
                self._include(region, graph.stages, inside, (prefix, spec.next), interrupts)
            elif leads_to is not None and spec.kind == "final":
                self.alias[key] = leads_to
            else:
                self.stages[key] = Stage(key, region, prefix + name, prefix, spec)

    def _belongs(self, interrupt: Any, region: str) -> bool:
        """A root interrupt belongs to the regions that have its target and some of ``within``."""
        if len(self.regions) == 1:
            return True

        def here(reference: str) -> bool:
            found = self.find(region, "", reference)
            return found is not None and found.startswith(f"{region}:")

        targets = interrupt.target in ("back", "stop") or here(interrupt.target)
        return targets and (interrupt.within is None or any(map(here, interrupt.within)))

    def _add_ways(self, region: str, interrupts: list[tuple[Any, str]]) -> None:
        for stage in self.stages.values():
            if stage.region != region:
                continue
            for interrupt, prefix in interrupts:
                if self._may_leave(interrupt, prefix, stage):
                    id_ = f"{region}:interrupts.{prefix}{interrupt.name}"
                    scope = f"{region}:{prefix}"
                    stage.ways.append(Way(id_, "interrupt", region, prefix, scope, interrupt))
            for index, transition in enumerate(getattr(stage.spec, "transitions", ())):
                id_ = f"{stage.key}.transitions[{index}]"
                way = Way(id_, "transition", region, stage.prefix, stage.key, transition)
                stage.ways.append(way)
            if getattr(stage.spec, "next", None) is not None and stage.kind != "trial":
                way = Way(
                    f"{stage.key}.next", "next", region, stage.prefix, stage.key, stage.spec.next
                )
                stage.ways.append(way)

    def _may_leave(self, interrupt: Any, prefix: str, stage: Stage) -> bool:
        if interrupt.within is None:
            return stage.name.startswith(prefix) and stage.kind not in ("final", "grow", "trial")
        within = (self.find(stage.region, prefix, reference) for reference in interrupt.within)
        return stage.key in within

    def _note_names(self) -> None:
        """The full names of snapshots, baselines and growths, looked up from the inside out."""
        ways = [way for stage in self.stages.values() for way in stage.ways]
        written = [(owner.prefix, owner.actions) for owner in (*self.stages.values(), *ways)]
        written += [(s.prefix, o.actions) for s in self.stages.values() for o in s.options]
        for prefix, actions in written:
            for action in actions:
                if action.type in ("snapshot", "baseline"):
                    self.names["snapshot"].add(prefix + action.name)
                elif action.type in GROWTHS and action.name is not None:
                    self.names["cohort"].add(prefix + action.name)

    def growths(self, stage: Stage) -> Iterator[Any]:
        """The growths that a stage may make."""
        for actions in (stage.actions, *(option.actions for option in stage.options)):
            yield from (action for action in actions if action.type in GROWTHS)

    # Looking names up

    def find(self, region: str, prefix: str, reference: str) -> str | None:
        """The key of the stage that a reference means, seen from a region and a sub-graph."""
        named, colon, name = reference.rpartition(":")
        region, prefix = (named, "") if colon else (region, prefix)
        for outer in outwards(prefix):
            key = f"{region}:{outer}{name}"
            if key in self.stages:
                return key
            if key in self.alias:
                return self.find(region, *self.alias[key])
        return None

    def stage(self, region: str, prefix: str, reference: str) -> Stage:
        key = self.find(region, prefix, reference)
        assert key is not None, (region, prefix, reference)
        return self.stages[key]

    def full_name(self, kind: str, prefix: str, name: str) -> str:
        """The full name of a snapshot or a growth."""
        return next(outer + name for outer in outwards(prefix) if outer + name in self.names[kind])

    def held(self, stage: Stage) -> list[tuple[str, Any, str, bool]]:
        """A stage's activities: place, activity, the prefix where it is written, whether named."""
        found: list[tuple[str, Any, str, bool]] = []
        for index, item in enumerate(getattr(stage.spec, "during", ())):
            if not isinstance(item, str):
                found.append((f"{stage.key}.during[{index}]", item, stage.prefix, False))
                continue
            known = self.activities[stage.region]
            full = next(o + item for o in outwards(stage.prefix) if o + item in known)
            activity, prefix = known[full]
            found.append((f"{stage.region}:{full}", activity, prefix, True))
        if stage.kind == "settle":
            factor = LrFactor(type="lr_factor", factor=stage.spec.lr_factor)
            found.append((f"{stage.key}.lr_factor", factor, stage.prefix, False))
        return found

    def path(self, stage: Stage) -> tuple[list[Stage], Stage]:
        """The stages that a move passes through, and the one where it ends (S5)."""
        via = []
        while stage.kind == "grow":
            via.append(stage)
            stage = self.stage(stage.region, stage.prefix, stage.spec.next)
        return via, stage
