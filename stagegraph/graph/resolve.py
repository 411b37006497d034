"""Names of one region, resolved from the inside out.

A sub-graph that is put in by ``use`` is included: its stages are copied under the using stage's
name, and its names are looked up in it first, then in what is around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stagegraph.schema.actions import Baseline, GrowthAction, SnapshotAction, TeacherAction
from stagegraph.schema.activities import Activity
from stagegraph.schema.expansion import put_in
from stagegraph.schema.names import split_reference
from stagegraph.schema.stagegraph import Region, StageGraph, SubGraph
from stagegraph.schema.stages import Final, Stage, Use
from stagegraph.schema.templates.template import UseTemplate
from stagegraph.schema.transitions import Interrupt

__all__ = ["Included", "Names", "Scope", "collect", "define_actions", "include", "stage_key"]

MAX_NESTING = 16


@dataclass(frozen=True, slots=True)
class Included:
    """One stage at its place in a region.

    Attributes:
        name: Its name in the region, prefixes included.
        prefix: ``""``, or ``"c1."`` inside the sub-graph put in as ``c1``.
        pointer: JSON pointer to where it is written.
        stage: What is written there.
    """

    name: str
    prefix: str
    pointer: str
    stage: Stage


@dataclass(slots=True)
class Scope:
    """All names of one region.

    Attributes:
        region: The region's name.
        stages: Stages by name; finals of sub-graphs and ``use`` stages are only aliases.
        aliases: Names that lead elsewhere: ``c1`` to its initial, ``c1.done`` to ``next``.
        activities: Named activities by prefixed name, with their pointers.
        interrupts: Interrupts of included sub-graphs, with prefix and pointer.
        snapshots: Prefixed names of snapshots taken anywhere.
        baselines: Prefixed names of baselines taken anywhere.
        teachers: Prefixed names of teachers made anywhere.
        cohorts: Prefixed names of cohorts.
        loops: Names of sub-graphs that include themselves, with pointers.
        unknown: ``use`` of entries that do not exist: (name, pointer).
        leads: What uses lead to, at their beginning and their end, with the finding's code if it is
            not there: (code, reference, prefix, pointer).
    """

    region: str
    stages: dict[str, Included] = field(default_factory=dict)
    aliases: dict[str, tuple[str, str]] = field(default_factory=dict)
    activities: dict[str, tuple[Activity, str]] = field(default_factory=dict)
    interrupts: list[tuple[Interrupt, str, str]] = field(default_factory=list)
    snapshots: set[str] = field(default_factory=set)
    baselines: set[str] = field(default_factory=set)
    teachers: set[str] = field(default_factory=set)
    cohorts: set[str] = field(default_factory=set)
    loops: list[tuple[str, str]] = field(default_factory=list)
    unknown: list[tuple[str, str]] = field(default_factory=list)
    leads: list[tuple[str, str, str, str]] = field(default_factory=list)

    def stage(self, name: str, prefix: str) -> str | None:
        """The full name of a stage, seen from inside ``prefix``; ``None`` if there is none."""
        for outer in _outwards(prefix):
            found = self._follow(outer + name)
            if found is not None:
                return found
        return None

    def dangles(self, name: str, prefix: str) -> bool:
        """Whether a name is that of an end, or of a ``use``, that itself leads to no stage."""
        found = self.stage(name, prefix) is not None
        return not found and any(outer + name in self.aliases for outer in _outwards(prefix))

    def _follow(self, name: str) -> str | None:
        for _ in range(MAX_NESTING * 4):
            if name in self.stages:
                return name
            if name not in self.aliases:
                return None
            target, prefix = self.aliases[name]
            for outer in _outwards(prefix):
                if outer + target in self.stages or outer + target in self.aliases:
                    name = outer + target
                    break
            else:
                return None
        return None

    def look_up(self, name: str, prefix: str, known: Mapping[str, object] | set[str]) -> str | None:
        """The full name of an activity, snapshot or the like, seen from inside ``prefix``."""
        return next((outer + name for outer in _outwards(prefix) if outer + name in known), None)


Names = Mapping[str, Scope]
"""The scopes of all regions."""


def _outwards(prefix: str) -> list[str]:
    """``"a.b."`` as ``["a.b.", "a.", ""]``."""
    parts = prefix.split(".")[:-1]
    return ["".join(part + "." for part in parts[:n]) for n in range(len(parts), -1, -1)]


def include(graph: StageGraph, name: str, region: Region, pointer: str) -> Scope:
    """All stages of a region, sub-graphs put in, with the names they define."""
    scope = Scope(region=name)
    for activity, spec in graph.activities.items():
        scope.activities[activity] = (spec, f"/activities/{activity}")
    _include_stages(graph, scope, region.stages, "", f"{pointer}/stages", ())
    return scope


def _include_stages(
    graph: StageGraph,
    scope: Scope,
    stages: Mapping[str, Stage],
    prefix: str,
    pointer: str,
    inside: tuple[str, ...],
    leads_to: tuple[str, str] | None = None,
) -> None:
    for name, stage in stages.items():
        full, here = prefix + name, f"{pointer}/{name}"
        if isinstance(stage, Use | UseTemplate):
            _include_use(graph, scope, stage, full, here, inside, prefix)
        elif leads_to is not None and isinstance(stage, Final):
            scope.aliases[full] = leads_to
        else:
            scope.stages[full] = Included(full, prefix, here, stage)
            _define(scope, stage, prefix)


def _include_use(
    graph: StageGraph,
    scope: Scope,
    use: Use | UseTemplate,
    full: str,
    pointer: str,
    inside: tuple[str, ...],
    outer: str,
) -> None:
    found = _put_in(graph, scope, use, pointer, inside)
    if found is None:
        return
    sub, place = found
    prefix = f"{full}."
    _include_names(scope, sub, prefix, place)
    scope.aliases[full] = (sub.initial, prefix)
    scope.leads.append(("unknown-initial", sub.initial, prefix, f"{place}/initial"))
    if use.next is not None and any(isinstance(stage, Final) for stage in sub.stages.values()):
        scope.leads.append(("unknown-target", use.next, outer, f"{pointer}/next"))
    _include_stages(
        graph,
        scope,
        sub.stages,
        prefix,
        f"{place}/stages",
        (*inside, use.use) if isinstance(use, Use) else inside,
        leads_to=None if use.next is None else (use.next, outer),
    )


def _put_in(
    graph: StageGraph,
    scope: Scope,
    use: Use | UseTemplate,
    pointer: str,
    inside: tuple[str, ...],
) -> tuple[SubGraph, str] | None:
    """What a ``use`` puts in, and the pointer to where that is written.

    The stages of a template are written nowhere; they are pointed at below the ``use``, which is a
    text and has nothing below it (:func:`stagegraph.graph.places.split_pointer`).
    """
    if isinstance(use, UseTemplate):
        return put_in(use.with_), f"{pointer}/use"
    sub = graph.graphs.get(use.use)
    if sub is None:
        scope.unknown.append((use.use, f"{pointer}/use"))
    elif use.use in inside or len(inside) >= MAX_NESTING:
        scope.loops.append((use.use, f"{pointer}/use"))
    else:
        return sub, f"/graphs/{use.use}"
    return None


def _include_names(scope: Scope, sub: SubGraph, prefix: str, place: str) -> None:
    for name, activity in sub.activities.items():
        scope.activities[prefix + name] = (activity, f"{place}/activities/{name}")
    for index, interrupt in enumerate(sub.interrupts):
        scope.interrupts.append((interrupt, prefix, f"{place}/interrupts/{index}"))
        define_actions(scope, interrupt.actions, prefix)


def _define(scope: Scope, stage: Stage, prefix: str) -> None:
    define_actions(scope, getattr(stage, "actions", ()), prefix)
    for transition in getattr(stage, "transitions", ()):
        define_actions(scope, transition.actions, prefix)
    for option in getattr(stage, "options", ()):
        define_actions(scope, option.actions, prefix)


def define_actions(scope: Scope, actions: tuple[object, ...], prefix: str) -> None:
    """Note the names of snapshots, baselines, teachers and cohorts that actions define."""
    for action in actions:
        if isinstance(action, SnapshotAction):
            scope.snapshots.add(prefix + action.name)
        elif isinstance(action, Baseline):
            scope.baselines.add(prefix + action.name)
        elif isinstance(action, TeacherAction):
            scope.teachers.add(prefix + action.name)
        elif isinstance(action, GrowthAction) and action.name is not None:
            scope.cohorts.add(prefix + action.name)


def collect(names: Names, of: Callable[[Scope], set[str]]) -> set[str]:
    """One kind of name over all regions."""
    return set().union(*(of(scope) for scope in names.values())) if names else set()


def stage_key(names: Names, reference: str, region: str, prefix: str) -> str | None:
    """The key of a referenced stage, or ``None``; without a region the asking one is meant."""
    named, name = split_reference(reference)
    scope = names.get(named or region)
    if scope is None:
        return None
    found = scope.stage(name, prefix if named is None else "")
    return None if found is None else f"{scope.region}:{found}"
