"""decide: which region moves where at this boundary. Pure (rules S4 to S6, S11, S14, S16).

All guards see one frame, the state before anything moves. The answer is a list of moves with the
evidence for each; what they lead to is worked out by :mod:`stagegraph.engine.moves`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from stagegraph.engine import trials
from stagegraph.engine.decision import Decision, Move, Turn
from stagegraph.engine.locks import AMOUNTS, Turns, held_back
from stagegraph.engine.memories import evidence as remembered
from stagegraph.engine.options import choose
from stagegraph.engine.plans import Plans, StagePlan
from stagegraph.engine.slots import Slot, read, spent
from stagegraph.engine.standing import lengthened, waited
from stagegraph.engine.state import RegionState, State, TrialState
from stagegraph.engine.taking import Force
from stagegraph.engine.trace import Trace, attribution_evidence, trace
from stagegraph.engine.ways_back import returned
from stagegraph.graph.compiled import (
    BACK,
    STOP,
    CompiledGraph,
    CompiledRegion,
    CompiledStage,
    Edge,
    PlacedAction,
)
from stagegraph.progress import Duration, Progress
from stagegraph.schema.activities import Ramp
from stagegraph.schema.guards import EventSeen

__all__ = [
    "begins_before_forward",
    "decide",
    "explain_edge",
    "has_stayed",
    "initial_moves",
    "is_asked",
    "listens",
    "why_it_ends",
]

NOTHING: Mapping[str, Force] = {}


def initial_moves(graph: CompiledGraph, state: State) -> tuple[Move, ...]:
    """Boundary 0: every region enters its initial stage."""
    moves = []
    for region in graph.regions:
        via, target = path(graph, region.initial)
        actions, picked = entered(graph, state, (*via, target))
        moves.append(Move(region.name, None, None, via, target, actions, picked=picked))
    return tuple(moves)


def begins_before_forward(graph: CompiledGraph) -> bool:
    """Whether boundary 0 changes what the first forward computes or trains."""
    moves = initial_moves(graph, State())
    held = (h.activity for move in moves for h in graph.stages[move.target].during)
    acts = any(move.actions or move.via for move in moves)
    return acts or any(activity.writes != "lr" for activity in held)


def decide(
    plans: Plans,
    state: State,
    *,
    forced: Mapping[str, Force] = NOTHING,
    stop: bool = False,
) -> Decision:
    """The moves of this boundary.

    Args:
        plans: The graph's plans.
        state: The state that everything sees.
        forced: Per region, where a command wants it.
        stop: Whether a command ends the run here.
    """
    graph = plans.graph
    if state.trial is not None:
        return _in_trial(graph, state, state.trial, forced, stop=stop)
    blocked: dict[str, str] = {}
    unforced: dict[str, str] = {}
    moves: list[Move] = []
    turns = Turns()
    for region in graph.regions:
        move = None
        if region.name in forced:
            move = _forced(graph, state, region, forced[region.name], turns, unforced)
        if move is None:
            move = _first(plans, state, region, turns, blocked)
        if move is None:
            continue
        moves.append(move)
        turns.note(graph, state, move)
    stages = state.stages
    rolling = next((move for move in moves if move.roll_back is not None), None)
    cancelled: dict[str, str] = {}
    if rolling is not None:
        reason = f"region {rolling.region!r} returns everything to a snapshot at this boundary"
        cancelled = {move.region: reason for move in moves if move.force is not None}
        stages, moves = _returning(graph, state, rolling)
    beginning = next((move for move in moves if move.turn is not None), None)
    if beginning is not None and stop:  # no trial begins where the run ends
        moves = [move for move in moves if move is not beginning]
    elif beginning is not None:
        reason = f"region {beginning.region!r} begins to try growths at this boundary"
        lost = (move for move in moves if move is not beginning and move.force is not None)
        cancelled |= {move.region: reason for move in lost}
        # What others want is put off and not lost: the events that they listen to are kept.
        put_off = (move.edge for move in moves if move is not beginning)
        blocked |= {edge.id: reason for edge in put_off if edge is not None}
        moves = [beginning]
    if cancelled:  # a command that comes to nothing changes nothing
        others = {name: force for name, force in forced.items() if name not in cancelled}
        decision = decide(plans, state, forced=others, stop=stop)
        return _refusing(cancelled, decision)
    ends = why_it_ends(graph, state, moves, stages) or ("stopped" if stop else None)
    return Decision(tuple(moves), blocked, ends, unforced)


def _refusing(cancelled: Mapping[str, str], decision: Decision) -> Decision:
    """A decision that was made without commands that would have been cancelled."""
    happens = any(m.roll_back is not None or m.turn is not None for m in decision.moves)
    reasons = {
        name: reason if happens else f"with this move {reason}, and cancels it"
        for name, reason in cancelled.items()
    }
    return replace(decision, unforced={**reasons, **decision.unforced})


def _in_trial(
    graph: CompiledGraph,
    state: State,
    trial: TrialState,
    forced: Mapping[str, Force],
    *,
    stop: bool,
) -> Decision:
    """What a boundary brings while growths are tried: nothing else moves."""
    reason = f"{trial.stage} is trying growths; nothing else moves until it is over"
    unforced = dict.fromkeys(forced, reason)
    ends = why_it_ends(graph, state, (), state.stages) or ("stopped" if stop else None)
    if ends is not None:
        return Decision((), {}, ends, unforced, trials.given_up(trial))
    turn = trials.turn(graph, state, trial)
    if turn is None:
        return Decision((), dict(state.blocked), None, unforced)
    move = _turned(graph, state, turn)
    base = trials.start_of(state, trial)
    ends = None if turn.failure else why_it_ends(graph, state, (move,), base.stages)
    return Decision((move,), {} if turn.ends else dict(state.blocked), ends, unforced)


def _turned(graph: CompiledGraph, state: State, turn: Turn) -> Move:
    """The move of a trial from one option to the next, or out of it."""
    stage = graph.stages[turn.stage]
    growing = () if turn.option is None else turn.option.actions
    if not turn.ends or turn.failure is not None:
        return Move(stage.region, None, stage.key, (), stage.key, growing, turn=turn)
    edge = stage.otherwise if turn.option is None else stage.next
    assert edge is not None
    via, target = path(graph, edge.target)
    done, picked = entered(graph, state, (*via, target))
    return Move(
        stage.region, edge, stage.key, via, target, (*growing, *done), picked=picked, turn=turn
    )


def _returning(
    graph: CompiledGraph, state: State, rolling: Move
) -> tuple[dict[str, str], list[Move]]:
    """The configuration that a rollback returns to, and the moves from there.

    It cancels all others. Before boundary 0 there is no configuration: the other regions begin
    again, as the state there lets them.
    """
    there = returned(state, rolling.actions) or state
    if there.stages:
        return there.stages, [rolling]
    begun = (move for move in initial_moves(graph, there) if move.region != rolling.region)
    order = [region.name for region in graph.regions]
    return there.stages, sorted((rolling, *begun), key=lambda move: order.index(move.region))


def _first(
    plans: Plans,
    state: State,
    region: CompiledRegion,
    turns: Turns,
    blocked: dict[str, str],
) -> Move | None:
    """The first way out that is open, true, and not held back."""
    here = state.regions[region.name]
    stage = region.stages[here.stage]
    if stage.final:
        return None
    plan = plans[here.stage]
    frame = plan.frame(plans.graph, state)
    holder = state.commands.held.get(region.name)
    for edge, condition in plan.ways:
        if not is_asked(edge, stage, here, state):
            continue
        if not condition.test(frame):
            continue
        move = _move(plans, state, stage, edge)
        reason = held_back(plans.graph, state, stage, move, turns)
        if holder is not None:
            reason = f"held by {holder}"
        if reason is None:
            return move
        blocked[edge.id] = reason
    return None


def has_stayed(stage: CompiledStage, here: RegionState, state: State) -> bool:
    """Whether a region has been in its stage for long enough to be asked for transitions."""
    extension = here.extended
    if not waited(extension, here.entered, state.clock):
        return False
    least = stage.min_duration
    return least is None or state.clock.reached(lengthened(least, extension), here.entered)


def _forced(
    graph: CompiledGraph,
    state: State,
    region: CompiledRegion,
    force: Force,
    turns: Turns,
    unforced: dict[str, str],
) -> Move | None:
    """The move that a command wants, past all guards; locks and promises it does not pass."""
    here = state.regions[region.name]
    stage = region.stages[here.stage]
    reason = f"{here.stage} is final: it is never left" if stage.final else None
    slot = here.back
    if force.target == BACK:
        target = slot.stage if slot is not None else ""
        move = Move(region.name, None, here.stage, (), target, (), back=True, force=force)
        if reason is None and slot is None:
            reason = "there is nothing to go back to: no interrupt has left this region's stage"
    else:
        via, target = path(graph, force.target)
        actions, picked = entered(graph, state, (*via, target))
        move = Move(region.name, None, here.stage, via, target, actions, force=force, picked=picked)
        move = trials.begun(graph, state, move)
    if reason is None:
        reason = held_back(graph, state, stage, move, turns)
    if reason is None:
        return move
    unforced[region.name] = reason
    return None


def is_asked(edge: Edge, stage: CompiledStage, here: RegionState, state: State) -> bool:
    """Whether an edge of a region's stage is asked at all: not too soon, and not used up."""
    if edge.at_most is not None and state.fired.get(edge.id, 0) >= edge.at_most:
        return False
    return edge.kind == "interrupt" or has_stayed(stage, here, state)


