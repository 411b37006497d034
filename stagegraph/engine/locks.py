"""Locks: what holds a change of the model's shape back, whatever guards say (rule S11). Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stagegraph.engine.decision import Move, Turn
from stagegraph.engine.options import choose, cost_of, room, why_none
from stagegraph.engine.slots import spent, stage_completed
from stagegraph.engine.state import State
from stagegraph.graph.compiled import CompiledGraph, CompiledStage
from stagegraph.schema.stages import Trial

__all__ = ["held_at_start", "held_back", "is_structural"]


def held_at_start(
    graph: CompiledGraph, state: State, moves: Sequence[Move]
) -> tuple[str, str] | None:
    """The first initial stage that a lock or the budget keeps from being entered, and why."""
    structural: str | None = None
    for move in moves:
        first = (*move.via, move.target)[0]
        reason = held_back(graph, state, graph.stages[first], move, structural)
        if reason is not None:
            return first, reason
        if structural is None and is_structural(graph, move):
            structural = move.region
    return None


def is_structural(graph: CompiledGraph, move: Move) -> bool:
    """Whether a move goes into or through a stage that may change the model's shape."""
    entered = (*move.via, *((move.target,) if move.target in graph.stages else ()))
    return not move.back and any(graph.stages[key].structural for key in entered)


def held_back(
    graph: CompiledGraph, state: State, stage: CompiledStage, move: Move, structural: str | None
) -> str | None:
    """Why a move must wait, or ``None`` (rule S11)."""
    if not is_structural(graph, move):
        return None
    if structural is not None:
        return f"region {structural!r} changes the model at this boundary"
    others = [name for name, region in state.regions.items() if region.open and name != move.region]
    limit = graph.graph.max_overlap
    if len(others) >= limit:
        names = ", ".join(repr(name) for name in sorted(others))
        return f"{names} not consolidated yet, and max_overlap is {limit}"
    if stage.kind == "consolidate" and not stage_completed(stage, state):
        return f"its own consolidation {stage.name!r} is not completed"
    return _too_much(graph, state, move)


def _too_much(graph: CompiledGraph, state: State, move: Move) -> str | None:
    """Why a growth cannot be had by its options and what is left of the budgets."""
    entered = (*move.via, move.target)
    for key in entered:
        stage = graph.stages[key]
        if stage.options and key not in move.picked and move.turn is None:
            return why_none(stage, choose(graph, state, stage))
    if move.turn is not None:
        return _too_long(graph, state, move.turn)
    left = room(graph, state)
    if left == math.inf:
        return None
    cost = cost_of(graph, state, entered[0])
    if cost is None:
        return "what this growth would cost is not known, and 'params' has a budget"
    if not cost <= left:
        return f"it would add {cost:,} parameters, and {left:,.0f} are left of the budget"
    return None


def _too_long(graph: CompiledGraph, state: State, turn: Turn) -> str | None:
    """Why a trial cannot be begun: nothing to try, or not enough left to try everything."""
    stage = graph.stages[turn.stage]
    if turn.failure is not None:
        return turn.failure
    spec, over = stage.spec, stage.duration
    assert isinstance(spec, Trial) and over is not None
    times = len(stage.options) - len(turn.passed_over) + (spec.worth is not None)
    unit = over.unit.value
    limit = getattr(graph.graph.budget, unit)
    needed = times * over.exact
    if limit is not None and spent(unit, state) + needed > limit:
        rest = max(0.0, limit - spent(unit, state))
        return f"it takes {float(needed):,g} {unit}, and {rest:,g} are left of the budget"
    return None
