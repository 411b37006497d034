"""Latest: until when each way of a graph can be taken, in updates, as far as the graph says."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from stagegraph.graph.compiled import CompiledStage, Edge
from stagegraph.graph.linear import Constraint
from stagegraph.graph.rules.context import Context
from stagegraph.graph.structure import RegionView
from stagegraph.progress import Unit

__all__ = ["latest_entries", "latest_leave"]

_CLOCKS = ("step", "spent(steps)")


def latest_entries(context: Context, horizon: int) -> dict[str, float]:
    """Per stage that can be reached, the update after which it is entered at the latest.

    Upper bounds in guards (``step < 9k``, ``left(steps) > 6000``), durations and ramps in steps
    bound it; what nothing bounds may happen up to the horizon. Waiting for locks is left out.

    Args:
        context: The graph.
        horizon: How many updates the run takes at the most.
    """
    found: dict[str, float] = {}
    for view in context.views.values():
        if view.region.initial in view.region.stages:
            found |= _in_region(context, view, horizon)
    return found


def _in_region(context: Context, view: RegionView, horizon: int) -> dict[str, float]:
    stages = view.region.stages
    entries: dict[str, float] = {view.region.initial: 0.0}
    rounds = len(stages) + 1
    for turn in range(2 * rounds):
        before = dict(entries)
        for move in view.live_moves:
            if move.source not in before or move.target not in stages:
                continue
            at = latest_leave(context, move.edge, stages[move.source], before, horizon)
            if at > entries.get(move.target, -1.0):
                # What still grows when every simple path has been followed grows round a loop.
                bounded = _bound(context, move.edge, stages[move.source])
                entries[move.target] = min(bounded, horizon) if turn >= rounds else at
        if entries == before:
            break
    return entries


def latest_leave(
    context: Context,
    edge: Edge,
    stage: CompiledStage,
    entries: Mapping[str, float],
    horizon: int,
) -> float:
    """The update after which an edge is taken out of a stage at the latest."""
    entered = entries.get(stage.key, float(horizon))
    if stage.instant:
        return entered
    longest = context.truth.limits.completion(stage) if stage.next is not None else None
    stays = float(horizon)
    if longest is not None and longest.unit is Unit.STEPS:
        stays = entered + float(longest.amount)
    return min(stays, _bound(context, edge, stage), float(horizon))


def _bound(context: Context, edge: Edge, stage: CompiledStage) -> float:
    """The update up to which an edge's guard can be true."""
    cases = context.truth.cases(edge, stage)
    if not cases:
        return float("inf")
    return max(
        min(
            (
                float(part.bound)
                for part in case
                if isinstance(part, Constraint)
                and len(part.form) == 1
                and part.form[0][0] in _CLOCKS
                and part.form[0][1] == Fraction(1)
                and part.op in ("<", "<=", "==")
            ),
            default=float("inf"),
        )
        for case in cases
    )
