"""Measuring and pruning what growths added: what can be known, and what can be taken out."""

from __future__ import annotations

from collections.abc import Iterator

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
    named: dict[str, list[GrowthAction]] = {}
    of_region: dict[str, list[GrowthAction]] = {}
    for stage in context.stages.values():
        for growth in stage.growths:
            of_region.setdefault(stage.region, []).append(growth)
            if growth.name is not None:
                named.setdefault(growth.name, []).append(growth)
    for placed, _, at in context.actions():
        if not isinstance(placed.action, Prune):
            continue
        for part in placed.action.of:
            if isinstance(part, GrownCohort):
                meant, what = named.get(part.grown, []), f"the growth {part.grown!r}"
            elif part == "grown" and at is not None:
                meant, what = of_region.get(at.region, []), "what this region grows"
            else:
                continue
            if meant and not any(growth.prunable for growth in meant):
                kinds = ", ".join(dict.fromkeys(str(vars(growth)["type"]) for growth in meant))
                yield Found(
                    f"{what} cannot be pruned: it is a {kinds}, whose additions are no parts that "
                    "can be taken out",
                    "return to a snapshot taken before it with roll_back, or name another growth",
                    placed.pointer,
                )
