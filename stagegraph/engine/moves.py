"""Moves: the state that a decision leads to, and what must be done to get there. Pure.

Order (rule S13): restore, exits, actions of transitions and of the stages entered, entries,
activities. The state returned here counts only once the boundary's transaction has held.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from zlib import crc32

from stagegraph.engine.absorb import active_memories
from stagegraph.engine.decide import Decision, Move, listens
from stagegraph.engine.holding import all_alphas, alphas, bending, effects, held_after
from stagegraph.engine.memories import Memory, is_trend
from stagegraph.engine.plans import Plans
from stagegraph.engine.ports import Boundary, Deed, Restore
from stagegraph.engine.selecting import acted_on, without_pruned
from stagegraph.engine.state import BackSlot, PendingEvent, RegionState, SnapshotState, State
from stagegraph.errors import ActionError
from stagegraph.graph.compiled import STOP, CompiledGraph, PlacedAction
from stagegraph.schema.actions import (
    Attribute,
    GrowthAction,
    Prune,
    RollBack,
    Send,
    SnapshotAction,
    TeacherAction,
)

__all__ = ["Step", "work_out"]


@dataclass(frozen=True, slots=True)
class Step:
    """A decision worked out.

    Attributes:
        state: The state afterwards.
        boundary: What to carry out; ``None`` if nothing outside the engine changes.
        cohorts: Per place of a growth, the cohort it adds.
        heard: Events that an edge listened to when it was taken.
        ignored: Events that nobody listened to.
        disturbed: Whether the metrics' curves are bent here.
    """

    state: State
    boundary: Boundary | None
    cohorts: Mapping[str, str]
    heard: tuple[str, ...]
    ignored: tuple[str, ...]
    disturbed: bool


def work_out(plans: Plans, state: State, decision: Decision, *, seed: int) -> Step:
    """Everything that follows from a decision.

    Args:
        plans: The graph's plans.
        state: The state that was decided on.
        decision: The moves.
        seed: The run's seed; every action gets one of its own from it.

    Raises:
        ActionError: A rollback has no snapshot to return to, or a selection nothing to select.
    """
    graph = plans.graph
    restored, restore, forget = _restore(graph, state, decision)
    acting = _Acting(restored, state, seed)
    for move in decision.moves:
        after = acting.after
        if move.force is not None and move.force.lifts:
            after = _let_go(after, move.region)
        after = _leave(graph, after, move, keep_time=restore is None)
        acting.after = _enter(graph, after, state, move, fresh=restore is not None)
        acting.carry_out(move)
    acting.attribute()
    after, deeds, cohorts, sent = acting.after, acting.deeds, acting.cohorts, acting.sent
    after = replace(after, ended=decision.ends, blocked=dict(decision.blocked))
    heard, ignored, kept_events = _events(graph, state, decision)
    after = replace(after, events=(*kept_events, *sent))
    reshaped = any(deed.action.structural for deed in deeds)
    if reshaped:
        after = replace(after, attributions=())  # each was measured beside other modules
    structural = reshaped or restore is not None
    disturbed = structural or bending(graph, state) != bending(graph, after)
    if disturbed:
        after = _disturb(after)
    after = replace(after, memories=_memories(plans, after, decision, disturbed=disturbed))
    held = effects(graph, after)
    changed = decision.moves or decision.ends
    boundary = None
    if changed:
        alpha = all_alphas(graph, after)
        number = state.spent.step
        forget = (*forget, *sorted(state.all_teachers() - after.all_teachers()))
        boundary = Boundary(state.clock.step, restore, tuple(deeds), held, alpha, forget, number)
    return Step(after, boundary, cohorts, heard, ignored, disturbed)


# Ways back


def _restore(
    graph: CompiledGraph, state: State, decision: Decision
) -> tuple[State, Restore | None, tuple[str, ...]]:
    """The state to go on from: this one, or the snapshot's with what does not come back.

    The snapshot itself stays, to be returned to again; those taken after it go.
    """
    for move in decision.moves:
        placed = move.roll_back
        if placed is None:
            continue
        action = placed.action
        assert isinstance(action, RollBack) and move.edge is not None
        snapshot = state.snapshot(action.to)
        if snapshot is None:
            raise ActionError(placed.place, f"there is no snapshot {action.to!r} to return to")
        at = next(n for n, kept in enumerate(state.snapshots) if kept.id == snapshot.id)
        earlier, dropped = state.snapshots[: at + 1], state.snapshots[at + 1 :]
        restored = replace(
            snapshot.state,
            snapshots=earlier,
            spent=state.spent,
            visits=state.visits,
            fired=state.fired,
            errors=state.errors,
            events=state.events,
            observations=state.observations,
            commands=state.commands,
            regions={
                name: replace(region, back=None) for name, region in snapshot.state.regions.items()
            },
        )
        attempt = 1 + _rollbacks(graph, state)
        restore = Restore(
            placed.place,
            snapshot.id,
            action.data == "rewind",
            action.lr_factor,
            attempt if action.rng == "fork" else None,
        )
        return restored, restore, tuple(kept.id for kept in dropped)
    return state, None, ()


def _rollbacks(graph: CompiledGraph, state: State) -> int:
    """How many rollbacks there were in the whole run."""
    return sum(
        count
        for edge, count in state.fired.items()
        if any(isinstance(placed.action, RollBack) for placed in graph.edges[edge].actions)
    )


# Exits and entries


def _leave(graph: CompiledGraph, after: State, move: Move, *, keep_time: bool) -> State:
    """Alpha keeps its value; an interrupt remembers what it leaves (rules S9, S17)."""
    region = after.regions.get(move.region)
    if region is None:
        return after
    after = replace(after, alphas=alphas(graph, after))
    interrupt = move.edge is not None and move.edge.kind == "interrupt"
    if not interrupt or move.back or region.by_interrupt or not keep_time:
        return after
    slot = BackSlot(
        stage=region.stage,
        elapsed=after.clock - region.entered,
        held={place: after.clock - start for place, start in region.held.items()},
        memories={
            key: memory
            for key, memory in after.memories.items()
            if key.startswith(f"{region.stage}|")
        },
        extended=region.extended,
    )
    regions = {**after.regions, move.region: replace(region, back=slot)}
    return replace(after, regions=regions)


def _enter(graph: CompiledGraph, after: State, before: State, move: Move, *, fresh: bool) -> State:
    edge = move.edge
    fired = dict(after.fired)
    errors = dict(after.errors)
    if edge is not None:
        fired[edge.id] = fired.get(edge.id, 0) + 1
        errors.pop(edge.id, None)
    after = replace(after, fired=fired, errors=errors)
    if move.target == STOP:
        return after
    old = after.regions.get(move.region)
    if move.back:
        if old is None or old.back is None:
            place = edge.id if edge is not None else move.region
            reason = "there is nothing to go back to: no interrupt has left this region's stage"
            raise ActionError(place, reason)
        return _enter_back(after, move.region, old, old.back)
    visits = dict(after.visits)
    for key in (*move.via, move.target):
        visits[key] = visits.get(key, 0) + 1
    stage = graph.stages[move.target]
    held_before = {} if old is None or fresh else old.held
    is_open = bool(old and old.open) or any(graph.stages[key].structural for key in move.via)
    region = RegionState(
        stage=move.target,
        entered=after.clock,
        since=after.observations,
        open=(is_open or stage.structural) and stage.kind not in ("train", "final"),
        grown=old.grown if old else (),
        held=held_after(stage.during, held_before, after.clock),
        by_interrupt=edge is not None and edge.kind == "interrupt",
        back=old.back if old else None,
    )
    return replace(after, visits=visits, regions={**after.regions, move.region: region})


def _enter_back(after: State, name: str, old: RegionState, slot: BackSlot) -> State:
    """Return to what an interrupt left; the time away does not count."""
    region = RegionState(
        stage=slot.stage,
        entered=after.clock - slot.elapsed,
        since=after.observations,
        open=old.open,
        grown=old.grown,
        held={place: after.clock - elapsed for place, elapsed in slot.held.items()},
        extended=slot.extended,
    )
    return replace(
        after,
        regions={**after.regions, name: region},
        memories={**after.memories, **slot.memories},
    )


def _let_go(after: State, name: str) -> State:
    """A region that is forced to move is held no more."""
    held = {region: by for region, by in after.commands.held.items() if region != name}
    return replace(after, commands=replace(after.commands, held=held))


def _grew(after: State, name: str, grown: tuple[str, ...]) -> State:
    region = replace(after.regions[name], grown=grown)
    return replace(
        after,
        regions={**after.regions, name: region},
        cohorts=(*after.cohorts, *(cohort for cohort in grown if cohort not in after.cohorts)),
    )


# Actions


class _Acting:
    """The actions of a boundary, worked out one after the other.

    Args:
        start: The state at the start of the boundary, after a return.
        decided: The state that was decided on.
        seed: The run's seed.
    """

    def __init__(self, start: State, decided: State, seed: int) -> None:
        self.after = start
        self.deeds: list[Deed] = []
        self.cohorts: dict[str, str] = {}
        self.sent: list[PendingEvent] = []
        self._start, self._decided, self._seed = start, decided, seed
        self._attributions: list[tuple[int, PlacedAction, str]] = []

    def carry_out(self, move: Move) -> None:
        """All actions of one move."""
        grown: list[str] = []
        visits = self.after.visits
        for placed in move.actions:
            match placed.action:
                case RollBack():
                    continue
                case Send():
                    self.sent.append(PendingEvent(placed.action.event))
                    continue
            taken = (*self.after.cohorts, *self.after.pruned, *self.cohorts.values())
            cohort = _cohort(placed, visits, taken)
            deed = _deed(placed, cohort, self._decided, self._seed, len(self.deeds))
            if isinstance(placed.action, Attribute):
                self._attributions.append((len(self.deeds), placed, move.region))
            if isinstance(placed.action, Prune):
                deed = self._prune(placed, deed, move.region)
            self.deeds.append(deed)
            if deed.cohort is not None:
                self.cohorts[deed.place] = deed.cohort
                grown.append(deed.cohort)
            self.after = _kept(self.after, deed, self._start)
        if grown:
            self.after = _grew(self.after, move.region, tuple(grown))

    def _prune(self, placed: PlacedAction, deed: Deed, region: str) -> Deed:
        """A prune with what it is about; that is gone from the state."""
        after = self.after
        of = acted_on(placed, after.regions[region], after)
        assert of is not None
        self.after = without_pruned(after, of.cohorts, boundary=after.spent.step)
        return replace(deed, of=of)

    def attribute(self) -> None:
        """Say what attributions are about: the model as it is when all else is done."""
        for index, placed, region in self._attributions:
            of = acted_on(placed, self.after.regions[region], self.after)
            self.deeds[index] = replace(self.deeds[index], of=of)


def _deed(placed: PlacedAction, cohort: str | None, state: State, seed: int, index: int) -> Deed:
    action = placed.action
    snapshot = teacher = None
    if isinstance(action, SnapshotAction):
        snapshot = f"{action.name}@{state.spent.step}.{index}"
    elif isinstance(action, TeacherAction):
        teacher = f"teacher:{action.name}@{state.spent.step}.{index}"
    own = crc32(f"{seed}|{state.spent.step}|{placed.place}".encode())
    return Deed(placed.place, action, cohort, snapshot, own, teacher)


def _kept(after: State, deed: Deed, start: State) -> State:
    """The state that knows of the snapshot or the teacher that a deed makes."""
    action = deed.action
    if isinstance(action, SnapshotAction) and deed.snapshot is not None:
        kept = SnapshotState(action.name, deed.snapshot, start.without_snapshots())
        return replace(after, snapshots=(*after.snapshots, kept))
    if isinstance(action, TeacherAction) and deed.teacher is not None:
        return replace(after, teachers={**after.teachers, action.name: deed.teacher})
    return after


def _cohort(placed: PlacedAction, visits: Mapping[str, int], taken: Collection[str]) -> str | None:
    """What to call the parameters that a growth adds (rule S10).

    The stage and its visit, or the name that the author gave; ``#2`` and so on when a name comes
    again.
    """
    if not isinstance(placed.action, GrowthAction):
        return None
    stage = placed.place.partition(".actions")[0]
    base = placed.action.name or f"{stage}#{visits.get(stage, 0)}"
    number, cohort = 1, base
    while cohort in taken:
        number += 1
        cohort = f"{base}#{number}"
    return cohort


# Events and memories


def _events(
    graph: CompiledGraph, state: State, decision: Decision
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[PendingEvent, ...]]:
    """Events heard, events ignored, and those kept because a lock held a listener back."""
    if not state.regions:
        return (), (), state.events
    heard: list[str] = []
    ignored: list[str] = []
    kept: list[PendingEvent] = []
    for event in state.events:
        if any(move.edge and listens(move.edge, event.name) for move in decision.moves):
            heard.append(event.name)
        elif not event.kept and any(
            listens(graph.edges[edge], event.name) for edge in decision.blocked
        ):
            kept.append(PendingEvent(event.name, kept=True))
        else:
            ignored.append(event.name)
    return tuple(heard), tuple(ignored), tuple(kept)


def _disturb(after: State) -> State:
    """The curves are bent: what interrupts remember of trends is worth nothing either."""
    regions = {
        name: region
        if region.back is None
        else replace(region, back=replace(region.back, memories=_without_trends(region.back)))
        for name, region in after.regions.items()
    }
    return replace(after, disturbed=after.observations, regions=regions)


def _without_trends(slot: BackSlot) -> Mapping[str, Memory]:
    return {key: memory for key, memory in slot.memories.items() if not is_trend(memory)}


def _memories(
    plans: Plans, after: State, decision: Decision, *, disturbed: bool
) -> Mapping[str, Memory]:
    """Memories of guards that no stage uses any more go; a stage's own begin at its entry."""
    entered = {
        f"{move.target}|" for move in decision.moves if not move.back and move.target != STOP
    }
    return {
        key: memory
        for key, memory in active_memories(plans, after).items()
        if not any(key.startswith(scope) for scope in entered)
        and not (disturbed and is_trend(memory))
    }