def _move(plans: Plans, state: State, stage: CompiledStage, edge: Edge) -> Move:
    graph = plans.graph
    fallback = edge.fallback
    failed = fallback is not None and state.errors.get(edge.id, 0) > fallback.retry
    wanted = fallback.then if fallback is not None and failed else edge.target
    own = () if failed else edge.actions
    evidence = explain_edge(plans, state, plans[stage.key], edge)
    if wanted == STOP:
        return Move(stage.region, edge, stage.key, (), STOP, own, failed, False, evidence)
    if wanted == BACK:
        slot = state.regions[stage.region].back
        target = slot.stage if slot is not None else ""
        return Move(stage.region, edge, stage.key, (), target, own, failed, True, evidence)
    via, target = path(graph, wanted)
    there = returned(state, own) or state
    done, picked = entered(graph, there, (*via, target))
    move = Move(
        stage.region,
        edge,
        stage.key,
        via,
        target,
        (*own, *done),
        failed,
        evidence=evidence,
        picked=picked,
    )
    return trials.begun(graph, there, move)


# Ends


def why_it_ends(
    graph: CompiledGraph, state: State, moves: Sequence[Move], stages: Mapping[str, str]
) -> str | None:
    """Why the run ends after the moves (rules S15, S16).

    Args:
        graph: The graph.
        state: The state, with what was spent.
        moves: The moves.
        stages: The configuration that they start from; at a rollback the one restored.
    """
    if any(move.target == STOP for move in moves):
        return "stop"
    stages = {**stages, **{move.region: move.target for move in moves if move.target}}
    ending = [region for region in graph.regions if region.has_final]
    if ending and all(graph.stages[stages[region.name]].final for region in ending):
        return "final"
    for amount in AMOUNTS:
        limit = getattr(graph.graph.budget, amount)
        if limit is not None and spent(amount, state) >= limit:
            return "budget"
    return None


