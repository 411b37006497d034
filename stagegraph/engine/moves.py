"""Moves: the state that a decision leads to, and what must be done to get there. Pure.

Order (rule S13): restore, exits, actions of transitions and of the stages entered, entries,
activities. The state returned here counts only once the boundary's transaction has held.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from zlib import crc32

from stagegraph.engine import trials
from stagegraph.engine.absorb import active_memories
from stagegraph.engine.decide import listens
from stagegraph.engine.decision import Decision, Move, Turn
from stagegraph.engine.disturbance import (
    causes,
    changes_data,
    forgetting,
    kept_through,
    retaken,
    still_moving,
)
from stagegraph.engine.holding import all_alphas, alphas, effects, held_after
from stagegraph.engine.memories import Memory
from stagegraph.engine.moment import moment_of
from stagegraph.engine.plans import Plans
from stagegraph.engine.ports import Boundary, Deed, Restore
from stagegraph.engine.references import baseline_of
from stagegraph.engine.selecting import acted_on, without_pruned
from stagegraph.engine.state import (
    BackSlot,
    Options,
    PendingEvent,
    RegionState,
    SnapshotState,
    State,
)
from stagegraph.engine.ways_back import roll_back
from stagegraph.errors import ActionError
from stagegraph.graph.blending import adds_no_block
from stagegraph.graph.compiled import STOP, CompiledGraph, PlacedAction
from stagegraph.schema.actions import (
    Attribute,
    Baseline,
    GrowthAction,
    Prune,
    RollBack,
    SaveAction,
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
        causes: What bends the metrics' curves here, each in a few words.
        anew: Keys of the memories that begin anew for it.
        moving: Places of what goes on bending the curves after it.
    """

    state: State
    boundary: Boundary | None
    cohorts: Mapping[str, str]
    heard: tuple[str, ...]
    ignored: tuple[str, ...]
    causes: tuple[str, ...] = ()
    anew: tuple[str, ...] = ()
    moving: tuple[str, ...] = ()

    @property
    def disturbed(self) -> bool:
        """Whether the metrics' curves are bent here."""
        return bool(self.causes)


def work_out(plans: Plans, state: State, decision: Decision, *, seed: int) -> Step:
    """Everything that follows from a decision.

    Args:
        plans: The graph's plans.
        state: The state that was decided on.
        decision: The moves.
        seed: The run's seed; every action gets one of its own from it.

    Raises:
        ActionError: A rollback has no snapshot to return to, a selection nothing to select, or a
            trial nothing to keep.
    """
    graph, turn = plans.graph, decision.turn
    if turn is not None and turn.failure is not None:
        raise ActionError(turn.stage, turn.failure)
    restored, restore, forget = _restore(graph, state, decision)
    work = _Work(plans, state, restored, restore, seed, decision, restored)
    for move in decision.moves:
        work.move(move)
    work.attribute()
    after, cohorts = work.after, work.cohorts
    after, superseded = _newest(after) if work.deeds else (after, ())
    after = replace(
        after,
        ended=decision.ends,
        blocked=dict(decision.blocked),
        trial=trials.lasting(state.trial, turn),
    )
    if state.trial is None:
        heard, ignored, kept_events = _events(graph, state, decision)
    else:  # nobody is asked, so that events wait until the trial is over
        heard, ignored, kept_events = (), (), state.events
    after = replace(after, events=(*kept_events, *work.sent))
    reshaped = any(deed.action.structural for deed in work.deeds)
    if reshaped:
        after = replace(after, attributions=())  # each was measured beside other modules
    pruned = [deed.place for deed in work.deeds if isinstance(deed.action, Prune)]
    bent = causes(graph, state, after, grown=cohorts.values(), pruned=pruned, restore=restore)
    remembered = active_memories(plans, after)
    if bent:
        after = _disturb(after)
    if changes_data(graph, restored, after):
        after = replace(after, data_changed=after.observations)
    fresh = retaken(restored, after, restore)
    after = forgetting(plans, after, fresh)
    left = _memories(plans, after, decision, disturbed=bool(bent))
    anew = tuple(key for key in remembered if left.get(key) != remembered[key]) if bent else ()
    after = replace(after, memories=left)
    held = effects(graph, after)
    boundary = None
    if decision.moves or decision.ends:
        gone = sorted(state.all_teachers() - after.all_teachers())
        forget = (*forget, *superseded, *gone)
        alpha, deeds = all_alphas(graph, after), tuple(work.deeds)
        number = state.spent.step
        boundary = Boundary(state.clock.step, restore, deeds, held, alpha, forget, number)
    going_on = still_moving(graph, after) if bent else ()
    return Step(after, boundary, cohorts, heard, ignored, bent, anew, going_on)


