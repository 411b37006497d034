"""Measuring and pruning what growths added: what can be known, and what can be taken out."""

from __future__ import annotations

from collections.abc import Iterator

from stagegraph.graph.compiled import CompiledStage
from stagegraph.graph.rules.context import Context, leaves
from stagegraph.graph.rules.registry import Found, rule
from stagegraph.schema.actions import WORST, Attribute, GrowthAction, Prune
from stagegraph.schema.activities import GrownCohort
from stagegraph.schema.guards import Harmful

__all__: list[str] = []


@rule("never-attributed", "error")
def never_attributed(context: Context) -> Iterator[Found]:
    """A question about modules that nothing measures.

    `harmful(m, …)` and `prune` of `worst` read what the action `attribute` has measured. Where no
    action of the graph measures that metric, the guard is unknown for ever, and the prune fails.

    Example: `harmful(probe_loss, by=1%)` without `{type: attribute, metric: probe_loss}`.
    """
    measured = {
        placed.action.metric
        for placed, _, _ in context.actions()
        if isinstance(placed.action, Attribute)
    }
    for edge, _ in context.guarded:
        for node in leaves(edge.guard):
            if isinstance(node, Harmful) and node.metric not in measured:
                yield Found(
                    f"{context.way(edge)} asks what harms {node.metric!r}, and no action "
                    "attributes it",
                    _remedy(node.metric),
                    edge.pointer,
                )
    for placed, _, _ in context.actions():
        action = placed.action
        if not isinstance(action, Prune) or WORST not in action.of:
            continue
        if not measured or (action.metric is not None and action.metric not in measured):
            metric = action.metric or next(iter(context.graph.metrics), "loss")
            yield Found(
                "'worst' is pruned, and no action attributes "
                f"{'any metric' if action.metric is None else repr(action.metric)}",
                _remedy(metric),
                placed.pointer,
            )


def _remedy(metric: str) -> str:
    return f"add {{type: attribute, metric: {metric}}} to the actions of a stage or way before it"


@rule("cannot-be-pruned", "error")
def cannot_be_pruned(context: Context) -> Iterator[Found]:
    """A prune of what cannot be taken out again.

    Inserted blocks and attached modules are parts that can be taken out. What a growth in width
    added lies inside of tensors, and an expert that the router has learned to use, or a head, is
    more than a part.

    Example: `{type: prune, of: {grown: wide}}` where `wide` is a `widen`.
    """
    worst = _may_be_worst(context)
    for placed, _, at in context.actions():
        if not isinstance(placed.action, Prune):
            continue
        if WORST in placed.action.of and worst:
            yield Found(
                f"'worst' may be what a growth by {_kinds(worst)} added, which cannot be pruned",
                "let the attribution be 'of' the growths that can, by their names",
                placed.pointer,
            )
        for what, meant in _meant(context, placed.action, at):
            if meant and not any(growth.prunable for growth in meant):
                yield Found(
                    f"{what} cannot be pruned: it is a {_kinds(meant)}, whose additions are no "
                    "parts that can be taken out",
                    "return to a snapshot taken before it with roll_back, or name another growth",
                    placed.pointer,
                )


def _meant(
    context: Context, action: Prune, at: CompiledStage | None
) -> Iterator[tuple[str, list[GrowthAction]]]:
    """The growths that a prune's selections may mean, each with how it is called."""
    growths = [(stage.region, one) for stage in context.stages.values() for one in stage.growths]
    for part in action.of:
        if isinstance(part, GrownCohort):
            named = [one for _, one in growths if one.name == part.grown]
            yield f"the growth {part.grown!r}", named
        elif part == "grown" and at is not None:
            yield "what this region grows", [one for r, one in growths if r == at.region]


def _kinds(growths: list[GrowthAction]) -> str:
    return ", ".join(dict.fromkeys(str(vars(growth)["type"]) for growth in growths))


def _may_be_worst(context: Context) -> list[GrowthAction]:
    """Growths whose modules an attribution measures, and that cannot be pruned."""
    named: set[str] = set()
    everything = False
    for placed, _, _ in context.actions():
        if isinstance(placed.action, Attribute):
            everything |= any(isinstance(part, str) for part in placed.action.of)
            named |= {part.grown for part in placed.action.of if isinstance(part, GrownCohort)}
    return [
        growth
        for stage in context.stages.values()
        for growth in stage.growths
        if growth.blends and not growth.prunable and (everything or growth.name in named)
    ]
