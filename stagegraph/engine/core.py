"""Core: the engine on numbers. It counts, looks when a look is due, decides, and acts.

Between two looks an update costs a few additions and one comparison: guards that wait for time
are not asked before their time, guards on metrics not before one arrives. A property test holds
this against an engine that looks at every update.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from stagegraph.engine.absorb import Arrival, Observation, absorb, told_twice
from stagegraph.engine.asking import answered
from stagegraph.engine.decide import (
    Decision,
    begins_before_forward,
    decide,
    held_at_start,
    initial_moves,
    is_asked,
    why_it_ends,
)
from stagegraph.engine.due import due, evaluations
from stagegraph.engine.explain import Explanation, explain, waiting_for
from stagegraph.engine.holding import all_alphas, alphas, effects, moving, values
from stagegraph.engine.machine import Machines
from stagegraph.engine.memories import MemoryLeaf, heeds
from stagegraph.engine.meter import Meter
from stagegraph.engine.metrics import (
    MetricNames,
    Unread,
    as_number,
    check_number,
    read_one_by_one,
)
from stagegraph.engine.moves import Step, work_out
from stagegraph.engine.plans import Plans, Watch
from stagegraph.engine.ports import Actor, Boundary, Outcome, Reader, Record, Sink
from stagegraph.engine.records import (
    boundary_records,
    clock_record,
    end_record,
    error_record,
    metric_record,
    quiet_records,
    record,
    verdict_records,
    vitals_record,
)
from stagegraph.engine.state import PendingEvent, State
from stagegraph.engine.values import Test
from stagegraph.errors import (
    ActionError,
    MetricError,
    MissingFact,
    ProgressError,
    SnapshotError,
    StageGraphError,
    did_you_mean,
)
from stagegraph.graph.compiled import CompiledGraph
from stagegraph.graph.needs import needs
from stagegraph.progress import Progress, Unit
from stagegraph.schema.dump import digest

__all__ = ["Core"]

_Tests = tuple[tuple[tuple[Test, ...], Test], ...]

MAX_PENDING = 1024
"""Metric values that may wait for the next look."""


@dataclass(slots=True)
class _Waiting:
    """A value that waits for the next look, as :class:`Arrival`; ``at`` counts updates since."""

    at: int
    name: str
    value: float | Unread
    seen: bool
    trend: bool
    cell: int | None

    def arrival(self, updates: int) -> Arrival:
        assert type(self.value) is not Unread, "it was read before"
        return Arrival(
            self.name, self.value, max(0, updates - self.at), self.seen, self.trend, self.cell
        )


class Core:
    """One graph, running.

    Args:
        graph: The compiled graph, without errors.
        actor: Who carries out what is decided.
        sink: Who keeps the records, or ``None``.
        clock: Monotonic seconds; ``None``: seconds are given with each step.
        seed: The run's seed, from which every action gets its own.
        reader: Who fetches metrics from where they were computed; ``None``: one after the other.
        eager: Look at every update, due or not (for tests).
    """

    def __init__(
        self,
        graph: CompiledGraph,
        actor: Actor,
        *,
        sink: Sink | None = None,
        clock: Callable[[], float] | None = None,
        seed: int = 0,
        reader: Reader | None = None,
        eager: bool = False,
    ) -> None:
        self.graph = graph
        self.state = State()
        self.wants_evaluation = False
        """Whether an evaluation is due; the boundary waits for :meth:`observe`."""
        self.sink = sink
        """Who keeps the records; records that nobody keeps are not made."""
        self.refuse: Callable[[], None] | None = None
        """Called with each update before it counts; raises if it must not."""
        self.loss: Any = None
        """The training loss of the last update, as it was given."""
        self._actor = actor
        self._seed = seed
        self._eager = eager
        self._plans = Plans(graph)
        self._machines = Machines(graph)
        self._names = MetricNames(graph.graph.metrics)
        self._reads_loss = "loss" in self._names.by_source
        counted = needs(graph).facts & {"epochs", "samples", "tokens", "flops"}
        self.meter = Meter(counted, clock)
        """What is counted besides updates."""
        self._digest = digest(graph.graph)
        self._undecided = False
        self._moving = False
        self._pending = 0
        self._reader: Reader = reader or read_one_by_one
        self._arrivals: list[_Waiting] = []
        self._unread = False
        self._followed = 0
        self._look: float = 0
        self._others: dict[Unit, float] = {}
        self._watch: dict[str, list[tuple[list[float], Watch, _Tests]]] = {}
        self._remembered: frozenset[str] = frozenset()
        self._trends: dict[str, list[tuple[str, MemoryLeaf]]] = {}
        self._cells: dict[str, int | None] = {}
        declared = graph.graph.metrics
        self._sparse = {n: m.look_every for n, m in declared.items() if m.look_every is not None}
        self._strict = frozenset(n for n, m in declared.items() if m.nonfinite == "error")

    # What can be seen

    @property
    def started(self) -> bool:
        """Whether boundary 0 has been decided."""
        return bool(self.state.regions)

    @property
    def done(self) -> bool:
        """Whether the run has ended."""
        return self.state.ended is not None

    @property
    def stages(self) -> dict[str, str]:
        """Each region's stage, by its name in the region."""
        stages = self.graph.stages
        return {name: stages[key].name for name, key in self.state.stages.items()}

    @property
    def progress(self) -> Progress:
        """The clock, updates since the last look included."""
        return (
            self.state.clock
            if self.done
            else self.state.clock + self.meter.since_look(self._pending)
        )

    @property
    def metric_names(self) -> frozenset[str]:
        """Every name that a metric of the graph may be given under."""
        return frozenset(self._names.by_source)

    @property
    def begins_before_forward(self) -> bool:
        """Whether boundary 0 changes what the first forward computes or trains."""
        return begins_before_forward(self.graph)

    def explain(self) -> list[Explanation]:
        """For each way out of the present stages: its guard with the values it sees."""
        self._flush()
        return explain(self._plans, self.state)

    def waits(self) -> list[str]:
        """In a few words per way out: what it waits for."""
        self._flush()
        return waiting_for(self._plans, self.state)

    def write_vitals(self, lr: list[float], loss: float | None) -> None:
        """Record how the model is trained from here on."""
        self._flush()
        self._write((vitals_record(self.state, alphas(self.graph, self.state), lr, loss),))

    # What happens

    def start(self) -> None:
        """Decide boundary 0, once: enter the initial stages."""
        if self.started:
            return
        self._pending = 0
        self._forget_arrivals()
        self.meter.restart()
        self.state = replace(self.state, facts=self._actor.facts())
        moves = initial_moves(self.graph)
        held = held_at_start(self.graph, self.state, moves)
        if held is not None:
            raise ActionError(held[0], f"the run cannot begin with it: {held[1]}")
        ends = why_it_ends(self.graph, self.state, moves, {})
        self._carry_out(Decision(moves, {}, ends))

    def step(
        self,
        /,
        *,
        samples: int = 0,
        tokens: int = 0,
        flops: int = 0,
        seconds: float = 0.0,
        epoch: Fraction | float | None = None,
        loss: Any = None,
        **metrics: Any,
    ) -> None:
        """One optimizer update is over.

        Args:
            samples: Training samples in it, over all ranks.
            tokens: Training tokens in it, over all ranks.
            flops: Floating-point operations of it.
            seconds: Wall time of it, if the engine has no clock of its own.
            epoch: The host's reading of passes over the data, with the fraction of the running
                one. Differences count, so it need not go back at a rollback.
            loss: The training loss, to be shown; a metric too if the graph declares it.
            metrics: Values of declared metrics, measured with this update.

        Raises:
            ActionError: The boundary's actions failed, and the graph has no answer to it.
            MetricError: A metric is not declared, or its value is no number.
            MissingFact: The graph reads samples, tokens, epochs or flops, and nobody counts them.
            ProgressError: Progress goes backwards.
        """
        if self.refuse is not None:
            self.refuse()
        if self._look <= 0 and self.state.ended is not None:
            return
        # What is refused is refused before anything is counted.
        if loss is not None:
            if self._reads_loss:
                metrics["loss"] = loss
            elif type(loss) is not float:
                check_number("loss", loss)
        given = self._names.take(metrics) if metrics else None
        amounts = samples or tokens or flops or seconds
        if amounts:
            samples, tokens, flops = self.meter.checked(samples, tokens, flops, seconds)
        if self._look <= 0 and self._settled():
            return
        before = self._mark() if self.meter.uncounted else None
        if epoch is not None or self.meter.coming is not None:
            self.meter.take(epoch)
        self._pending += 1
        if amounts:
            self.meter.count(samples, tokens, flops, seconds)
        if loss is not None:
            # Only its value is kept: a tensor's graph would hold the model's parameters.
            detach = getattr(loss, "detach", None)
            self.loss = loss if detach is None else detach()
        if given is not None and self._arrive(given):
            self._look = 0
        try:
            if self._pending >= self._look or (self._others and self.meter.due(self._others)):
                self._boundary()
            elif self._moving:
                self._tune()
        except MissingFact:
            if before is not None:
                self._undo(before)
            raise

    def observe(self, /, **metrics: Any) -> None:
        """Metrics of an evaluation; decides the boundary if it waited, else the next sees them.

        Raises:
            ActionError: As for :meth:`step`.
            MetricError: As for :meth:`step`.
        """
        if self.state.ended is not None:
            return
        given = self._names.take(metrics)
        if self._over():
            return
        arrivals = [self._arrival(name, value) for name, value in given]
        self._unread = True
        self._read(arrivals)
        self._flush()
        late = not self._undecided
        if late:
            self._look = 1
        self._absorb(Progress(), arrivals, with_update=False, late=late)
        if not late:
            self._decide()

    def finish(self) -> None:
        """Decide a boundary that still waits for an evaluation; training is over."""
        if self._undecided:
            self._decide()
        self._flush()

    def send(self, event: str) -> None:
        """An event from outside, delivered at the next boundary at which guards are asked.

        Raises:
            ProgressError: The event is not declared.
        """
        if event not in self.graph.graph.events:
            known = did_you_mean(event, self.graph.graph.events)
            raise ProgressError(f"event {event!r} is not declared in 'events'{known}")
        if self.done:
            return
        self._flush()
        self.state = replace(self.state, events=(*self.state.events, PendingEvent(event)))
        self._write((record("event", self.state, name=event, status="sent"),))
        if self.started and not self._undecided:
            self._look = 1

    # Resume

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, as JSON data."""
        self._flush()
        return {
            "engine": self.state.to_json(self._digest),
            "undecided": self._undecided,
            "reading": str(self.meter.reading),
            "actor": self._actor.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; no entry action runs again.

        Raises:
            SnapshotError: It belongs to another graph or version, or is damaged.
        """
        try:
            engine, actor = state["engine"], state["actor"]
            undecided, reading = bool(state["undecided"]), Fraction(state["reading"])
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise SnapshotError(f"this is no saved state of an engine: {error!r}") from error
        loaded = State.from_json(engine, self._digest)
        for region, stage in loaded.stages.items():
            if stage not in self.graph.stages:
                raise SnapshotError(
                    f"this state has region {region!r} in {stage!r}, which is no stage of the graph"
                )
        before = self._actor.state_dict()
        try:
            self._actor.load_state_dict(actor)
            self._hold(loaded)
        except (StageGraphError, AttributeError, KeyError, TypeError, ValueError) as error:
            self._actor.load_state_dict(before)
            raise SnapshotError(f"this state does not fit the model: {error}") from error
        self.state = loaded
        self._undecided = self.wants_evaluation = undecided
        self._pending = 0
        self._forget_arrivals()
        self.meter.load(reading)
        self.meter.stand(loaded.clock)
        if loaded.regions:
            self._machines.set(loaded.stages)
        self._arm(soon=True)

    def _hold(self, state: State) -> None:
        """Put in force what a state holds, without entering anything."""
        if state.regions:
            held, alpha = effects(self.graph, state), all_alphas(self.graph, state)
            self._actor.transact(
                Boundary(state.clock.step, None, (), held, alpha, (), state.spent.step),
                lambda outcome: None,
            )

    # Looking

    def _boundary(self) -> None:
        """A look is due: ask for an evaluation, or decide."""
        try:
            self._flush()
        except MetricError:
            self._undecided, self._look = True, 0
            raise
        counts = evaluations(self.graph, self.state)
        if any(count > self.state.wanted.get(name, 0) for name, count in counts.items()):
            self._undecided = self.wants_evaluation = True
            self._look = 0
            self._tune()
            self._moving = bool(moving(self.graph, self.state))
            return
        self._decide()

    def _decide(self) -> None:
        self._undecided = self.wants_evaluation = False
        self._flush()
        self.state, missing = answered(self._plans, self.state)
        self._write(missing)
        self._carry_out(decide(self._plans, self.state))

    def _carry_out(self, decision: Decision) -> None:
        """Act on a decision; the state moves only if the boundary's transaction holds."""
        before = self.state
        try:
            step = work_out(self._plans, before, decision, seed=self._seed)
            if step.boundary is None:
                self._write(tuple(quiet_records(before, step)))
                self.state = step.state
                self._tune()
            else:
                self.state = self._transact(before, decision, step, step.boundary)
        except ActionError as error:
            self._failed(decision, error)
        except BaseException:
            self._arm(soon=True)
            raise
        else:
            self._arm(soon=bool(decision.moves))

    def _transact(self, before: State, decision: Decision, step: Step, boundary: Boundary) -> State:
        def confirm(outcome: Outcome) -> None:
            after = replace(step.state, facts=outcome.facts)
            records = boundary_records(before, decision, step, outcome)
            self._write(records + ((end_record(after),) if after.ended else ()))

        outcome = self._actor.transact(boundary, confirm)
        for move in decision.moves:
            self._machines.move(move)
        after = replace(step.state, facts=outcome.facts)
        if boundary.restore is not None:
            self._machines.set(after.stages)
        assert after.ended == "stop" or self._machines.stages == after.stages
        return after

    def _failed(self, decision: Decision, error: ActionError) -> None:
        """Count the error; go on if the author said how, else hand it on."""
        move = decision.blamed(error.action)
        edge = move.edge if move is not None else None
        attempt = 1
        if edge is not None:
            attempt += self.state.errors.get(edge.id, 0)
            self.state = replace(self.state, errors={**self.state.errors, edge.id: attempt})
        self._arm(soon=True)
        self._write((error_record(self.state, edge.id if edge else None, error, attempt),))
        if edge is None or edge.fallback is None or (move is not None and move.fallback):
            raise error

    def _arm(self, *, soon: bool) -> None:
        """Work out when to look next, and what to look at when a metric arrives.

        Args:
            soon: Look at the next boundary in any case. After a move, guards that no metric and
                no time will change may be true: of a stage, of visits, or none at all.
        """
        state = self.state
        self._watch = {}
        self._trends = {}
        self._others = {}
        self._moving = False
        if state.ended is not None or not state.regions:
            self._look = 0
            return
        self.meter.align(state.clock)
        next_looks = due(self._plans, state)
        self._look = max(1.0, next_looks.pop(Unit.STEPS, math.inf) - state.clock.step)
        self._others = next_looks
        if soon or state.events or self._eager:
            self._look = 1
        if self._undecided:
            self._look = 0
        remembered: frozenset[str] = frozenset()
        for here in state.regions.values():
            plan = self._plans[here.stage]
            remembered |= plan.remembered
            for memory, leaf in plan.trends.items():
                self._trends.setdefault(leaf.metric, []).append((memory, leaf))
            frame = plan.frame(self.graph, state)
            for watch in plan.watched:
                tests = tuple(
                    (gate, test)
                    for edge, gate, test in watch.tests
                    if is_asked(edge, plan.stage, here, state)
                )
                if tests:
                    self._watch.setdefault(watch.metric, []).append((frame, watch, tests))
        remembered |= self._strict
        # A metric may also make a blocked edge's guard false, and that is told.
        self._remembered = remembered | self._watch.keys() if state.blocked else remembered
        self._cells = {name: metric.cell for name, metric in state.metrics.items()}
        self._moving = bool(moving(self.graph, state))

    def _tune(self) -> None:
        """Set moving ramps for the next update."""
        if self._moving:
            state = replace(self.state, clock=self.progress)
            self._actor.tune(values(self.graph, state))

    # Metrics

    def _arrive(self, given: list[tuple[str, float | Unread]]) -> bool:
        """Take metrics that came with an update; whether some guard may be true now.

        What is on a device is read if a guard that is asked needs it, and then together with all
        that waits.
        """
        urgent = needed = False
        for name, value in given:
            arrival = self._arrival(name, value)
            self._arrivals.append(arrival)
            if type(value) is Unread:
                self._unread = True
            if not arrival.seen:
                continue
            if arrival.trend or name in self._remembered:
                urgent = True
            elif not needed and name in self._watch:
                needed = any(
                    all(other(frame) for other in gate)
                    for frame, _, tests in self._watch[name]
                    for gate, _ in tests
                )
        if urgent or len(self._arrivals) >= MAX_PENDING:
            return True
        return needed and self._follow(given)

    def _arrival(self, name: str, value: float | Unread) -> _Waiting:
        """What becomes of a value that comes now; it depends on when it comes, not on what it is."""
        cell, seen, trend = None, True, False
        every = self._sparse.get(name)
        if every is not None:
            cell = math.floor(self._now(every.unit) / every.exact)
            before = self._cells.get(name)
            seen = before is None or cell > before
            if seen:
                self._cells[name] = cell
        if seen and name in self._trends:
            memories = self.state.memories
            trend = any(
                heeds(memories.get(key), leaf, float(self._now(leaf.unit)))
                for key, leaf in self._trends[name]
            )
        return _Waiting(self._pending, name, value, seen, trend or name in self._remembered, cell)

    def _now(self, unit: Unit) -> int | float | Fraction:
        if unit is Unit.STEPS:
            return self.state.clock.step + self._pending
        return self.progress.of(unit)

    def _follow(self, given: list[tuple[str, float | Unread]]) -> bool:
        """Let the frames follow the values that have come; whether a guard is true now."""
        self._read(())
        for arrival in self._arrivals[self._followed :]:
            value = arrival.value
            assert type(value) is not Unread
            if not arrival.seen:
                continue
            finite = -math.inf < value < math.inf
            for frame, watch, _ in self._watch.get(arrival.name, ()):
                if watch.counts:
                    frame[watch.index] = 0.0 if finite else frame[watch.index] + 1
                else:
                    frame[watch.index] = value if finite else math.nan
        self._followed = len(self._arrivals)
        return any(
            test(frame)
            for name, _ in given
            for frame, _, tests in self._watch.get(name, ())
            for _, test in tests
        )

    def _read(self, others: Sequence[_Waiting]) -> None:
        """Fetch what is still on a device, all of it at once.

        Args:
            others: Values that have come besides those that wait.

        Raises:
            MetricError: One is no number; it is dropped, and the others stay.
        """
        if not self._unread:
            return
        waiting = [a for a in (*self._arrivals, *others) if type(a.value) is Unread]
        if waiting:
            numbers = self._reader([a.value.value for a in waiting])
            refused: MetricError | None = None
            for arrival, number in zip(waiting, numbers, strict=True):
                try:
                    arrival.value = as_number(arrival.value.source, number)
                except MetricError as error:
                    arrival.value, arrival.seen, refused = math.nan, False, error
            if refused is not None:
                raise refused
        self._unread = False

    def _forget_arrivals(self) -> None:
        self._arrivals, self._unread, self._followed = [], False, 0

    def _mark(self) -> tuple[Any, ...]:
        """All that an update changes before a look, should it be refused."""
        counts = (self._pending, len(self._arrivals), self.loss, self._look, dict(self._cells))
        return (*counts, self.meter.mark())

    def _undo(self, mark: tuple[Any, ...]) -> None:
        pending, arrivals, self.loss, self._look, self._cells, counted = mark
        if self._pending > pending:  # else it has been absorbed
            self._pending = pending
            del self._arrivals[arrivals:]
            self._followed = min(self._followed, arrivals)
            self.meter.undo(counted)

    # Counting

    def _flush(self) -> None:
        """Absorb what was summed up since the last look; nothing is decided."""
        if not self.started or self.done:
            return
        self.meter.require(self._pending)
        self._read(())
        pending, arrivals = self._pending, self._arrivals
        added = self.meter.take_stock(pending)
        self._pending = 0
        self._forget_arrivals()
        self._look = max(1.0 if pending < self._look else 0.0, self._look - pending)
        if pending or arrivals or added != Progress():
            self._absorb(added, arrivals)

    def _absorb(
        self,
        added: Progress,
        waiting: Sequence[_Waiting],
        *,
        with_update: bool = True,
        late: bool = False,
    ) -> None:
        """Move the clocks and take the values in.

        Raises:
            MetricError: A value is not finite, and its metric says ``nonfinite: error``; it has
                been taken in and recorded, and the boundary is still to be decided.
        """
        before = self.state
        arrivals = told_twice(before, added, (w.arrival(added.step) for w in waiting))
        self.state = absorb(self._plans, before, Observation(added, tuple(arrivals)))
        if with_update:
            self.meter.stand(self.state.clock)
        if self.sink is not None:
            jump = self.meter.jump(added)
            if jump is not None:
                self._write((clock_record(self.state, jump),))
        if self.sink is not None and arrivals:
            records = [
                metric_record(
                    self.state, arrival, updates_ago=arrival.ago if with_update else None, late=late
                )
                for arrival in arrivals
            ]
            self._write((*records, *verdict_records(self._plans, before, self.state)))
        if self._strict:
            self._refuse_nonfinite(arrivals)

    def _refuse_nonfinite(self, arrivals: Sequence[Arrival]) -> None:
        for arrival in arrivals:
            if arrival.seen and arrival.name in self._strict and not math.isfinite(arrival.value):
                raise MetricError(
                    f"metric {arrival.name!r} was {arrival.value} at step "
                    f"{self.state.clock.step - arrival.ago}, and the graph says 'nonfinite: error' "
                    "of it; the value is recorded, and the next call goes on"
                )

    def _write(self, records: tuple[Record, ...]) -> None:
        if self.sink is not None and records:
            self.sink.write(records)

    def _settled(self) -> bool:
        """Decide what has been put off, and say whether the run has ended."""
        self.start()
        if self._undecided:
            self._decide()
        return self.state.ended is not None

    def _over(self) -> bool:
        """Begin, if nobody has; whether the run has ended."""
        self.start()
        return self.state.ended is not None
