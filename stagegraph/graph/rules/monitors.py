"""Monitors: what asks after a growth whether that made things worse, and what it does not see."""

from __future__ import annotations

from collections.abc import Iterator

from stagegraph.graph.compiled import CompiledStage, Edge, PlacedAction
from stagegraph.graph.rules.context import Context, leaves
from stagegraph.graph.rules.registry import Found, rule
from stagegraph.graph.structure import RegionView, leaving, rolls_back
from stagegraph.schema.actions import AddHead, Baseline, SnapshotAction
from stagegraph.schema.base import Model
from stagegraph.schema.expressions import Nonfinite
from stagegraph.schema.guards import Harmful, Not
from stagegraph.schema.since_guards import Recovered, Regressed, Since, Unstable

__all__: list[str] = []


@rule("no-monitor", "warning")
def no_monitor(context: Context) -> Iterator[Found]:
    """A growth after which nothing asks whether it made the model worse.

    A growth can hurt, and nobody watches at night. A guard with `regressed(…)`, `recovered(…)`,
    `improved(…)` or `unstable(…)` since a snapshot or baseline from before the growth notices, and
    so does `harmful(…)`; a `roll_back`, a `prune` or a longer settling answers. It must stand on a
    way out of a stage that comes after that growth. One that is only taken after it compares with
    what is spoiled already. A trial with `worth` compares with no growth by itself; a growth that
    adds nothing but a head has no metric of before to be compared, and is left out where another
    growth is monitored.

    Example: a `grow` stage, then `regressed(…)` since a baseline that `consolidate` takes.
    """
    growths = [
        stage
        for stages in context.growing.values()
        for stage in stages
        if stage.possible_growths and stage.key in context.views[stage.region].reached
    ]
    asked = any(
        isinstance(node, Since | Harmful)
        for edge, _ in context.guarded
        for node in leaves(edge.guard)
    )
    if not growths and not asked:  # nothing but pruning
        growths = [stages[0] for stages in context.growing.values()][:1]
    elif asked:
        growths = [stage for stage in growths if not _adds_heads_alone(stage)]
    for stage in growths:
        if not _monitored(context, stage):
            yield Found(
                f"{context.name(stage.key)} changes the model, but no guard after it asks whether "
                "a metric has regressed since before it",
                "take a snapshot before the growth, and add an interrupt with "
                "regressed(metric, by=5%, since=snapshot)",
                stage.pointer,
            )


@rule("nonfinite-unanswered", "warning")
def nonfinite_unanswered(context: Context) -> Iterator[Found]:
    """A growth that may make its metric NaN or infinite, where nothing would answer that.

    `regressed`, `unstable` and `not recovered` compare numbers. Of a value that is not finite they
    cannot tell, `not` makes nothing known of it, and what was to undo the growth waits to the end
    of the run. `nonfinite(…)` counts such values; `nonfinite: error` at the metric stops the run.

    Example: an interrupt on `regressed(val_loss, by=5%, since=before)` alone.
    """
    known: dict[tuple[str, str], Found] = {}
    for stages in context.growing.values():
        for stage in stages:
            if not stage.possible_growths or stage.key not in context.views[stage.region].reached:
                continue
            answers = list(_answers(context, stage))
            if any(good for _, _, good in answers) or _counts_nonfinite(context, stage):
                continue
            for edge, node, _ in answers:
                metric = context.graph.metrics.get(node.metric)
                if metric is None or metric.nonfinite == "error":
                    continue
                found = Found(
                    f"{context.way(edge)} answers for {context.name(stage.key)} only where "
                    f"{node.metric!r} is finite: if that becomes NaN or infinite, nothing does",
                    f"write 'or nonfinite({node.metric}) >= 1' beside it",
                    f"{edge.pointer}/when",
                )
                known.setdefault((edge.id, node.metric), found)
    yield from known.values()


def _answers(
    context: Context, growth: CompiledStage
) -> Iterator[tuple[Edge, Regressed | Recovered | Unstable, bool]]:
    """The comparisons after a growth with what was before, and whether each asks for good news.

    Where the good news is asked for, what is not known to be good is left for another way out.
    """
    own, names = context.views[growth.region], _remembered(context, growth)
    places = [(own, key, {name}) for name in names for key in _still(own, growth, name)]
    for region, view in context.views.items():
        if region != growth.region:
            known = _known_elsewhere(context, region, names)
            places += [(view, key, known) for key in view.region.stages]
    for view, key, known in places:
        for edge in _open(context, view, key):
            for node, positive in _signed(edge.guard):
                # 'improved' stops growing that no longer helps; it answers for no harm
                if isinstance(node, Regressed | Recovered | Unstable) and node.since in known:
                    yield edge, node, positive is isinstance(node, Recovered)


