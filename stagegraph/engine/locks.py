"""Locks: what keeps a region from a growth, or from going back into one. Pure (rule S11).

A region is open from its growth until it enters a ``train`` or ``final`` stage. Two kinds of moves
open a region: those into a growth, and a return (``back``) to a stage that an interrupt has left
while its region was open. Neither may make more regions open than ``max_overlap`` allows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from stagegraph.engine.decision import Move, Turn
from stagegraph.engine.options import choose, cost_of, room, why_none, why_not
from stagegraph.engine.slots import spent, stage_completed
from stagegraph.engine.state import State
from stagegraph.engine.ways_back import returned
from stagegraph.graph.compiled import CompiledGraph, CompiledStage
from stagegraph.schema.stages import Trial

__all__ = ["AMOUNTS", "Turns", "held_at_start", "held_back", "opens_again"]

AMOUNTS = ("steps", "epochs", "samples", "tokens", "flops", "seconds")
"""The budgets that end the run when they are spent."""


@dataclass(slots=True)
class Turns:
    """What the regions that go first do at this boundary.

    Attributes:
        grows: The first region that changes the model.
        opening: The regions that open, by a growth or by going back into one.
    """

    grows: str | None = None
    opening: set[str] = field(default_factory=set)

    def note(self, graph: CompiledGraph, state: State, move: Move) -> None:
        """Take a move into account."""
        grows = _is_structural(graph, move)
        if grows or opens_again(state, move):
            self.opening.add(move.region)
        if grows and self.grows is None:
            self.grows = move.region


def held_at_start(
    graph: CompiledGraph, state: State, moves: Sequence[Move]
) -> tuple[str, str] | None:
    """The first initial stage that a lock or the budget keeps from being entered, and why."""
    turns = Turns()
    for move in moves:
        first = (*move.via, move.target)[0]
        reason = held_back(graph, state, graph.stages[first], move, turns)
        if reason is not None:
            return first, reason
        turns.note(graph, state, move)
    return None


def held_back(
    graph: CompiledGraph, state: State, stage: CompiledStage, move: Move, turns: Turns
) -> str | None:
    """Why a move must wait, or ``None``.

    Args:
        graph: The graph.
        state: The state that everything sees.
        stage: The stage that is left.
        move: The move.
        turns: What the regions before it do at this boundary.
    """
    if move.roll_back is not None:
        return _held_back_there(graph, state, move)
    if not _is_structural(graph, move):
        return _overlap(graph, state, move, turns) if opens_again(state, move) else None
    if turns.grows is not None:
        return f"region {turns.grows!r} changes the model at this boundary"
    return _overlap(graph, state, move, turns) or _own(graph, state, stage, move)


def opens_again(state: State, move: Move) -> bool:
    """Whether a move goes back to a stage that was left while its region was open."""
    region = state.regions.get(move.region)
    if not move.back or region is None or region.back is None:
        return False
    return region.back.open and not region.open


def _is_structural(graph: CompiledGraph, move: Move) -> bool:
    entered = (*move.via, *((move.target,) if move.target in graph.stages else ()))
    return not move.back and any(graph.stages[key].structural for key in entered)


def _overlap(graph: CompiledGraph, state: State, move: Move, turns: Turns) -> str | None:
    """Whether enough other regions are open, or open at this boundary."""
    is_open = {name for name, region in state.regions.items() if region.open}
    others = sorted((is_open | turns.opening) - {move.region})
    limit = graph.graph.max_overlap
    if len(others) < limit:
        return None
    names = ", ".join(repr(name) for name in others)
    return f"{names} not consolidated yet, and max_overlap is {limit}"


def _own(graph: CompiledGraph, state: State, stage: CompiledStage | None, move: Move) -> str | None:
    """What a region's own stage and the budget say of its growth."""
    if stage is not None and stage.kind == "consolidate" and not stage_completed(stage, state):
        return f"its own consolidation {stage.name!r} is not completed"
    return _too_much(graph, state, move)


def _too_much(graph: CompiledGraph, state: State, move: Move) -> str | None:
    """Why a growth cannot be had by its options and what is left of the budgets."""
    entered = (*move.via, move.target)
    for key in entered:
        stage = graph.stages[key]
        if stage.options and key not in move.picked and move.turn is None:
            return why_none(stage, choose(graph, state, stage).passed_over)
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
    for amount in AMOUNTS:  # the run ends here: it would end in the trial
        most = getattr(graph.graph.budget, amount)
        if most is not None and spent(amount, state) >= most:
            return f"nothing is left of the {amount} of the budget"
    times = len(stage.options) - len(turn.passed_over) + (spec.worth is not None)
    unit = over.unit.value
    limit = getattr(graph.graph.budget, unit)
    needed = times * over.exact
    if limit is not None and spent(unit, state) + needed > limit:
        rest = max(0.0, limit - spent(unit, state))
        return f"it takes {float(needed):,g} {unit}, and {rest:,g} are left of the budget"
    return None


def _held_back_there(graph: CompiledGraph, state: State, move: Move) -> str | None:
    """A rollback is exempt; a growth that it leads to is asked of the state that it returns to.

    There the other regions are open that were, the region stands where it stood, and the
    parameters are those of then. Other moves of this boundary do not matter: it cancels them.
    """
    there, turns = returned(state, move.actions), Turns()
    if there is None:
        return None
    if not there.regions:
        reason = _cannot_begin_again(graph, there, move.region)
        if reason is not None:
            return reason
    if not _is_structural(graph, move):
        return None
    region = there.regions.get(move.region)
    stage = None if region is None else graph.stages[region.stage]
    if not there.regions and move.turn is not None:
        return "a trial cannot start from before boundary 0, where no stage has been entered yet"
    if not there.regions:  # the others begin again
        begin = [r.name for r in graph.regions if graph.stages[r.initial].structural]
        turns.opening = set(begin) - {move.region}
        turns.grows = next((name for name in begin if name != move.region), None)
    if turns.grows is not None:
        return f"region {turns.grows!r} changes the model at that boundary"
    return _overlap(graph, there, move, turns) or _own(graph, there, stage, move)


def _cannot_begin_again(graph: CompiledGraph, there: State, rolling: str) -> str | None:
    """Why a region other than the one that rolls back cannot enter its initial stage again.

    Options that were taken do not come back; what fitted the budget then does still.
    """
    for region in graph.regions:
        reason = None if region.name == rolling else why_not(graph, there, region.initial)
        if reason is not None:
            return f"region {region.name!r} cannot begin again: {reason}"
    return None
