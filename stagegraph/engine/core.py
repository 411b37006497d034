"""Core: the engine on numbers. It counts, looks when a look is due, decides, and acts.

Between two looks an update costs a few additions and one comparison: guards that wait for time
are not asked before their time, guards on metrics not before one arrives. A property test holds
this against an engine that looks at every update.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from stagegraph.engine import trials
from stagegraph.engine.absorb import Observation, absorb, told_twice
from stagegraph.engine.arrivals import Arrivals, Waiting
from stagegraph.engine.asking import answered
from stagegraph.engine.commands import Message
from stagegraph.engine.decide import begins_before_forward, decide, initial_moves, why_it_ends
from stagegraph.engine.decision import Decision
from stagegraph.engine.desk import Desk
from stagegraph.engine.due import due, evaluations
from stagegraph.engine.explain import Explanation, explain, waiting_for
from stagegraph.engine.fitting import check_fits
from stagegraph.engine.foretelling import Foretelling
from stagegraph.engine.holding import all_alphas, alphas, effects, moving, values
from stagegraph.engine.locks import held_at_start
from stagegraph.engine.machine import Machines
from stagegraph.engine.meter import Meter, Passes, exact_passes
from stagegraph.engine.metrics import MetricNames, check_number
from stagegraph.engine.moves import Step, work_out
from stagegraph.engine.pausing import wait_while_paused
from stagegraph.engine.plans import Plans
from stagegraph.engine.ports import Actor, Boundary, Outcome, Reader, Record, Sink
from stagegraph.engine.quiet import Quiet
from stagegraph.engine.records import (
    boundary_records,
    clock_record,
    command_record,
    end_record,
    error_record,
    event_record,
    mail_records,
    metric_record,
    quiet_records,
    record,
    verdict_records,
    vitals_record,
)
from stagegraph.engine.replay import Outside
from stagegraph.engine.saved import Saved
from stagegraph.engine.settling import settled
from stagegraph.engine.state import DAMAGE, PendingEvent, State
from stagegraph.engine.taking import Taken, Verdict, take
from stagegraph.engine.weakly import weakly
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

    in_lockstep = False
    """Whether values are read on several ranks at once, and so not by who only looks."""

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
        self.beginning: Callable[[], None] | None = None
        """Called before boundary 0 is decided; raises if the run must not begin."""
        self.decided: Callable[[bool], None] | None = None
        """Called after each boundary that has been decided and has held; told whether the model's
        structure changed there."""
        self.host_rate: Callable[[], float | None] | None = None
        """Tells the host's learning rate, which goes beside what guards remember."""
        self.monitor: Callable[[], Mapping[str, Any]] | None = None
        """Measures metrics itself, by name, where evaluations of them are due."""
        self.monitored: frozenset[str] = frozenset()
        """The metrics that it measures; nobody else is asked for them."""
        self.appointments: Mapping[Unit, float] = {}
        """Readings of the clock at which to look even if nothing else is due."""
        self.desk = Desk()
        """Who is asked about mail from outside."""
        self.mail = self.desk.mail
        """Mail from outside. Another thread may append; the next boundary takes it."""
        self._actor = actor
        self._seed = seed
        self._eager = eager
        self._plans = Plans(graph)
        self._machines = Machines(graph)
        self._names = MetricNames(graph.graph.metrics)
        self._reads_loss = "loss" in self._names.by_source
        counted = needs(graph).facts & {"epochs", "samples", "tokens", "flops"}
        self._reads_flops = "flops" in counted
        self.foretelling = Foretelling(graph)
        self.quiet = Quiet(self.mail, clock)
        """Where updates like the last one are counted."""
        self.meter = Meter(counted, clock, self.quiet)
        """What was counted since the last look, which the state does not know of yet."""
        self._digest = digest(graph.graph)
        self._clock_until: float = math.inf
        self._clocked = 0
        self._undecided = self._moving = False
        self._arrivals = Arrivals(graph, reader, weakly(self._now))
        self._look: float = 0
        self._counts_only = not (self._reads_loss or self._reads_flops)

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
        return self.state.clock if self.done else self.state.clock + self.meter.since_look()

    @property
    def unabsorbed(self) -> int:
        """Updates since the last look, which the state does not know of yet."""
        return self.meter.updates

    @property
    def loss(self) -> Any:
        """The last update's training loss, as it was given; ``None`` if nobody was shown it."""
        return self.quiet.loss

    @property
    def undecided(self) -> bool:
        """Whether a boundary waits for an evaluation."""
        return self._undecided

    @property
    def names(self) -> MetricNames:
        """What hosts call the metrics."""
        return self._names

    @property
    def reads_loss(self) -> bool:
        """Whether the training loss is a metric of the graph."""
        return self._reads_loss

    @property
    def begins_before_forward(self) -> bool:
        """Whether boundary 0 changes what the first forward computes or trains."""
        return begins_before_forward(self.graph)

    def explain(self) -> list[Explanation]:
        """For each way out of the present stages: its guard with the values it sees."""
        self._catch_up()
        return explain(self._plans, self.state)

    def waits(self) -> list[str]:
        """In a few words per way out: what it waits for."""
        self._catch_up()
        return waiting_for(self._plans, self.state)

    def waits_in(self, state: State) -> list[str]:
        """The same for a state that was read before; nothing is counted, so any thread may ask."""
        return waiting_for(self._plans, state)

    def write_vitals(self, lr: list[float], loss: float | None) -> None:
        """Record how the model is trained from here on."""
        self._catch_up()
        self._write((vitals_record(self.state, alphas(self.graph, self.state), lr, loss),))

    def tell(self, kind: str, /, **values: Any) -> None:
        """Record something that belongs here and decides nothing."""
        self._write((record(kind, self.state, **values),))

    @property
    def alphas(self) -> dict[str, float]:
        """The alphas now, by cohort."""
        return dict(alphas(self.graph, replace(self.state, clock=self.progress)))

    def evaluation_follows(
        self, *, samples: int = 0, tokens: int = 0, epoch: Passes | None = None
    ) -> bool:
        """Whether the next update, if it takes so much, will want an evaluation from outside.

        Nothing is counted. An interval in seconds is known only when its update is.
        """
        return self.foretelling.follows(
            self.state,
            self.meter,
            (samples, tokens, epoch),
            after=lambda: self._after(samples, tokens, epoch),
            monitored=self.monitored,
        )

    def tune_ahead(self, *, samples: int = 0, tokens: int = 0, epoch: Passes | None = None) -> None:
        """Set moving ramps as the next update, if it takes so much, will find them set after it.

        A host that evaluates before it tells of the update then evaluates the same model as one
        that tells first. Nothing is counted.
        """
        if self._moving and not self._undecided:
            self._actor.tune(values(self.graph, self._after(samples, tokens, epoch)))

    def _after(self, samples: int, tokens: int, epoch: Passes | None) -> State:
        """The state with the clock after an update that takes so much."""
        added = _of_update(samples, tokens, epoch, self.meter.reading)
        return replace(self.state, clock=self.progress + added)

    # What happens

    def start(self) -> None:
        """Decide boundary 0, once: enter the initial stages. A paused run stays paused."""
        if self.started:
            wait_while_paused(self)
            return
        if self.beginning is not None:
            self.beginning()
        self._arrivals.forget()
        self.meter.restart()
        self.state = replace(self.state, facts=self._actor.facts())
        moves = initial_moves(self.graph, self.state)
        held = held_at_start(self.graph, self.state, moves)
        if held is not None:
            raise ActionError(held[0], f"the run cannot begin with it: {held[1]}")
        ends = why_it_ends(self.graph, self.state, moves, {})
        self.carry_out(Decision(moves, {}, ends))

    def step(  # noqa: C901, PLR0912 - every update comes through here, and each call costs
        self,
        /,
        *,
        samples: int = 0,
        tokens: int = 0,
        flops: int = 0,
        seconds: float = 0.0,
        epoch: Passes | None = None,
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
                one, or a pair ``(batches, of)``: so many batches, of which a pass has so many.
                Differences count, so it need not go back at a rollback.
            loss: The training loss, to be shown; a metric too if the graph declares it. While
                nothing is due and nobody keeps records, it is not looked at.
            metrics: Values of declared metrics, measured with this update.

        Raises:
            ActionError: The boundary's actions failed, and the graph has no answer to it.
            MetricError: A metric is not declared, or its value is no number.
            MissingFact: The graph reads samples, tokens, epochs or flops, and nobody counts them.
            ProgressError: Progress goes backwards.
        """
        if (
            epoch is None
            and not (flops or seconds or metrics)
            and self.quiet.counts(loss, samples, tokens)
        ):
            return
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
                if hasattr(type(loss), "requires_grad"):
                    self.quiet.kind, self.quiet.dtype = type(loss), loss.dtype
        given = self._names.take(metrics) if metrics else None
        amounts = samples or tokens or flops or seconds
        if amounts:
            samples, tokens, flops = self.meter.checked(samples, tokens, flops, seconds)
        if self._look <= 0 and self._settled():
            return
        if self._reads_flops and not flops:
            flops = self._flops_of(samples)
            amounts = amounts or flops
        meter = self.meter
        before = self._mark() if meter.uncounted else None
        meter.take(samples, tokens, flops, seconds, epoch)
        if loss is not None:
            self.quiet.loss = _without_graph(loss)
        if given is not None and self._arrivals.add(given, meter.updates):
            self._look = 0
        try:
            if meter.updates >= self._look or self.mail or (meter.waits and meter.due()):
                self._boundary()
            elif self._moving:
                self._tune()
            elif self._counts_only and self.refuse is None:
                meter.arm(self._look - meter.updates, samples, tokens)
                self.quiet.shows = self.sink is not None
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
        arrivals = [self._arrivals.one(name, value, self.unabsorbed) for name, value in given]
        self._arrivals.read(arrivals)
        late = not self._undecided
        self.meter.late = late
        try:
            self._flush()
        finally:
            self.meter.late = False
        if late:
            self._look_soon()
        self._absorb(Progress(), arrivals, late=late)
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
        seen_at = self.state.spent.step + (not self._undecided)
        self.desk.coming.sent_again(event, seen_at)
        self.state = replace(self.state, events=(*self.state.events, PendingEvent(event)))
        message = Message("", "event", event)
        self._write((event_record(self.state, message, seen_at=seen_at),))
        if self.started and not self._undecided:
            self._look_soon()

    # Resume

    def replay(self, outside: Outside) -> None:
        """Take again, each at its boundary, what came from outside since a checkpoint.

        To be called after :meth:`load_state_dict`, or before the beginning. What the state itself
        had still to replay comes too. Until the last of its readings, the wall clock is read out
        of it.
        """
        still = Outside(self.desk.coming.left(), self.meter.readings())
        expected = (still + outside).without_pauses()
        self.desk.coming.expect(expected.mail)
        self.meter.replay(expected.readings, self.state.spent.step)
        self._arm(soon=True)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, as JSON data."""
        self._flush()
        return {
            "engine": self.state.to_json(self._digest),
            "undecided": self._undecided,
            "reading": str(self.meter.reading),
            "seed": self._seed,
            "actor": self._actor.state_dict(),
            "replay": Outside(self.desk.coming.left(), self.meter.readings()).to_json(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; no entry action runs again.

        Raises:
            SnapshotError: It belongs to another graph or version, or is damaged.
        """
        saved, loaded = self.rebuild(state)
        self.state = loaded
        self._undecided = self.wants_evaluation = saved.undecided
        self._arrivals.forget()
        self.meter.load(saved.reading)
        self.meter.stand(loaded.clock)
        self.meter.replay(saved.outside.readings, loaded.spent.step)
        self.desk.coming.expect(saved.outside.mail)
        self._clocked = loaded.observations
        if loaded.regions:
            self._machines.set(loaded.stages)
        self._arm(soon=True)

    def rebuild(self, state: Mapping[str, Any]) -> tuple[Saved, State]:
        """Give the model the structure of a saved state, and hold what that held; no more.

        Raises:
            SnapshotError: As for :meth:`load_state_dict`; the model is as before.
        """
        saved = Saved.read(state, seed=self._seed)
        loaded = State.from_json(saved.state, self._digest)
        check_fits(self._plans, loaded)
        before = self._actor.state_dict()
        try:
            self._actor.load_state_dict(saved.actor)
            return saved, self._hold(loaded)
        except (StageGraphError, *DAMAGE) as error:
            self._actor.load_state_dict(before)
            raise SnapshotError(f"this state does not fit the model: {error}") from error

    def rebuild_ahead(
        self, state: Mapping[str, Any], *, samples: int, tokens: int, epoch: Passes | None
    ) -> None:
        """As :meth:`rebuild`, with ramps set as an update that was not told of would set them.

        Raises:
            SnapshotError: As for :meth:`load_state_dict`; the model is as before.
        """
        saved, loaded = self.rebuild(state)
        if not saved.undecided:
            after = loaded.clock + _of_update(samples, tokens, epoch, saved.reading)
            self._actor.tune(values(self.graph, replace(loaded, clock=after)))

    def _hold(self, state: State) -> State:
        """Put in force what a state holds, without entering anything.

        Returns:
            The state, with what the actor knows: an edited graph may have other growths.
        """
        if not state.regions:
            return state
        held, alpha = effects(self.graph, state), all_alphas(self.graph, state)
        outcome = self._actor.transact(
            Boundary(state.clock.step, None, (), held, alpha, (), state.spent.step),
            lambda outcome: None,
        )
        return replace(state, facts=outcome.facts)

    # Looking

    def _look_soon(self) -> None:
        """Look after the next update."""
        self.meter.rest()
        self._look = 1

    def _boundary(self) -> None:
        """A look is due: ask for an evaluation, or decide."""
        try:
            self._flush()
        except MetricError:
            self._undecided, self._look = True, 0
            raise
        counts, wanted = evaluations(self.graph, self.state), self.state.wanted
        due = {name for name, count in counts.items() if count > wanted.get(name, 0)}
        asked = trials.wants_evaluation(self.graph, self.state)
        due |= set() if asked is None else {asked}
        if due:
            self._undecided, self.wants_evaluation = True, not due <= self.monitored
            self._look = 0
            self._tune()
            self._moving = bool(moving(self.graph, self.state))
            if due & self.monitored:
                self._measure()
            if self.wants_evaluation:
                return
        self._decide()

    def _measure(self) -> None:
        """Let the monitor measure, and take in what it has found."""
        assert self.monitor is not None
        given = self._names.take(self.monitor())
        arrivals = [self._arrivals.one(name, value, self.unabsorbed) for name, value in given]
        self._arrivals.read(arrivals)
        self._absorb(Progress(), arrivals)

    def _decide(self) -> None:
        self._undecided = self.wants_evaluation = False
        self._flush()
        self.state, missing = answered(self._plans, self.state)
        self._write(missing)
        self._tell_clock()
        number, desk = self.state.spent.step, self.desk
        if not desk.waits(number):
            self.carry_out(decide(self._plans, self.state))
            wait_while_paused(self)  # of a pause that Ctrl-C has broken off
            return
        taken = take(self.graph, self.state, desk.take(number), desk.able)
        stop = taken.stop is not None
        decision = decide(self._plans, taken.state, forced=taken.forced, stop=stop)
        if self.carry_out(decision, taken):
            for message in taken.checkpoints:
                self.settle(desk.keep(message))
            wait_while_paused(self)

    def carry_out(self, decision: Decision, taken: Taken | None = None) -> bool:
        """Act on a decision; the state moves only if the boundary's transaction holds.

        Args:
            decision: What to do.
            taken: The mail that it was decided with; it waits for the next boundary if this one
                fails.

        Returns:
            Whether it has held.
        """
        taken = Taken(self.state) if taken is None else taken
        stood, before = self.state, taken.state
        try:
            step = work_out(self._plans, before, decision, seed=self._seed)
            verdicts = settled(taken, decision, step)
            mail = mail_records(self.state, taken, verdicts)
            if step.boundary is None:
                self._write((*mail, *quiet_records(before, step)))
                self.state = step.state
                self._tune()
            else:
                self._transact(before, decision, step, step.boundary, mail, taken)
        except ActionError as error:
            self._failed(decision, error, taken)
            return False
        except BaseException:
            if self.state is stood:
                self.desk.put_back(before.spent.step, taken.messages)
            else:  # an interrupt that came when all had happened
                self._machines.set(self.state.stages)
            self._arm(soon=True)
            raise
        self.desk.tell(verdicts)
        try:
            if self.decided is not None:
                self.decided(step.boundary is not None and step.boundary.structural)
        finally:
            # A guard that was true of an event is false at the next boundary, without a move too.
            self._arm(soon=bool(decision.moves or before.events))
        return True

    def _transact(
        self,
        before: State,
        decision: Decision,
        step: Step,
        boundary: Boundary,
        mail: tuple[Record, ...],
        taken: Taken,
    ) -> None:
        author = None if taken.stop is None else taken.stop.author

        def confirm(outcome: Outcome) -> None:
            after = step.state.learnt(outcome.facts, outcome.attributions)
            records = mail + boundary_records(before, decision, step, outcome)
            if after.ended:
                budget = self.graph.graph.budget
                records += (end_record(after, decision, budget, author=author),)
            self._write(records)
            # The last thing of all, so that model and engine move at one instant: an interrupt
            # from the keyboard comes before it and undoes everything, or after it and nothing.
            self.state = after

        self._actor.transact(boundary, confirm)
        after = self.state
        for move in decision.moves:
            self._machines.move(move)
        if boundary.restore is not None:
            self._machines.set(after.stages)
        assert after.ended == "stop" or self._machines.stages == after.stages

    def _failed(self, decision: Decision, error: ActionError, taken: Taken) -> None:
        """Count the error; go on if the author said how, else hand it on.

        A command that failed is refused, and the boundary is decided without it.
        """
        move = decision.blamed(error.action)
        edge = move.edge if move is not None else None
        forced = move.force.message if move is not None and move.force is not None else None
        waiting = [message for message in taken.messages if message is not forced]
        failed = trials.without_failed(self.state, decision.turn, error)
        if failed is not None:
            self.desk.put_back(self.state.spent.step, taken.messages)
            self.state = failed
            self._write((error_record(self.state, None, error, 1),))
            self._decide()
            return
        self.desk.put_back(self.state.spent.step, waiting)
        if forced is not None:
            self._arm(soon=True)
            verdict = Verdict(forced, "refused", str(error))
            self._write(
                (
                    error_record(self.state, None, error, 1),
                    command_record(self.state, verdict),
                )
            )
            self.desk.tell((verdict,))
            self._decide()
            return
        attempt = 1
        if edge is not None:
            attempt += self.state.errors.get(edge.id, 0)
            self.state = replace(self.state, errors={**self.state.errors, edge.id: attempt})
        self._arm(soon=True)
        blamed = edge.id if edge else None
        self._write((error_record(self.state, blamed, error, attempt, waiting),))
        if edge is None or edge.fallback is None or (move is not None and move.fallback):
            raise error

    def _arm(self, *, soon: bool) -> None:
        """Work out when to look next, and what to look at when a metric arrives.

        Args:
            soon: Look at the next boundary in any case. After a move, guards that no metric and
                no time will change may be true: of a stage, of visits, or none at all. After an
                event, what was blocked may be so no more.
        """
        state = self.state
        self.meter.rest()
        self.meter.wait({})
        self._moving = False
        if state.ended is not None or not state.regions:
            self._look = 0
            return
        self.meter.align(state.clock)
        next_looks = due(self._plans, state)
        self._clock_until = next_looks.get(Unit.SECONDS, math.inf)
        for unit, at in self.appointments.items():
            next_looks[unit] = min(at, next_looks.get(unit, math.inf))
        coming = min(self.desk.coming.next, self.meter.next_reading()) - state.spent.step
        self._look = max(1.0, next_looks.pop(Unit.STEPS, math.inf) - state.clock.step)
        self._look = max(1.0, min(self._look, coming))
        self.meter.wait(next_looks)
        if soon or state.events or self._eager:
            self._look = 1
        if self._undecided:
            self._look = 0
        self._arrivals.arm(self._plans, state)
        self._moving = bool(moving(self.graph, state))

    def _tune(self) -> None:
        """Set moving ramps for the next update."""
        if self._moving:
            state = replace(self.state, clock=self.progress)
            self._actor.tune(values(self.graph, state))

    def settle(self, *verdicts: Verdict) -> None:
        """Journal what became of commands, and answer."""
        self._write(tuple(command_record(self.state, verdict) for verdict in verdicts))
        self.desk.tell(verdicts)

    def _tell_clock(self) -> None:
        """Journal the wall clock's reading where a decision may hang on it.

        Between two readings no threshold in seconds is passed, so that a replay that knows the
        readings alone decides alike.
        """
        state = self.state
        passed = state.clock.seconds >= self._clock_until
        if not passed and state.clock.seconds:
            plans = [self._plans[key] for key in state.stages.values()]
            came = state.observations != self._clocked
            passed = any(p.reckons_with_clock or (came and p.times_metrics) for p in plans)
        self._clocked = state.observations
        if passed:
            self._write((record("reading", state),))

    # Counting

    def _now(self, unit: Unit) -> int | float | Fraction:
        """The clock in one unit."""
        if unit is Unit.STEPS:
            return self.state.clock.step + self.unabsorbed
        return self.progress.of(unit)

    def _flops_of(self, samples: int) -> int:
        """What an update took by what the model was measured to take.

        Raises:
            MissingFact: It is known per sample, and nobody says how many there were.
        """
        known = self.state.facts.flops
        if known is None:
            return 0
        if not samples:
            raise MissingFact(
                "the graph reads flops, which are counted per sample; give step(samples=), or "
                "step(flops=)"
            )
        flops, batch = known
        return round(flops * samples / batch)

    def _mark(self) -> tuple[Any, ...]:
        """What an update changes before a look, to go back to if it is refused."""
        counted = self.meter.mark()
        return self.meter.updates, (self.loss, self._look, self._arrivals.mark(), counted)

    def _undo(self, mark: tuple[Any, ...]) -> None:
        pending, (loss, look, arrivals, counts) = mark
        if self.unabsorbed > pending:  # else it has been absorbed
            self.quiet.loss, self._look = loss, look
            self._arrivals.undo(arrivals)
            self.meter.undo(counts)

    def _catch_up(self) -> None:
        """Absorb what was summed up, unless other ranks would have to be asked for it."""
        if not (self.in_lockstep and self._arrivals.unread):
            self._flush()

    def _flush(self) -> None:
        """Absorb what was summed up since the last look; nothing is decided."""
        if not self.started or self.done:
            return
        self.meter.rest()
        self.meter.require()
        self._arrivals.read()
        pending, waiting = self.meter.updates, self._arrivals.waiting
        now = self.meter.watch()
        added = self.meter.added(now)

        def counted(state: State) -> None:
            self.state, self.meter.counted = state, 0
            self._look = max(1.0 if pending < self._look else 0.0, self._look - pending)
            self._arrivals.forget()
            self.meter.take_stock(pending, now)

        if pending or waiting or added != Progress():
            self._absorb(added, waiting, counted)
        else:
            counted(self.state)

    def _absorb(
        self,
        added: Progress,
        waiting: Sequence[Waiting],
        counted: Callable[[State], None] | None = None,
        *,
        late: bool = False,
    ) -> None:
        """Move the clocks and take the values in.

        Args:
            added: What was counted since the last look.
            waiting: The values that have come.
            counted: Takes the new state and begins to count anew, at once: an interrupt from the
                keyboard before it loses nothing. ``None``: the values came with no update.
            late: Whether they come after their boundary was decided.

        Raises:
            MetricError: A value is not finite, and its metric says ``nonfinite: error``; it has
                been taken in and recorded, and the boundary is still to be decided.
        """
        before = self.state
        arrivals = told_twice(before, added, (w.arrival(added.step) for w in waiting))
        asked = self.host_rate is not None and any(arrival.trend for arrival in arrivals)
        rate = self.host_rate() if asked and self.host_rate is not None else None
        after = absorb(self._plans, before, Observation(added, tuple(arrivals), rate))
        if counted is None:
            self.state = after
        else:
            counted(after)
            self.meter.stand(self.state.clock)
        if self.sink is not None:
            jump = self.meter.jump(added)
            if jump is not None:
                self._write((clock_record(self.state, jump),))
        if self.sink is not None and arrivals:
            records = [
                metric_record(
                    self.state, arrival, updates_ago=arrival.ago if counted else None, late=late
                )
                for arrival in arrivals
            ]
            self._write((*records, *verdict_records(self._plans, before, self.state)))
        if self._arrivals.strict:
            self._arrivals.refuse_nonfinite(arrivals, self.state)

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


def _of_update(samples: int, tokens: int, epoch: Passes | None, reading: Fraction) -> Progress:
    """The progress of one update; ``epoch`` is the host's reading after it, ``reading`` before."""
    passes = Fraction(0) if epoch is None else exact_passes(epoch) - reading
    return Progress(step=1, samples=samples, tokens=tokens, epoch=passes)


def _without_graph(loss: Any) -> Any:
    """A loss whose value alone is kept: a tensor's graph would hold the model's parameters."""
    if getattr(loss, "requires_grad", True) is False:
        return loss
    detach = getattr(loss, "detach", None)
    return loss if detach is None else detach()
