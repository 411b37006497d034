"""Together: the engine's front on several ranks, where what differs per rank is made one.

Each rank runs the whole engine. Before an update, an evaluation or mail reaches it, the ranks
exchange one row of numbers, so that every engine gets the same; a tensor stays on its device until
the engine reads it, on all ranks at the same time. So all decide alike, and none can wait for
another at a boundary that the other has not come to.
"""

from __future__ import annotations

import math
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import zip_longest
from typing import Any, Self

from stagegraph.engine.commands import Message
from stagegraph.engine.core import Core
from stagegraph.engine.meter import Passes, exact_passes
from stagegraph.engine.metrics import Unread, as_number, check_number
from stagegraph.engine.ports import Reader
from stagegraph.engine.ranks import Group, Reduce, Status, reduced
from stagegraph.errors import MetricError, ProgressError, RankError, did_you_mean
from stagegraph.graph.compiled import CompiledGraph
from stagegraph.progress import Unit
from stagegraph.schema.dump import digest

__all__ = ["Together"]


class _Call(IntEnum):
    """What a rank has come to."""

    STEP = 1
    OBSERVE = 2
    FINISH = 3


_HEAD = ("call", "update", "samples", "tokens", "flops", "passes", "clock", "fault", "mail")
"""What a row begins with; then each event, and two numbers per metric, now and late."""

_TOLD, _MAIL = 1, 2
"""What ``mail`` of a row says: that the rank was told to go, that mail has come to it."""


_Given = dict[str, Unread | float]
"""Metrics that a rank was given, by what the graph calls them."""


class _Value:
    """A metric that ranks have, as a metric of the engine's that is read later.

    Attributes:
        metric: What the graph calls it.
        status: What this rank has of it.
        value: That.
    """

    def __init__(self, metric: str, status: Status, value: Any) -> None:
        self.metric = metric
        self.status = status
        self.value = value

    def detach(self) -> _Value:
        """Itself; it was detached when it came."""
        return self

    def item(self) -> float:
        """This rank's own number."""
        return as_number(self.metric, self.value) if self.status else math.nan


@dataclass(frozen=True, slots=True)
class _Row:
    """What ranks have told each other.

    Attributes:
        head: Per rank, the head of its row by name.
        events: Which events somebody has sent.
        now: Metrics of this update or evaluation, as the engine takes them.
        late: Those that were observed since the last boundary was decided.
    """

    head: Sequence[Mapping[str, float]]
    events: tuple[str, ...]
    now: dict[str, Any]
    late: dict[str, Any]

    def total(self, name: str) -> int:
        """The sum of a count over all ranks."""
        return sum(int(one[name]) for one in self.head)


