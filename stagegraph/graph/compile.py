"""From the document to what it means: names resolved, edges in the order of asking."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stagegraph.errors import did_you_mean
from stagegraph.graph.compiled import (
    BACK,
    STOP,
    CompiledGraph,
    CompiledRegion,
    CompiledStage,
    Edge,
    Fallback,
    HeldActivity,
    Option,
    PlacedAction,
)
from stagegraph.graph.problems import Problems
from stagegraph.graph.resolve import (
    Included,
    Names,
    Scope,
    collect,
    define_actions,
    include,
    stage_key,
)
from stagegraph.progress import Duration
from stagegraph.schema.actions import (
    Action,
    Attribute,
    Baseline,
    GrowthAction,
    Prune,
    RollBack,
    SaveAction,
    Send,
    SnapshotAction,
    TeacherAction,
)
from stagegraph.schema.activities import Activity, Distill, GrownCohort, LrFactor
from stagegraph.schema.base import Model
from stagegraph.schema.expressions import Best, Gain, Last, NameExpr, Nonfinite, Visits
from stagegraph.schema.guards import (
    Affordable,
    All,
    Any_,
    Completed,
    Done,
    EventSeen,
    Exhausted,
    Harmful,
    Improved,
    InStage,
    Not,
    Plateau,
    Recovered,
    Regressed,
    Unstable,
)
from stagegraph.schema.names import PROGRESS_NAMES
from stagegraph.schema.stagegraph import Region, StageGraph
from stagegraph.schema.stages import GrowthOption, Settle, Trial
from stagegraph.schema.templates.registry import REGION_TEMPLATES, TEMPLATES
from stagegraph.schema.templates.template import UseRegions
from stagegraph.schema.transitions import Interrupt, Transition

__all__ = ["compile_graph"]

PLATEAU_WINDOW = 8
"""The default window of a plateau, in declared ``every`` intervals (rule S8)."""


def compile_graph(graph: StageGraph) -> tuple[CompiledGraph, Problems]:
    """Resolve every name and put every edge in its order.

    What cannot be resolved becomes a problem and is left out, so that checks can go on.

    Args:
        graph: The document.

    Returns:
        The compiled graph and the names that could not be resolved.
    """
    problems = Problems()
    names: dict[str, Scope] = {}
    root = _root(graph)
    for name, region in graph.all_regions.items():
        pointer = f"{root}{name}" if root else ""
        names[name] = include(graph, name, region, pointer)
        names[name].interrupts[:0] = [
            (interrupt, "", f"{pointer}/interrupts/{index}")
            for index, interrupt in enumerate(region.interrupts)
        ]
    for scope in names.values():
        for use, pointer in scope.unknown:
            problems.add("unknown-graph", pointer, _no_graph(use, graph))
        for use, pointer in scope.loops:
            problems.add("endless-use", pointer, f"graph {use!r} is put into itself")
        for code, reference, prefix, pointer in scope.leads:
            if scope.stage(reference, prefix) is None:
                known = did_you_mean(reference, scope.stages)
                problems.add(code, pointer, f"there is no stage {reference!r}{known}")
    _define_interrupts(graph, names)
    regions = [
        _Compiler(graph, names, scope, problems).region(graph.all_regions[name], root, name)
        for name, scope in names.items()
    ]
    regions.sort(key=lambda region: (-region.priority, region.name))
    stages = {key: stage for region in regions for key, stage in region.stages.items()}
    _unplaced_interrupts(graph, names, problems)
    return CompiledGraph(graph=graph, regions=tuple(regions), stages=stages), problems


def _root(graph: StageGraph) -> str:
    """Before a region's name, its pointer; what a template makes is pointed at below its ``use``.

    See :func:`stagegraph.graph.places.split_pointer`.
    """
    if isinstance(graph.regions, UseRegions):
        return "/regions/use/regions/"
    return "" if graph.regions is None else "/regions/"


def _no_graph(name: str, graph: StageGraph) -> str:
    if name in REGION_TEMPLATES:
        return (
            f"{name!r} is a template that makes regions, not stages: write it at the root, "
            f"'regions: {{use: {name}, with: ...}}', or add {name!r} to 'graphs'"
        )
    if name in TEMPLATES:
        return f"{name!r} is a template: fill it in with 'with', or add {name!r} to 'graphs'"
    return f"there is no graph {name!r}{did_you_mean(name, graph.graphs)}"


def _define_interrupts(graph: StageGraph, names: Names) -> None:
    first = next(iter(names.values()))
    own = [i for region in graph.all_regions.values() for i in region.interrupts]
    for interrupt in (*graph.interrupts, *own):
        define_actions(first, interrupt.actions, "")


def _unplaced_interrupts(graph: StageGraph, names: Names, problems: Problems) -> None:
    """Interrupts at the root that fit no region."""
    for index, interrupt in enumerate(graph.interrupts):
        if not any(_fits(interrupt, scope, names) for scope in names.values()):
            problems.add(
                "unknown-target",
                f"/interrupts/{index}",
                f"interrupt {interrupt.name!r} fits no region: no region has both its target "
                f"{interrupt.target!r} and a stage of its 'within'",
            )


def _fits(interrupt: Interrupt, scope: Scope, names: Names) -> bool:
    """Whether a root interrupt belongs to a region: its target and 'within' lie there."""

    def here(reference: str) -> bool:
        key = stage_key(names, reference, scope.region, "")
        return key is not None and key.startswith(f"{scope.region}:")

    if len(names) == 1:
        return True
    within = interrupt.within is None or any(here(reference) for reference in interrupt.within)
    return within and (interrupt.target in (BACK, STOP) or here(interrupt.target))


class _Compiler:
    """The passes over one region; holds only what all of them need to look names up."""

    def __init__(self, graph: StageGraph, names: Names, scope: Scope, problems: Problems) -> None:
        self.graph = graph
        self.names = names
        self.scope = scope
        self.problems = problems

    def region(self, region: Region, root: str, name: str) -> CompiledRegion:
        interrupts = self._interrupts()
        stages: dict[str, CompiledStage] = {}
        for included in self.scope.stages.values():
            stage = self._stage(included, interrupts)
            stages[stage.key] = stage
        pointer = f"{root}{name}" if root else ""
        initial = self._stage_key(region.initial, "", f"{pointer}/initial", "unknown-initial")
        return CompiledRegion(name, region.priority, initial or "", stages, pointer)

    def _stage(self, included: Included, interrupts: list[Edge]) -> CompiledStage:
        spec, pointer, prefix = included.stage, included.pointer, included.prefix
        key = f"{self.scope.region}:{included.name}"
        during = [
            self._held(item, key, prefix, index, f"{pointer}/during/{index}")
            for index, item in enumerate(getattr(spec, "during", ()))
        ]
        if isinstance(spec, Settle):
            factor = LrFactor(type="lr_factor", factor=spec.lr_factor)
            during.append(
                HeldActivity(f"{key}.lr_factor", f"{pointer}/lr_factor", factor, named=False)
            )
        actions = self._actions(getattr(spec, "actions", ()), key, pointer, prefix)
        if isinstance(spec, Trial):
            self._metric(spec.metric, f"{pointer}/metric")
        own = [
            edge
            for index, transition in enumerate(getattr(spec, "transitions", ()))
            if (edge := self._transition(transition, key, included, index)) is not None
        ]
        following = [
            edge
            for field in ("next", "otherwise")
            if (edge := self._next(included, key, field)) is not None
        ]
        leaving = [edge for edge in interrupts if key in edge.within]
        return CompiledStage(
            key=key,
            region=self.scope.region,
            name=included.name,
            spec=spec,
            pointer=pointer,
            during=tuple(held for held in during if held is not None),
            actions=actions,
            ways=(*leaving, *own, *following),
            options=self._options(getattr(spec, "options", ()), key, pointer, prefix),
        )

    def _options(
        self, options: Iterable[GrowthOption], key: str, pointer: str, prefix: str
    ) -> tuple[Option, ...]:
        found = []
        for index, option in enumerate(options):
            place = f"{key}.{option.name}"
            here = f"{pointer}/options/{index}"
            actions = self._actions(option.actions, place, here, prefix)
            found.append(Option(option.name, place, actions))
        return tuple(found)

    # Edges

    def _next(self, included: Included, key: str, field: str) -> Edge | None:
        reference = getattr(included.stage, field, None)
        if reference is None:
            return None
        pointer = f"{included.pointer}/{field}"
        target = self._target(reference, included.prefix, pointer)
        if target is None:
            return None
        guard = Completed(type="completed")
        return Edge(f"{key}.{field}", "next", self.scope.region, key, pointer, guard, target)

    def _transition(
        self, transition: Transition, key: str, included: Included, index: int
    ) -> Edge | None:
        pointer = f"{included.pointer}/transitions/{index}"
        target = self._target(transition.target, included.prefix, f"{pointer}/target")
        guard, fallback, actions = self._way(
            transition, f"{key}.transitions[{index}]", pointer, included.prefix
        )
        if target is None:
            return None
        return Edge(
            f"{key}.transitions[{index}]",
            "transition",
            self.scope.region,
            key,
            pointer,
            guard,
            target,
            actions,
            transition.at_most,
            fallback,
        )

    def _interrupts(self) -> list[Edge]:
        """Those of the root that belong here, those of the region, those of sub-graphs."""
        region = self.scope.region
        written: list[tuple[Interrupt, str, str, str]] = [
            (interrupt, "", f"/interrupts/{index}", "root")
            for index, interrupt in enumerate(self.graph.interrupts)
            if _fits(interrupt, self.scope, self.names)
        ]
        written += [(i, prefix, pointer, region) for i, prefix, pointer in self.scope.interrupts]
        edges = []
        for interrupt, prefix, pointer, scope in written:
            edge_id = f"{region}:interrupts.{prefix}{interrupt.name}"
            target = self._target(interrupt.target, prefix, f"{pointer}/target")
            guard, fallback, actions = self._way(interrupt, edge_id, pointer, prefix)
            within = self._within(interrupt, prefix, pointer, at_root=scope == "root")
            if target is not None:
                edges.append(
                    Edge(
                        edge_id,
                        "interrupt",
                        region,
                        f"{region}:" if scope == "root" else f"{region}:{prefix}",
                        pointer,
                        guard,
                        target,
                        actions,
                        interrupt.at_most,
                        fallback,
                        within,
                    )
                )
        return edges

    def _within(
        self, interrupt: Interrupt, prefix: str, pointer: str, *, at_root: bool
    ) -> tuple[str, ...]:
        region = self.scope.region
        if interrupt.within is None:
            return tuple(
                f"{region}:{name}"
                for name, included in self.scope.stages.items()
                if name.startswith(prefix)
                and getattr(included.stage, "kind", "") not in ("final", "grow", "trial")
            )
        keys: list[str] = []
        for index, reference in enumerate(interrupt.within):
            key = stage_key(self.names, reference, region, prefix)
            if key is None and not (at_root and self._elsewhere(reference)):
                self._unknown_stage(reference, f"{pointer}/within/{index}", "unknown-stage")
            elif key is not None and key.startswith(f"{region}:"):
                keys.append(key)
        return tuple(keys)

    def _elsewhere(self, reference: str) -> bool:
        return any(stage_key(self.names, reference, name, "") for name in self.names)

    def _way(
        self, way: Transition | Interrupt, place: str, pointer: str, prefix: str
    ) -> tuple[Model | None, Fallback | None, tuple[PlacedAction, ...]]:
        guard = None if way.when is None else self._guard(way.when, f"{pointer}/when", prefix)
        actions = self._actions(way.actions, place, pointer, prefix)
        fallback = None
        if way.on_error is not None:
            then = self._target(way.on_error.then, prefix, f"{pointer}/on_error/then")
            fallback = Fallback(way.on_error.retry, then) if then else None
        return guard, fallback, actions

    # Activities and actions

    def _held(
        self, item: Any, key: str, prefix: str, index: int, pointer: str
    ) -> HeldActivity | None:
        if not isinstance(item, str):
            activity = self._activity(item, pointer, prefix)
            return HeldActivity(f"{key}.during[{index}]", pointer, activity, named=False)
        full = self.scope.look_up(item, prefix, self.scope.activities)
        if full is None:
            known = did_you_mean(item, self.scope.activities)
            self.problems.add("unknown-activity", pointer, f"there is no activity {item!r}{known}")
            return None
        self.problems.use("activities", full)
        spec, where = self.scope.activities[full]
        inner = full.rpartition(".")[0]
        activity = self._activity(spec, where, f"{inner}." if inner else "")
        return HeldActivity(f"{self.scope.region}:{full}", pointer, activity, named=True)

    def _activity(self, activity: Activity, pointer: str, prefix: str) -> Activity:
        if isinstance(activity, Distill):
            teachers = tuple(
                one.model_copy(update={"name": self._teacher(one.name, pointer, prefix)})
                for one in activity.weighted
            )
            return activity.model_copy(update={"teachers": teachers})
        selections = {"of": activity.selection, "but": activity.excepted}
        resolved = {
            key: tuple(self._cohort(part, f"{pointer}/{key}", prefix) for part in parts)
            for key, parts in selections.items()
            if parts
        }
        return activity.model_copy(update=resolved) if resolved else activity

    def _cohort(self, part: Any, pointer: str, prefix: str) -> Any:
        if not isinstance(part, GrownCohort):
            return part
        known = collect(self.names, lambda scope: scope.cohorts)
        full = self.scope.look_up(part.grown, prefix, known)
        if full is None:
            self.problems.add(
                "unknown-cohort",
                pointer,
                f"no growth is named {part.grown!r}{did_you_mean(part.grown, known)}",
            )
            return part
        return part.model_copy(update={"grown": full})

    def _actions(
        self, actions: Iterable[Action], place: str, pointer: str, prefix: str
    ) -> tuple[PlacedAction, ...]:
        placed = []
        for index, action in enumerate(actions):
            here = f"{pointer}/actions/{index}"
            placed.append(
                PlacedAction(f"{place}.actions[{index}]", here, self._action(action, here, prefix))
            )
        return tuple(placed)

    def _action(self, action: Action, pointer: str, prefix: str) -> Action:
        match action:
            case SnapshotAction() | TeacherAction() | Baseline() | SaveAction():
                return action.model_copy(update={"name": prefix + action.name})
            case RollBack():
                to = self._snapshot(action.to, f"{pointer}/to", prefix)
                update: dict[str, Any] = {"to": to}
                if action.exclude is not None:
                    place = f"{pointer}/exclude"
                    key = self._stage_key(action.exclude, prefix, place, "unknown-stage")
                    update |= {} if key is None else {"exclude": key}
                return action.model_copy(update=update)
            case GrowthAction() if action.name is not None:
                return action.model_copy(update={"name": prefix + action.name})
            case Send():
                self._event(action.event, f"{pointer}/event")
            case Attribute() | Prune():
                if action.metric is not None:
                    self._metric(action.metric, f"{pointer}/metric")
                of = tuple(self._cohort(part, pointer, prefix) for part in action.of)
                return action.model_copy(update={"of": of})
        return action

    # Guards

    def _guard(self, guard: Model, pointer: str, prefix: str) -> Model:
        match guard:
            case All() | Any_():
                parts = tuple(self._guard(part, pointer, prefix) for part in guard.of)
                return guard.model_copy(update={"of": parts})
            case Not():
                return guard.model_copy(update={"of": self._guard(guard.of, pointer, prefix)})
            case Plateau():
                return self._plateau(guard, pointer)
            case Regressed() | Recovered() | Improved() | Unstable():
                self._metric(guard.metric, pointer)
                since = self._reference(guard.since, pointer, prefix)
                return guard.model_copy(update={"since": since})
            case Harmful():
                self._metric(guard.metric, pointer)
                return guard
            case InStage() | Affordable() | Exhausted():
                placed: Model = self._with_stage(guard, pointer, prefix)
                return placed
            case Done():
                if guard.region not in self.names:
                    known = did_you_mean(guard.region, self.names)
                    message = f"there is no region {guard.region!r}{known}"
                    self.problems.add("unknown-region", pointer, message)
            case EventSeen():
                self._event(guard.event, pointer)
                self.problems.use("heard", guard.event)
        compared: Model = self._expressions(guard, pointer, prefix)
        return compared

    def _expressions(self, node: Any, pointer: str, prefix: str) -> Any:
        """A comparison, or a number in it, with its names resolved."""
        match node:
            case NameExpr():
                if node.name not in PROGRESS_NAMES:
                    self._metric(node.name, pointer)
            case Last() | Best() | Nonfinite() | Gain():
                self._metric(node.metric, pointer)
            case Visits():
                return self._with_stage(node, pointer, prefix)
            case Model():
                update: dict[str, Any] = {
                    field: self._expressions(getattr(node, field), pointer, prefix)
                    for field in ("left", "right", "of")
                    if field in type(node).model_fields
                }
                return node.model_copy(update=update) if update else node
        return node

    def _plateau(self, guard: Plateau, pointer: str) -> Plateau:
        self._metric(guard.metric, pointer)
        metric = self.graph.metrics.get(guard.metric)
        if guard.worth is None or guard.over is not None or metric is None:
            return guard
        if metric.every is None:
            self.problems.add(
                "plateau-without-window",
                pointer,
                f"plateau({guard.metric}) has no 'over', and {guard.metric!r} no 'every' to take "
                "a window from",
            )
            return guard
        over = Duration(metric.every.amount * PLATEAU_WINDOW, metric.every.unit)
        return guard.model_copy(update={"over": over})

    def _with_stage(self, node: Any, pointer: str, prefix: str) -> Any:
        key = self._stage_key(node.stage, prefix, pointer, "unknown-stage")
        return node if key is None else node.model_copy(update={"stage": key})

    # Names

    def _target(self, reference: str, prefix: str, pointer: str) -> str | None:
        if reference in (BACK, STOP):
            return reference
        key = self._stage_key(reference, prefix, pointer, "unknown-target")
        if key is not None and not key.startswith(f"{self.scope.region}:"):
            self.problems.add(
                "foreign-target",
                pointer,
                f"{reference!r} lies in another region; a region moves between its own stages",
            )
            return None
        return key

    def _stage_key(self, reference: str, prefix: str, pointer: str, code: str) -> str | None:
        key = stage_key(self.names, reference, self.scope.region, prefix)
        if key is None and not self.scope.dangles(reference, prefix):
            self._unknown_stage(reference, pointer, code)
        return key

    def _unknown_stage(self, reference: str, pointer: str, code: str) -> None:
        known = set(self.scope.stages)
        for name, scope in self.names.items():
            if name != self.scope.region:
                known |= {f"{name}:{stage}" for stage in scope.stages}
        self.problems.add(
            code, pointer, f"there is no stage {reference!r}{did_you_mean(reference, known)}"
        )

    def _metric(self, name: str, pointer: str) -> None:
        self.problems.use("metrics", name)
        if name not in self.graph.metrics:
            known = did_you_mean(name, [*self.graph.metrics, *PROGRESS_NAMES])
            self.problems.add(
                "undeclared-metric", pointer, f"{name!r} is not declared in 'metrics'{known}"
            )

    def _event(self, name: str, pointer: str) -> None:
        self.problems.use("events", name)
        if name not in self.graph.events:
            known = did_you_mean(name, self.graph.events)
            self.problems.add(
                "undeclared-event", pointer, f"{name!r} is not declared in 'events'{known}"
            )

    def _reference(self, name: str, pointer: str, prefix: str) -> str:
        """The full name of the snapshot or baseline that a guard compares with."""
        known = collect(self.names, lambda scope: scope.baselines)
        full = self.scope.look_up(name, prefix, known)
        if full is None:
            return self._snapshot(name, pointer, prefix)
        self.problems.use("baselines", full)
        return full

    def _snapshot(self, name: str, pointer: str, prefix: str) -> str:
        known = collect(self.names, lambda scope: scope.snapshots)
        full = self.scope.look_up(name, prefix, known)
        if full is None:
            message = f"no action takes a snapshot {name!r}{did_you_mean(name, known)}"
            baselines = collect(self.names, lambda scope: scope.baselines)
            if self.scope.look_up(name, prefix, baselines) is not None:
                message = f"{name!r} is a baseline, which keeps metrics and no model"
            self.problems.add("unknown-snapshot", pointer, message)
            return name
        self.problems.use("snapshots", full)
        return full

    def _teacher(self, name: str, pointer: str, prefix: str) -> str:
        known = collect(self.names, lambda scope: scope.teachers)
        full = self.scope.look_up(name, prefix, known)
        if full is None:
            message = f"no action makes a teacher {name!r}{did_you_mean(name, known)}"
            self.problems.add("unknown-teacher", f"{pointer}/teachers", message)
            return name
        self.problems.use("teachers", full)
        return full