def _signed(guard: Model | None, *, positive: bool = True) -> Iterator[tuple[Model, bool]]:
    """The conditions of a guard, and whether they must hold or must not."""
    if guard is None:
        return
    yield guard, positive
    inner = getattr(guard, "of", None)
    for part in inner if isinstance(inner, tuple) else (inner,):
        if isinstance(part, Model):
            yield from _signed(part, positive=positive is not isinstance(guard, Not))


def _counts_nonfinite(context: Context, growth: CompiledStage) -> bool:
    """Whether something counts values that are not finite after a growth, or at the same time."""
    for region, view in context.views.items():
        own = region == growth.region
        for key in view.from_stage(growth.key) if own else view.region.stages:
            edges = _open(context, view, key)
            if any(isinstance(node, Nonfinite) for e in edges for node in leaves(e.guard)):
                return True
    return False


def _adds_heads_alone(stage: CompiledStage) -> bool:
    return all(isinstance(growth, AddHead) for growth in stage.possible_growths)


def _monitored(context: Context, growth: CompiledStage) -> bool:
    """Whether something that is asked after a growth compares with what was before it."""
    if growth.kind == "trial" and getattr(growth.spec, "worth", None) is not None:
        return True
    own = context.views[growth.region]
    if any(_asks_for_harm(context, own, key) for key in own.from_stage(growth.key)):
        return True
    names = _remembered(context, growth)
    for name in names:
        if any(_asks(context, own, key, name) for key in _still(own, growth, name)):
            return True
    return _monitored_elsewhere(context, growth, names)


def _monitored_elsewhere(context: Context, growth: CompiledStage, names: set[str]) -> bool:
    """Whether another region asks, or one that does not grow takes what this one asks about."""
    own = context.views[growth.region]
    for region, view in context.views.items():
        if region == growth.region:
            continue
        known = _known_elsewhere(context, region, names)
        if any(_asks(context, view, key, name) for name in known for key in view.region.stages):
            return True
        if region not in context.growing and any(
            _asks(context, own, key, name)
            for name in _taken_in(view)
            for key in own.from_stage(growth.key)
        ):
            return True
    return False


def _known_elsewhere(context: Context, region: str, names: set[str]) -> set[str]:
    """What another region may compare with that was before a growth which remembers these names.

    In which order regions come to theirs cannot be told: what may be from before, is.
    """
    return names if region in context.growing else names | _taken_in(context.views[region])


def _remembered(context: Context, growth: CompiledStage) -> set[str]:
    """The snapshots and baselines of its region that were taken before a growth, or at it."""
    facts = context.history[growth.region].get(growth.key)
    if facts is None:  # nothing leads there
        return set()
    return {
        fact.partition(":")[2]
        for fact in facts.sometimes
        if fact.startswith(("snapshot:", "baseline:"))
    }


def _still(view: RegionView, growth: CompiledStage, name: str) -> frozenset[str]:
    """The stages after a growth in which a name still means what was taken before it."""
    seen, todo = {growth.key}, [growth.key]
    while todo:
        here = todo.pop()
        for move in view.live_moves:
            target = view.region.stages.get(move.target)
            if move.source != here or target is None or target.key in seen:
                continue
            way = move.how == "way"
            undone = way and rolls_back(move.edge) is not None
            anew = (way and _takes(move.edge.actions, name)) or (
                move.how != "back" and _takes(target.actions, name)
            )
            if not (undone or anew):
                seen.add(target.key)
                todo.append(target.key)
    return frozenset(seen)


def _takes(actions: tuple[PlacedAction, ...], name: str) -> bool:
    return name in _taken(actions)


def _taken(actions: tuple[PlacedAction, ...]) -> set[str]:
    return {
        placed.action.name
        for placed in actions
        if isinstance(placed.action, SnapshotAction | Baseline)
    }


def _taken_in(view: RegionView) -> set[str]:
    """What a region takes anywhere."""
    found: set[str] = set()
    for stage in view.region.stages.values():
        found |= _taken(stage.actions)
        for edge in leaving(stage):
            found |= _taken(edge.actions)
    return found


def _asks(context: Context, view: RegionView, key: str, since: str) -> bool:
    """Whether a guard on a way out of a stage compares with what was taken under a name."""
    return any(
        isinstance(node, Since) and node.since == since
        for edge in _open(context, view, key)
        for node in leaves(edge.guard)
    )


def _asks_for_harm(context: Context, view: RegionView, key: str) -> bool:
    edges = _open(context, view, key)
    return any(isinstance(node, Harmful) for edge in edges for node in leaves(edge.guard))


def _open(context: Context, view: RegionView, key: str) -> Iterator[Edge]:
    stage = view.region.stages.get(key)
    for edge in () if stage is None else leaving(stage):
        if (key, edge.id) not in context.dead:
            yield edge