class Together:
    """What an engine on one of several ranks is told by.

    Args:
        group: The ranks.
        graph: The graph.
        reader: Who fetches numbers from devices.

    Attributes:
        told: The signal by which this rank was told to go, or empty.
        go: Called with the signal once all ranks know of one.
        before_forward: Has :meth:`settle` called before the next training forward, or not.
    """

    def __init__(self, group: Group, graph: CompiledGraph, reader: Reader | None) -> None:
        self.group = group
        self._core: Callable[[], Core | None] = lambda: None
        self.told = ""
        self.go: Callable[[str], None] | None = None
        self.before_forward: Callable[[bool], None] | None = None
        self._graph = graph
        self._reader = reader
        declared = graph.graph.metrics
        self._metrics = tuple(sorted(declared))
        self._how: Mapping[str, Reduce] = {name: one.reduce for name, one in declared.items()}
        self._asks_in_amounts = any(
            one.every is not None and one.every.unit in (Unit.SAMPLES, Unit.TOKENS)
            for one in declared.values()
        )
        self._events = tuple(sorted(graph.graph.events))
        self._sent: list[str] = []
        self._late: _Given = {}
        self._now = 0.0
        self._began = time.monotonic()
        self._idle: Callable[[], None] | None = None
        self._refuse: Callable[[], None] | None = None

    @property
    def core(self) -> Core:
        """The engine's core."""
        core = self._core()
        assert core is not None, "the engine has gone"
        return core

    def serve(self, core: Core) -> Self:
        """Serve a core; what it is told goes over all ranks from here on."""
        self._core = weakref.ref(core)
        self._refuse, core.refuse = core.refuse, None
        core.in_lockstep = True
        core.desk.arrived = deque()
        return self

    def shake_hands(self, **same: Any) -> None:
        """See that all ranks have begun the same thing.

        Args:
            same: What must be the same on all, by what it is called in errors.

        Raises:
            RankError: Something differs; it names what, and the rank.
        """
        mine = {"graph": digest(self._graph.graph), **same}
        others = self.group.gather_data(mine)
        for rank, other in enumerate(others):
            for name, value in others[0].items():
                if other.get(name) != value:
                    raise RankError(
                        f"the ranks have begun different things: {_differing(name, value, other)} "
                        f"on rank {rank}; start all with the same script, graph and arguments"
                    )

    # What the core asks

    def clock(self) -> float:
        """Rank 0's seconds, as of the last exchange: the same on all ranks."""
        return self._now

    def read(self, values: Sequence[Any]) -> list[object]:
        """The numbers of values on all ranks, each reduced to one."""
        numbers = self._own_numbers(values)
        row: list[float] = []
        for value, number in zip(values, numbers, strict=True):
            failed = isinstance(number, MetricError)
            row += [-1.0 if failed else float(value.status), 0.0 if failed else number]
        rows = self.group.gather(row)
        found: list[object] = []
        for index, value in enumerate(values):
            pairs = [(int(one[2 * index]), one[2 * index + 1]) for one in rows]
            bad = next((rank for rank, (status, _) in enumerate(pairs) if status < 0), None)
            if bad is None:
                whole = reduced(pairs, self._how[value.metric])
                found.append(math.nan if whole is None else whole)
            elif isinstance(numbers[index], MetricError):
                found.append(numbers[index])
            else:
                found.append(MetricError(f"metric {value.metric!r} cannot be read on rank {bad}"))
        return found

    def _own_numbers(self, values: Sequence[_Value]) -> list[Any]:
        """This rank's numbers; 0 where it has none, the error where one cannot be read."""
        unread = [one for one in values if one.status is Status.UNREAD]
        fetched: Sequence[object]
        try:
            given = [one.value for one in unread]
            fetched = self._reader(given) if self._reader is not None and given else ()
        except Exception:  # noqa: BLE001 - which it was is found out below, and told by name
            fetched = ()
        known = dict(zip(map(id, unread), fetched, strict=False))
        numbers: list[Any] = []
        for one in values:
            try:
                raw = known.get(id(one), one.value)
                numbers.append(as_number(one.metric, raw) if one.status else 0.0)
            except MetricError as error:
                numbers.append(error)
        return numbers

    # What a loop tells

    def step(
        self,
        *,
        loss: Any = None,
        samples: int = 0,
        tokens: int = 0,
        flops: int = 0,
        epoch: Passes | None = None,
        **metrics: Any,
    ) -> None:
        """As :meth:`Engine.step`: amounts are this rank's, and summed up over all."""
        core = self.core
        core.start()
        self.settle()
        if core.done:
            return
        fault, given, own_loss = None, dict[str, Any](), loss
        counts, passes = (0, 0, 0), -1.0
        try:
            if self._refuse is not None:
                self._refuse()
            if loss is not None:
                check_number("loss", loss)
                if core.reads_loss:
                    metrics, own_loss = {"loss": loss, **metrics}, None
            given = self._take(metrics)
            counts = core.meter.checked(samples, tokens, flops, 0.0)
            passed = core.meter.coming if epoch is None else epoch
            passes = -1.0 if passed is None else float(exact_passes(passed))
        except Exception as error:  # noqa: BLE001 - all ranks must know before it is raised
            fault = error
        row = self._exchange(_Call.STEP, given, counts, passes, fault)
        self._deliver(row)
        core.step(
            loss=row.now.pop("loss", own_loss),
            samples=row.total("samples"),
            tokens=row.total("tokens"),
            flops=row.total("flops"),
            epoch=epoch,
            **row.now,
        )
        self._wait_for_evaluation()

    def evaluation_follows(
        self, *, samples: int = 0, tokens: int = 0, epoch: Passes | None = None
    ) -> bool:
        """As :meth:`Core.evaluation_follows`: amounts are this rank's, and all are told the same.

        Only an interval in samples or tokens needs an exchange.
        """
        if self._asks_in_amounts:
            rows = self.group.gather([float(samples), float(tokens)])
            samples, tokens = (int(sum(column)) for column in zip(*rows, strict=True))
        return self.core.evaluation_follows(samples=samples, tokens=tokens, epoch=epoch)

    def observe(self, **metrics: Any) -> None:
        """As :meth:`Engine.observe`; a boundary that does not wait sees it at the next update."""
        core = self.core
        core.start()
        if core.done:
            return
        if not core.undecided:
            self._late |= self._take(metrics)
            return
        fault, given = None, dict[str, Any]()
        try:
            given = self._take(metrics)
        except Exception as error:  # noqa: BLE001 - all ranks must know before it is raised
            fault = error
        row = self._exchange(_Call.OBSERVE, given, (0, 0, 0), -1.0, fault)
        self._deliver(row)
        core.observe(**row.now)
        self._wait_for_evaluation()

    def _wait_for_evaluation(self) -> None:
        """A rank that makes no evaluation goes on to its next forward; see to it before."""
        if self.before_forward is not None:
            self.before_forward(self.core.undecided)

    def settle_before_forward(self) -> None:
        """Decide what waits, in a loop that is about to train on.

        Raises:
            RankError: The run has ended there, and the other ranks will make no forward more.
        """
        self.settle()
        if self.core.done:
            raise RankError(
                "the run has ended at a boundary that waited for an evaluation, and this rank goes "
                "on to another forward; let every rank call engine.observe() where "
                "engine.wants_evaluation says so, with no metrics where it has none, or loop over "
                "engine.epochs(loader)"
            )

    def settle(self) -> None:
        """Decide a boundary that waits for an evaluation which this rank does not make.

        To be called before anything that all ranks do together, such as the next forward.
        """
        if self.core.undecided and not self.core.done:
            self.observe()

    def finish(self) -> None:
        """Training is over, if only for now: what came since the last update is everybody's."""
        self.settle()
        if self.core.started and not self.core.done:
            self._deliver(self._exchange(_Call.FINISH, {}, (0, 0, 0), -1.0, None))

    def send(self, event: str) -> None:
        """An event from outside, seen by all regions of all ranks at the next boundary.

        Raises:
            ProgressError: The graph does not declare it.
        """
        if event not in self._events:
            known = did_you_mean(event, self._events)
            raise ProgressError(f"event {event!r} is not declared in 'events'{known}")
        self._sent.append(event)

    # Mail

    def lead_pauses(self, idle: Callable[[], None] | None) -> None:
        """A run that keeps a folder can be paused: all wait for rank 0, which looks for mail.

        Args:
            idle: What rank 0 does meanwhile; ``None`` on the others.
        """
        self._idle, self.core.desk.idle = idle, self._wait

    def _wait(self) -> None:
        """The run is paused: rank 0 waits a little and looks, and tells the others."""
        if self._idle is not None:
            self._idle()
        told = next(filter(None, self.group.gather_data(self.told)), "")
        found = self.group.share([self._fetch(), self._read_clock()])
        self._hand_out(found[0])
        self._now = found[1]
        self._be_told(told)

    def _read_clock(self) -> float:
        return time.monotonic() - self._began

    def _fetch(self) -> list[Any]:
        """The mail that has come to this rank, taken off its desk."""
        arrived, found = self.core.desk.arrived, []
        while arrived:
            found.append(arrived.popleft().to_json())
        return found

    def _hand_out(self, messages: list[Any]) -> None:
        self.core.mail.extend(Message(**one) for one in messages)

    def _be_told(self, signal: str) -> None:
        if signal and self.go is not None:
            self.told = ""
            self.go(signal)
            self.core.desk.nudge()

    # The exchange

    def _take(self, metrics: Mapping[str, Any]) -> _Given:
        """Metrics by what the graph calls them; of one that came twice the last."""
        return dict(self.core.names.take(metrics))

    def _exchange(
        self,
        call: _Call,
        given: _Given,
        counts: tuple[int, int, int],
        passes: float,
        fault: Exception | None,
    ) -> _Row:
        core = self.core
        late, self._late = self._late, {}
        sent, self._sent = self._sent, []
        mail = _TOLD * bool(self.told) + _MAIL * bool(core.desk.arrived and not self.group.rank)
        number = core.state.spent.step + core.unabsorbed
        row: list[float] = [call, number, *counts, passes, self._read_clock()]
        row += [fault is not None, mail]
        row += [event in sent for event in self._events]
        for found in (given, late):
            for name in self._metrics:
                row += _told(found.get(name))
        rows = self.group.gather(row)
        heads = [dict(zip(_HEAD, one, strict=False)) for one in rows]
        self._require_together(heads)
        self._raise_faults([bool(head["fault"]) for head in heads], fault)
        self._now = heads[0]["clock"]
        if any(int(head["mail"]) & _TOLD for head in heads):
            self._be_told(next(filter(None, self.group.gather_data(self.told)), ""))
        if int(heads[0]["mail"]) & _MAIL:
            self._hand_out(self.group.share(self._fetch()))
        first = len(_HEAD)
        then = first + len(self._events)
        events = tuple(
            event
            for index, event in enumerate(self._events, first)
            if any(one[index] for one in rows)
        )
        now = self._values([one[then:] for one in rows], given)
        width = 2 * len(self._metrics)
        return _Row(heads, events, now, self._values([one[then + width :] for one in rows], late))

    def _values(self, rows: Sequence[Sequence[float]], own: _Given) -> dict[str, Any]:
        """Metrics as the engine gets them: numbers, and what is read later on all ranks."""
        values: dict[str, Any] = {}
        for at, name in enumerate(self._metrics):
            pairs = [(int(one[2 * at]), one[2 * at + 1]) for one in rows]
            how = self._how[name]
            heard = pairs[:1] if how == "rank0" else pairs
            if any(status == Status.UNREAD for status, _ in heard):
                mine = own.get(name)
                status = Status(pairs[self.group.rank][0])
                kept = mine.value if isinstance(mine, Unread) else mine
                values[name] = _Value(name, status, kept)
                continue
            number = reduced(pairs, how)
            if number is not None:
                values[name] = number
        return values

    def _deliver(self, row: _Row) -> None:
        """Events and late evaluations come before the update or evaluation at hand."""
        if row.late:
            self.core.observe(**row.late)
        for event in row.events:
            self.core.send(event)

    def reduce_measured(
        self, found: Mapping[str, float], fault: Exception | None
    ) -> dict[str, float]:
        """What a monitor has measured on each rank, reduced over all.

        Raises:
            MetricError: It has failed, on this rank.
            RankError: It has failed on another.
        """
        names = sorted(self.core.monitored)
        row: list[float] = [fault is not None]
        for name in names:
            row += _told(found.get(name))
        rows = self.group.gather(row)
        self._raise_faults([bool(one[0]) for one in rows], fault)
        values: dict[str, float] = {}
        for at, name in enumerate(names):
            pairs = [(int(one[1 + 2 * at]), one[2 + 2 * at]) for one in rows]
            number = reduced(pairs, self._how[name])
            values[name] = math.nan if number is None else number
        return values

    def _require_together(self, heads: Sequence[Mapping[str, float]]) -> None:
        """Refuse to go on with ranks that are not at the same place.

        Raises:
            RankError: They are not.
        """
        places = [(int(head["call"]), int(head["update"])) for head in heads]
        if len(set(places)) == 1:
            passes = [head["passes"] for head in heads]
            if len(set(passes)) > 1:
                raise RankError(
                    f"the ranks are at different passes over the data: {passes}; give every rank "
                    "as many batches (DistributedSampler, or drop_last=True)"
                )
            return
        said = [
            f"rank {rank} is in {_Call(call).name.lower()}() at update {at}"
            for rank, (call, at) in enumerate(places)
        ]
        raise RankError(
            f"the ranks are not at the same place: {', '.join(said)}; every rank must call "
            "step() once per update, and observe() where engine.wants_evaluation says so or not "
            "at all"
        )

    def all_or_none(self, fault: Exception | None) -> None:
        """Go on if no rank has failed.

        Raises:
            RankError: Another rank has; what this one has failed with is raised as it is.
        """
        self._raise_faults([bool(one[0]) for one in self.group.gather([fault is not None])], fault)

    def _raise_faults(self, failed: Sequence[bool], fault: Exception | None) -> None:
        if not any(failed):
            return
        texts = self.group.gather_data(None if fault is None else str(fault))
        if fault is not None:
            raise fault
        rank, text = next((n, one) for n, one in enumerate(texts) if one is not None)
        raise RankError(f"rank {rank}: {text}")


def _differing(name: str, value: Any, other: Mapping[str, Any]) -> str:
    """What is different, up to where the other rank is named."""
    if isinstance(value, list):
        found = zip_longest(value, other.get(name) or [], fillvalue="nothing")
        first, second = next((mine, theirs) for mine, theirs in found if mine != theirs)
        return f"{name}: {first} on rank 0, and {second}"
    return f"{name} is {value!r} on rank 0 and {other.get(name)!r}"


def _told(value: Unread | float | None) -> tuple[float, float]:
    if value is None:
        return Status.NONE, 0.0
    if isinstance(value, Unread):
        return Status.UNREAD, 0.0
    return Status.NUMBER, value
