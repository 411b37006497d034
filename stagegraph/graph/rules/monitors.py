"""Monitors: what asks after a growth whether that made things worse, and what it does not see."""

from __future__ import annotations

from collections.abc import Iterator

from stagegraph.graph.compiled import CompiledStage, Edge, PlacedAction
from stagegraph.graph.rules.context import Context, leaves
from stagegraph.graph.rules.registry import Found, rule
from stagegraph.graph.structure import RegionView, leaving, rolls_back
from stagegraph.schema.actions import AddHead, Baseline, SnapshotAction
from stagegraph.schema.guards import Harmful
from stagegraph.schema.since_guards import Since

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


def _adds_heads_alone(stage: CompiledStage) -> bool:
    return all(isinstance(growth, AddHead) for growth in stage.possible_growths)


def _monitored(context: Context, growth: CompiledStage) -> bool:
    """Whether something that is asked after a growth compares with what was before it."""
    if growth.kind == "trial" and getattr(growth.spec, "worth", None) is not None:
        return True
    own = context.views[growth.region]
    if any(_asks_for_harm(context, own, key) for key in own.from_stage(growth.key)):
        return True
    names = {
        fact.partition(":")[2]
        for fact in context.history[growth.region][growth.key].sometimes
        if fact.startswith(("snapshot:", "baseline:"))
    }
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
        # In which order regions come to theirs cannot be told: what may be from before, is.
        known = names if region in context.growing else names | _taken_in(view)
        if any(_asks(context, view, key, name) for name in known for key in view.region.stages):
            return True
        if region not in context.growing and any(
            _asks(context, own, key, name)
            for name in _taken_in(view)
            for key in own.from_stage(growth.key)
        ):
            return True
    return False


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
