"""Ways back: rollbacks that can help, snapshots behind them, and `back`."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType

from stagegraph.graph.compiled import BACK, CompiledStage, Edge
from stagegraph.graph.history import INTERRUPTED, Past
from stagegraph.graph.rules.context import Context, leaves
from stagegraph.graph.rules.registry import Found, rule
from stagegraph.graph.structure import RegionView, rolls_back
from stagegraph.graph.truth import Case, Condition
from stagegraph.schema.actions import Baseline, RollBack, SnapshotAction
from stagegraph.schema.since_guards import Regressed, Since

__all__: list[str] = []

_WORDS = {
    "regressed": "regressed",
    "recovered": "recovered",
    "improved": "improved",
    "unstable": "become unstable",
}


@rule("rollback-repeats", "error", needs_names=False)
def rollback_repeats(context: Context) -> Iterator[Found]:
    """A rollback after which everything is as before.

    A rollback restores weights, data and random numbers. If nothing differs the second time,
    it fails in the same way again, and again.

    Example: `{type: roll_back, to: before}` and nothing more.
    """
    for placed, _, _ in context.actions():
        action = placed.action
        if not isinstance(action, RollBack):
            continue
        same = action.data == "rewind" and action.rng == "restore" and action.lr_factor is None
        if same and action.exclude is None:
            yield Found(
                f"the rollback to {action.to!r} names nothing that will differ this time",
                "add 'rng: fork', 'data: skip', an 'lr_factor', or 'exclude' an option",
                placed.pointer,
            )


@rule("rollback-without-limit", "error", needs_names=False)
def rollback_without_limit(context: Context) -> Iterator[Found]:
    """A rollback without `at_most`.

    A rollback takes the clock back, so a run that keeps failing would never end by itself.

    Example: an interrupt with a `roll_back` and no `at_most: 2`.
    """
    for placed, edge, _ in context.actions():
        if isinstance(placed.action, RollBack) and edge is not None and edge.at_most is None:
            yield Found(
                f"{context.way(edge)} rolls back to {placed.action.to!r} as often as it likes",
                "add 'at_most', such as at_most: 2",
                edge.pointer,
            )


@rule("rollback-on-one-value", "note", needs_names=False)
def rollback_on_one_value(context: Context) -> Iterator[Found]:
    """A rollback that a single value can bring about.

    Metrics have outliers. `regressed` without `lasting` is true of one bad value, and the model
    goes back for it. With `lasting` two in a row are wanted, so long apart; `unstable` looks at the
    median of a window, which one value does not move.

    Example: `regressed(val_loss, by=5%, since=before)` on a way with a `roll_back`.
    """
    for edge, _ in context.guarded:
        for node in leaves(edge.guard) if rolls_back(edge) is not None else ():
            if isinstance(node, Regressed) and node.lasting is None:
                yield Found(
                    f"{context.way(edge)} rolls back for one bad value of {node.metric!r}",
                    "add 'lasting', several evaluations long, or ask unstable(…)",
                    f"{edge.pointer}/when",
                )


@rule("rollback-in-stage", "error", needs_names=False)
def rollback_in_stage(context: Context) -> Iterator[Found]:
    """A rollback among the actions of a stage.

    A rollback moves the whole run and then enters a target, so it belongs on the way there;
    at the entry of a stage there is no target to enter, and no guard.

    Example: `retry: {kind: train, actions: [{type: roll_back, …}]}`.
    """
    for placed, _, stage in context.actions():
        if isinstance(placed.action, RollBack) and stage is not None:
            yield Found(
                f"{context.name(stage.key)} rolls back to {placed.action.to!r} at its entry",
                "move the rollback to the actions of a transition or an interrupt",
                placed.pointer,
            )


@rule("rollback-without-snapshot", "error")
def rollback_without_snapshot(context: Context) -> Iterator[Found]:
    """A rollback with no snapshot behind it.

    The snapshot must have been taken on every path to the stages that the rollback leaves. A
    guard that asks `regressed(…, since=…)` of the same snapshot is enough: it is unknown before.

    Example: an interrupt that may leave the first stage, with a snapshot taken in the second.
    """
    for edge, stages in context.guarded:
        action = rolls_back(edge)
        if action is None or not _takers(context, action.to):
            continue
        fact = f"snapshot:{action.to}"
        elsewhere = _taken_elsewhere(context, action.to, edge.region)
        for stage in stages:
            past = context.history[edge.region].get(stage.key, Past(frozenset({fact})))
            proven = fact in past.always or _implied(context, edge, stage, action.to)
            possible = fact in past.sometimes or elsewhere
            if fact in past.always or (proven and possible):
                continue
            path = "there is a path" if possible else "every path is one"
            yield Found(
                f"{context.way(edge)} rolls back to {action.to!r}, but {path} to "
                f"{context.name(stage.key)} on which it is not taken",
                f"take the snapshot before, or ask regressed(…, since={action.to}), or leave the "
                "stage out of 'within'",
                edge.pointer,
            )
            break


def _takers(
    context: Context,
    name: str,
    kinds: type[SnapshotAction] | UnionType = SnapshotAction,
) -> set[str]:
    """The regions in which a snapshot, or whatever else is asked for, is taken."""
    found: set[str] = set()
    for placed, edge, stage in context.actions():
        if isinstance(placed.action, kinds) and placed.action.name == name:
            found.add(edge.region if edge is not None else stage.region if stage else "")
    return found


def _taken_elsewhere(context: Context, name: str, region: str) -> bool:
    return bool(_takers(context, name, SnapshotAction | Baseline) - {region})


def _implied(context: Context, edge: Edge, stage: CompiledStage, name: str) -> bool:
    cases = context.truth.cases(edge, stage)
    return cases is not None and all(_asks_since(case, name) for case in cases)


def _asks_since(case: Case, name: str) -> bool:
    return any(
        isinstance(part, Condition) and isinstance(part.node, Since) and part.node.since == name
        for part in case
    )


@rule("regressed-without-snapshot", "error")
def regressed_without_snapshot(context: Context) -> Iterator[Found]:
    """`regressed` and the like since a snapshot or baseline that no path takes.

    Without it there is nothing to compare with: the guard is unknown for ever.

    Example: `regressed(val_loss, by=5%, since=before)` in a stage before the snapshot.
    """
    for edge, stages in context.guarded:
        for node in leaves(edge.guard):
            if not isinstance(node, Since) or not _takers(
                context, node.since, SnapshotAction | Baseline
            ):
                continue
            facts = {f"snapshot:{node.since}", f"baseline:{node.since}"}
            pasts = [context.history[edge.region].get(stage.key) for stage in stages]
            known = [past for past in pasts if past is not None]
            if _taken_elsewhere(context, node.since, edge.region) or not known:
                continue
            if not any(facts & past.sometimes for past in known):
                yield Found(
                    f"{context.way(edge)} asks whether {node.metric!r} has {_WORDS[node.type]} "
                    f"since {node.since!r}, but on no path there is that snapshot taken",
                    "take the snapshot or baseline before, or ask in a later stage",
                    f"{edge.pointer}/when",
                )


@rule("reference-before-any-value", "warning")
def reference_before_any_value(context: Context) -> Iterator[Found]:
    """`regressed` and the like since a snapshot or baseline of the very beginning.

    At boundary 0 no metric has a value yet. What is taken there alone is never anything to compare
    with: the guard is unknown for ever.

    Example: `initial: train` where `train`, which nothing leads back to, takes the only `before`.
    """
    begun = {
        key
        for view in context.views.values()
        for key in _entered_at_once(context, view)
        if all(move.target != key for move in view.live_moves)
    }
    late = {
        placed.action.name
        for placed, _, stage in context.actions()
        if isinstance(placed.action, SnapshotAction | Baseline)
        and (stage is None or stage.key not in begun)
    }
    for edge, _ in context.guarded:
        for node in leaves(edge.guard):
            if (
                isinstance(node, Since)
                and node.since not in late
                and _takers(context, node.since, SnapshotAction | Baseline)
            ):
                yield Found(
                    f"{context.way(edge)} asks whether {node.metric!r} has {_WORDS[node.type]} "
                    f"since {node.since!r}, which is taken at boundary 0 alone, where no metric "
                    "has a value",
                    "take the snapshot or baseline later too, such as on the way into a growth",
                    f"{edge.pointer}/when",
                )


def _entered_at_once(context: Context, view: RegionView) -> Iterator[str]:
    """The stages that a region enters at boundary 0."""
    stage = context.stages.get(view.region.initial)
    seen: set[str] = set()
    while stage is not None and stage.key not in seen:
        seen.add(stage.key)
        yield stage.key
        following = stage.next if stage.instant else None
        stage = None if following is None else context.stages.get(following.target)


@rule("baseline-named-as-snapshot", "error", needs_names=False)
def baseline_named_as_snapshot(context: Context) -> Iterator[Found]:
    """A baseline with the name of a snapshot.

    `since=` names either, so one name must not mean two things.

    Example: `{type: baseline, name: before}` beside `{type: snapshot, name: before}`.
    """
    snapshots = {
        placed.action.name
        for placed, _, _ in context.actions()
        if isinstance(placed.action, SnapshotAction)
    }
    for placed, _, _ in context.actions():
        if isinstance(placed.action, Baseline) and placed.action.name in snapshots:
            yield Found(
                f"{placed.action.name!r} is a baseline here, and a snapshot elsewhere",
                "a snapshot can be compared with too: take the baseline out, or rename it",
                placed.pointer,
            )


@rule("back-nowhere", "error")
def back_nowhere(context: Context) -> Iterator[Found]:
    """`back` where no interrupt has led.

    `back` returns to the stage that an interrupt left. Where no path holds an interrupt, there
    is nothing to return to.

    Example: `target: back` in a stage that only a `next` leads to.
    """
    for edge, stage, past in _backs(context):
        if INTERRUPTED not in past.sometimes:
            yield Found(
                f"{context.way(edge)} leads back, but no interrupt leads to "
                f"{context.name(stage.key)}",
                "name the target, or let an interrupt lead to the stage",
                edge.pointer,
            )


@rule("back-may-be-empty", "warning")
def back_may_be_empty(context: Context) -> Iterator[Found]:
    """`back` where perhaps no interrupt has led.

    On some path to this stage there was no interrupt; a run that takes it stops at `back` with
    an error.

    Example: `target: back` in a stage that an interrupt and a transition lead to.
    """
    for edge, stage, past in _backs(context):
        if INTERRUPTED in past.sometimes and INTERRUPTED not in past.always:
            yield Found(
                f"{context.way(edge)} leads back, but {context.name(stage.key)} can also be "
                "entered without an interrupt",
                "let only interrupts lead to the stage, or name the target",
                edge.pointer,
            )


def _backs(context: Context) -> Iterator[tuple[Edge, CompiledStage, Past]]:
    for edge, stages in context.guarded:
        for stage in stages:
            past = context.history[edge.region].get(stage.key)
            if edge.target == BACK and past is not None and not (stage.final or stage.instant):
                yield edge, stage, past