@dataclass(slots=True)
class _Work:
    """Moves carried out one after the other.

    Attributes:
        plans: The graph's plans.
        before: The state that was decided on.
        start: The state that everything starts from: ``before``, or what is returned to.
        restore: The return to a snapshot, if there is one.
        seed: The run's seed.
        decision: All that is decided.
        after: The state so far.
        deeds: What is to be done, in order.
        cohorts: Per place of a growth, the cohort it adds.
        sent: The events that actions send.
        attributions: The attributions: their places among the deeds, and whose they are.
    """

    plans: Plans
    before: State
    start: State
    restore: Restore | None
    seed: int
    decision: Decision
    after: State
    deeds: list[Deed] = field(default_factory=list)
    cohorts: dict[str, str] = field(default_factory=dict)
    sent: list[PendingEvent] = field(default_factory=list)
    attributions: list[tuple[int, PlacedAction, str]] = field(default_factory=list)

    def move(self, move: Move) -> None:
        """One region leaves its stage, acts, and enters another."""
        graph, turn = self.plans.graph, move.turn
        if move.force is not None and move.force.lifts:
            self.after = _let_go(self.after, move.region)
        after = _leave(graph, self.after, move, keep_time=self.restore is None)
        self.after = _enter(graph, after, self.before, move, fresh=self.restore is not None)
        ahead, tried = trials.split(move)
        acted = [self.act(placed, move) for placed in ahead]
        if turn is not None and turn.begins:
            self.begin_trial(turn)
        acted += [self.act(placed, move) for placed in tried]
        grown = tuple(cohort for cohort in acted if cohort is not None)
        if grown:
            self.after = _grew(self.after, move.region, grown)

    def begin_trial(self, turn: Turn) -> None:
        """Keep the state that every option starts from; it knows what was kept on the way in."""
        kept, start = self.after, self.start
        fresh = retaken(start, kept, self.restore)
        start = replace(start, baselines=kept.baselines, teachers=kept.teachers)
        self.deeds.append(trials.opening(turn))
        self.after = _kept(kept, self.deeds[-1], forgetting(self.plans, start, fresh))

    def act(self, placed: PlacedAction, move: Move) -> str | None:
        """Plan an action; gives the cohort that it adds."""
        region = move.region
        match placed.action:
            case RollBack():
                return None
            case Send():
                self.sent.append(PendingEvent(placed.action.event))
                return None
            case Baseline(name=name):
                kept = {**self.after.baselines, name: baseline_of(self.start)}
                self.after = replace(self.after, baselines=kept)
                return None
        after, turn = self.after, self.decision.turn
        taken = (*after.cohorts, *after.pruned, *self.cohorts.values())
        cohort = _cohort(placed, after.visits, taken)
        # An option that is kept begins as it was tried: with the same seed.
        number = self.before.spent.step if turn is None else turn.started
        deed = _deed(placed, cohort, self.before, (self.seed, number), len(self.deeds))
        if isinstance(placed.action, SaveAction):
            leaving = move.edge is not None and placed in move.edge.actions
            moment = moment_of(self.before if leaving else self.start)
            deed = replace(deed, moment=moment, leaving=leaving)
        if isinstance(placed.action, Attribute):
            self.attributions.append((len(self.deeds), placed, region))
        if isinstance(placed.action, Prune):
            deed = self._prune(placed, deed, region)
        self.deeds.append(deed)
        if cohort is not None:
            self.cohorts[deed.place] = cohort
            if adds_no_block(self.plans.graph, placed):
                unblended = (*self.after.unblended, cohort)
                self.after = replace(self.after, unblended=unblended)
        self.after = _kept(self.after, deed, self.start)
        return cohort

    def _prune(self, placed: PlacedAction, deed: Deed, region: str) -> Deed:
        """A prune with what it is about; that is gone from the state."""
        after = self.after
        of = acted_on(placed, after.regions[region], after)
        assert of is not None
        self.after = without_pruned(after, of.cohorts, boundary=after.spent.step)
        return replace(deed, of=of)

    def attribute(self) -> None:
        """Say what attributions are about: the model as it is when all else is done."""
        for index, placed, region in self.attributions:
            of = acted_on(placed, self.after.regions[region], self.after)
            self.deeds[index] = replace(self.deeds[index], of=of)


# Ways back


