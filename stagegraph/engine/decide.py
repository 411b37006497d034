"""decide: which region moves where at this boundary. Pure (rules S4 to S6, S11, S14, S16).

All guards see one frame, the state before anything moves. The answer is a list of moves with the
evidence for each; what they lead to is worked out by :mod:`stagegraph.engine.moves`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stagegraph.engine.plans import Plans, StagePlan
from stagegraph.engine.slots import Slot, costs_of, left, read, spent, stage_completed
from stagegraph.engine.standing import lengthened, waited
from stagegraph.engine.state import RegionState, State
from stagegraph.engine.taking import Force
from stagegraph.engine.trace import Trace, attribution_evidence, memory_evidence, trace
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
from stagegraph.schema.actions import RollBack
from stagegraph.schema.activities import Ramp
from stagegraph.schema.guards import EventSeen

__all__ = [
    "Decision",
    "Move",
    "begins_before_forward",
    "decide",
    "explain_edge",
    "has_stayed",
    "held_at_start",
    "initial_moves",
    "is_asked",
    "listens",
    "why_it_ends",
]

NOTHING: Mapping[str, Force] = {}

AMOUNTS = ("steps", "epochs", "samples", "tokens", "flops", "seconds")
"""The budgets that end the run when they are spent."""


@dataclass(frozen=True, slots=True)
class Move:
    """One region's move.

    Attributes:
        region: Who moves.
        edge: The edge taken; ``None`` for the entry into the initial stage.
        source: Key of the stage left; ``None`` at the beginning.
        via: Keys of the stages passed through.
        target: Key of the stage entered, or ``stop``.
        actions: What to do, in order: the edge's actions, then those of the stages entered.
        fallback: Whether this is the way out after failed actions.
        back: Whether it returns to what an interrupt left.
        evidence: The guard with the values it saw.
        force: The command that it follows, instead of an edge.
    """

    region: str
    edge: Edge | None
    source: str | None
    via: tuple[str, ...]
    target: str
    actions: tuple[PlacedAction, ...]
    fallback: bool = False
    back: bool = False
    evidence: Trace = field(default_factory=dict)
    force: Force | None = None

    @property
    def roll_back(self) -> PlacedAction | None:
        """Its return to a snapshot, if it has one."""
        return next((a for a in self.actions if isinstance(a.action, RollBack)), None)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a boundary brings.

    Attributes:
        moves: The moves, in the order of acting.
        blocked: Edges whose guard is true but that a lock or a command holds back, with the reason.
        ends: Why the run ends after these moves, or ``None``.
        unforced: Regions that a command wanted elsewhere and that may not go, with the reason.
    """

    moves: tuple[Move, ...]
    blocked: Mapping[str, str]
    ends: str | None = None
    unforced: Mapping[str, str] = field(default_factory=dict)

    def blamed(self, action: str) -> Move | None:
        """The move whose action failed; if none can be told, the first of its region, or of all."""
        by_action = (m for m in self.moves if any(a.place == action for a in m.actions))
        by_region = (m for m in self.moves if action.startswith(f"{m.region}:"))
        return next(iter((*by_action, *by_region, *self.moves)), None)


def initial_moves(graph: CompiledGraph) -> tuple[Move, ...]:
    """Boundary 0: every region enters its initial stage."""
    moves = []
    for region in graph.regions:
        via, target = _path(graph, region.initial)
        actions = tuple(a for key in (*via, target) for a in graph.stages[key].actions)
        moves.append(Move(region.name, None, None, via, target, actions))
    return tuple(moves)


def begins_before_forward(graph: CompiledGraph) -> bool:
    """Whether boundary 0 changes what the first forward computes or trains."""
    moves = initial_moves(graph)
    held = (h.activity for move in moves for h in graph.stages[move.target].during)
    return any(m.actions for m in moves) or any(activity.writes != "lr" for activity in held)