# Evidence


def explain_edge(plans: Plans, state: State, plan: StagePlan, edge: Edge) -> Trace:
    """An edge's guard with the values it sees in a state."""

    def evidence(slot: Slot) -> Mapping[str, Any] | None:
        return _evidence(slot, state, plan)

    return trace(
        edge.guard,
        edge.scope,
        lambda slot: read(slot, plans.graph, state, plan.stage),
        evidence,
    )


def _evidence(slot: Slot, state: State, plan: StagePlan) -> Mapping[str, Any] | None:
    """What lies behind a leaf's answer: what was remembered, or how much time has passed."""
    here = state.regions[plan.stage.region]
    entered, extension = here.entered, here.extended
    match slot.kind:
        case "memory":
            return remembered(state.memories.get(slot.name), plan.leaves.get(slot.name))
        case "harmful":
            return attribution_evidence(state, slot.name.partition(" ")[0], plan.stage.region)
        case "elapsed" if slot.duration is not None:
            return _passed(slot.duration, entered, state)
        case "completed" if plan.stage.duration is not None:
            return _passed(lengthened(plan.stage.duration, extension), entered, state)
        case "completed":
            longest = _longest([held.activity for held in plan.stage.during])
            return _passed(lengthened(longest, extension), entered, state) if longest else None
    return None


def _longest(activities: list[Any]) -> Any:
    """The ramp that ends last, as far as that can be told from durations of one unit."""
    overs = [activity.over for activity in activities if isinstance(activity, Ramp)]
    return max(overs, key=lambda over: over.amount, default=None)


def _passed(duration: Duration, since: Progress, state: State) -> dict[str, Any]:
    passed = state.clock.elapsed(since, duration.unit)
    return {"elapsed": float(passed), "of": str(duration)}


def listens(edge: Edge, name: str) -> bool:
    """Whether an edge's guard looks at an event."""
    stack = [edge.guard]
    while stack:
        guard = stack.pop()
        if isinstance(guard, EventSeen) and guard.event == name:
            return True
        inner = getattr(guard, "of", None)
        stack.extend(inner if isinstance(inner, tuple) else [inner] if inner is not None else [])
    return False


def path(graph: CompiledGraph, key: str) -> tuple[tuple[str, ...], str]:
    """The stages passed through, and the one that takes time."""
    via: list[str] = []
    while graph.stages[key].instant and key not in via:
        via.append(key)
        following = graph.stages[key].next
        assert following is not None, "the checks refuse a grow stage without next"
        key = following.target
    return tuple(via), key


def entered(
    graph: CompiledGraph, state: State, keys: Sequence[str]
) -> tuple[tuple[PlacedAction, ...], dict[str, str]]:
    """What is done at the entry of stages, and which of its options each takes."""
    actions: list[PlacedAction] = []
    picked: dict[str, str] = {}
    for key in keys:
        stage = graph.stages[key]
        actions += stage.actions
        option = choose(graph, state, stage).option if stage.options and stage.instant else None
        if option is not None:
            actions += option.actions
            picked[key] = option.name
    return tuple(actions), picked