def _restore(
    graph: CompiledGraph, state: State, decision: Decision
) -> tuple[State, Restore | None, tuple[str, ...]]:
    """The state to go on from: this one, or a snapshot's; and the snapshots that go with it."""
    turn = decision.turn
    if turn is not None and not turn.begins:
        return trials.restart(state, turn)
    placed = next((move.roll_back for move in decision.moves if move.roll_back is not None), None)
    return (state, None, ()) if placed is None else roll_back(graph, state, placed)


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
        open=region.open,
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
    after = replace(after, fired=fired, errors=errors, options=_taking(after, move))
    if move.target == STOP:
        return after
    old = after.regions.get(move.region)
    if move.back:
        if old is None or old.back is None:
            place = edge.id if edge is not None else move.region
            reason = "there is nothing to go back to: no interrupt has left this region's stage"
            raise ActionError(place, reason)
        return _enter_back(graph, after, move.region, old, old.back)
    visits = dict(after.visits)
    for key in (*move.via, move.target):
        visits[key] = visits.get(key, 0) + (key != move.source or move.turn is None)
    stage = graph.stages[move.target]
    held_before = {} if old is None or fresh else old.held
    grows = move.turn is not None and move.turn.option is not None
    passed = any(graph.stages[key].structural for key in move.via)
    is_open = bool(old and old.open) or passed or grows
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


def _taking(after: State, move: Move) -> Mapping[str, Options]:
    """What is known of options once a move has taken some."""
    picked = dict(move.picked)
    turn = move.turn
    if turn is not None and turn.ends and turn.option is not None:
        picked[turn.stage] = turn.option.name
    options = dict(after.options)
    for key, name in picked.items():
        known = options.get(key, Options())
        options[key] = replace(known, taken=(*known.taken, name))
    return options


def _enter_back(
    graph: CompiledGraph, after: State, name: str, old: RegionState, slot: BackSlot
) -> State:
    """Return to what an interrupt left; the time away does not count.

    The region is open if it was when it was left, or has grown since (rule S11).
    """
    closes = graph.stages[slot.stage].kind in ("train", "final")
    region = RegionState(
        stage=slot.stage,
        entered=after.clock - slot.elapsed,
        since=after.observations,
        open=(slot.open or old.open) and not closes,
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


def _deed(
    placed: PlacedAction, cohort: str | None, state: State, seed: tuple[int, int], index: int
) -> Deed:
    action = placed.action
    snapshot = teacher = None
    if isinstance(action, SnapshotAction):
        snapshot = f"{action.name}@{state.spent.step}.{index}"
    elif isinstance(action, TeacherAction):
        teacher = f"teacher:{action.name}@{state.spent.step}.{index}"
    run, number = seed
    own = crc32(f"{run}|{number}|{placed.place}".encode())
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


def _newest(after: State) -> tuple[State, tuple[str, ...]]:
    """Give up each snapshot that one of its own name follows, and say which.

    A rollback keeps both or drops both, unless it is to the later one: the earlier can never be the
    newest of its name again. With another between them it can, and stays.
    """
    gone = tuple(
        one.id for one, following in pairwise(after.snapshots) if one.name == following.name
    )
    kept = tuple(one for one in after.snapshots if one.id not in gone)
    return (replace(after, snapshots=kept), gone) if gone else (after, ())


def _cohort(placed: PlacedAction, visits: Mapping[str, int], taken: Collection[str]) -> str | None:
    """What to call the parameters that a growth adds (rule S10).

    The stage and its visit, or the name that the author gave; ``#2`` and so on when a name comes
    again.
    """
    if not isinstance(placed.action, GrowthAction):
        return None
    stage = placed.place.partition(".actions")[0]
    visit = visits.get(stage) or visits.get(stage.rpartition(".")[0], 0)
    base = placed.action.name or f"{stage}#{visit}"
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
        else replace(region, back=replace(region.back, memories=kept_through(region.back.memories)))
        for name, region in after.regions.items()
    }
    return replace(after, disturbed=after.observations, regions=regions, recent={})


def _memories(
    plans: Plans, after: State, decision: Decision, *, disturbed: bool
) -> Mapping[str, Memory]:
    """Memories of guards that no stage uses any more go; a stage's own begin at its entry."""
    entered = {
        f"{move.target}|" for move in decision.moves if not move.back and move.target != STOP
    }
    found = {
        key: memory
        for key, memory in active_memories(plans, after).items()
        if not any(key.startswith(scope) for scope in entered)
    }
    return kept_through(found) if disturbed else found