def held_at_start(
    graph: CompiledGraph, state: State, moves: Sequence[Move]
) -> tuple[str, str] | None:
    """The first initial stage that a lock or the budget keeps from being entered, and why."""
    structural: str | None = None
    for move in moves:
        first = (*move.via, move.target)[0]
        reason = _held_back(graph, state, graph.stages[first], move, structural)
        if reason is not None:
            return first, reason
        if structural is None and _is_structural(graph, move):
            structural = move.region
    return None


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
    blocked: dict[str, str] = {}
    unforced: dict[str, str] = {}
    moves: list[Move] = []
    structural: str | None = None
    for region in graph.regions:
        move = None
        if region.name in forced:
            move = _forced(graph, state, region, forced[region.name], structural, unforced)
        if move is None:
            move = _first(plans, state, region, structural, blocked)
        if move is None:
            continue
        moves.append(move)
        if structural is None and _is_structural(graph, move):
            structural = region.name
    stages = state.stages
    rolling = next((move for move in moves if move.roll_back is not None), None)
    if rolling is not None:
        reason = f"region {rolling.region!r} returns everything to a snapshot at this boundary"
        unforced |= {move.region: reason for move in moves if move.force is not None}
        stages, moves = _returning(graph, state, rolling)
    ends = why_it_ends(graph, state, moves, stages) or ("stopped" if stop else None)
    return Decision(tuple(moves), blocked, ends, unforced)


def _returning(
    graph: CompiledGraph, state: State, rolling: Move
) -> tuple[dict[str, str], list[Move]]:
    """The configuration that a rollback returns to, and the moves from there.

    It cancels all others. Before boundary 0 there is no configuration: the other regions begin
    again.
    """
    placed = rolling.roll_back
    assert placed is not None and isinstance(placed.action, RollBack)
    snapshot = state.snapshot(placed.action.to)
    stages = state.stages if snapshot is None else snapshot.state.stages
    if stages:
        return stages, [rolling]
    begun = (move for move in initial_moves(graph) if move.region != rolling.region)
    order = [region.name for region in graph.regions]
    return stages, sorted((rolling, *begun), key=lambda move: order.index(move.region))


def _first(
    plans: Plans,
    state: State,
    region: CompiledRegion,
    structural: str | None,
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
        reason = _held_back(plans.graph, state, stage, move, structural)
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
    structural: str | None,
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
        via, target = _path(graph, force.target)
        entered = tuple(a for key in (*via, target) for a in graph.stages[key].actions)
        move = Move(region.name, None, here.stage, via, target, entered, force=force)
    if reason is None:
        reason = _held_back(graph, state, stage, move, structural)
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
    via, target = _path(graph, wanted)
    entered = tuple(a for key in (*via, target) for a in graph.stages[key].actions)
    return Move(
        stage.region, edge, stage.key, via, target, (*own, *entered), failed, False, evidence
    )


def _path(graph: CompiledGraph, key: str) -> tuple[tuple[str, ...], str]:
    """The stages passed through, and the one that takes time."""
    via: list[str] = []
    while graph.stages[key].instant and key not in via:
        via.append(key)
        following = graph.stages[key].next
        assert following is not None, "the checks refuse a grow stage without next"
        key = following.target
    return tuple(via), key


# Locks


def _is_structural(graph: CompiledGraph, move: Move) -> bool:
    entered = (*move.via, *((move.target,) if move.target in graph.stages else ()))
    return not move.back and any(graph.stages[key].structural for key in entered)


def _held_back(
    graph: CompiledGraph, state: State, stage: CompiledStage, move: Move, structural: str | None
) -> str | None:
    """Why a move must wait, or ``None`` (rule S11)."""
    if not _is_structural(graph, move):
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
    if graph.graph.budget.params is None:
        return None
    cost = costs_of(move.via[0] if move.via else move.target, graph, state)
    room = left("params", graph.graph.budget, state)
    if cost is None:
        return "what this growth would cost is not known, and 'params' has a budget"
    if cost > room:
        return f"it would add {cost:,} parameters, and {room:,.0f} are left of the budget"
    return None


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
            leaf = plan.leaves.get(slot.name)
            return memory_evidence(state.memories.get(slot.name), leaf.spec if leaf else None)
        case "harmful":
            return attribution_evidence(state, slot.name.partition(" ")[0])
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
