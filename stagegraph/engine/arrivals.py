"""Arrivals: metric values between their coming and the next look.

A value on a device is kept there and read when a guard that is asked needs it, together with all
others that wait. Whether a value is looked at depends on when it comes and not on what it is, so
numbers and tensors lead to the same decisions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from stagegraph.engine.absorb import Arrival
from stagegraph.engine.decide import is_asked
from stagegraph.engine.memories import Memory, MemoryLeaf, heeds
from stagegraph.engine.metrics import Unread, as_number, read_one_by_one
from stagegraph.engine.plans import Plans, Watch
from stagegraph.engine.ports import Reader
from stagegraph.engine.state import State
from stagegraph.engine.unstable import Recent
from stagegraph.engine.values import Test
from stagegraph.errors import MetricError
from stagegraph.graph.compiled import CompiledGraph
from stagegraph.progress import Unit

__all__ = ["MAX_PENDING", "Arrivals", "Waiting"]

MAX_PENDING = 1024
"""Metric values that may wait for the next look."""

Given = Sequence[tuple[str, float | Unread]]
"""Metrics with the values that came, in order."""

_Tests = tuple[tuple[tuple[Test, ...], Test], ...]
"""Per edge that is asked: what else must be true for it, and its guard."""


@dataclass(slots=True)
class Waiting:
    """A value that waits for the next look.

    Attributes:
        at: With which update since the last look it came.
        name: The metric.
        value: Its number, once it is read.
        seen: As for :class:`Arrival`.
        trend: As for :class:`Arrival`.
        cell: As for :class:`Arrival`.
        unread: What is still on a device.
    """

    at: int
    name: str
    value: float
    seen: bool
    trend: bool
    cell: int | None
    unread: Unread | None

    def arrival(self, updates: int) -> Arrival:
        """The value as an observation of so many updates has it."""
        assert self.unread is None, "it was read before"
        ago = max(0, updates - self.at)
        return Arrival(self.name, self.value, ago, self.seen, self.trend, self.cell)


class Arrivals:
    """The values that wait, and what each can change.

    Args:
        graph: The graph, for what its metrics say.
        reader: Who fetches numbers from a device; ``None``: one after the other.
        now: The clock, in a unit.
    """

    def __init__(
        self,
        graph: CompiledGraph,
        reader: Reader | None,
        now: Callable[[Unit], int | float | Fraction],
    ) -> None:
        declared = graph.graph.metrics
        self.strict = frozenset(n for n, m in declared.items() if m.nonfinite == "error")
        """Metrics of which a value that is not finite is an error."""
        self._sparse = {n: m.look_every for n, m in declared.items() if m.look_every is not None}
        self._graph = graph
        self._reader: Reader = reader or read_one_by_one
        self._now = now
        self.waiting: list[Waiting] = []
        """What has come since the last look."""
        self._unread = False
        self._followed = self._read_to = 0
        self._watch: dict[str, list[tuple[list[float], Watch, _Tests]]] = {}
        self._remembered: frozenset[str] = frozenset()
        self._trends: dict[str, list[tuple[Memory | Recent | None, MemoryLeaf]]] = {}
        self._cells: dict[str, int | None] = {}

    @property
    def unread(self) -> bool:
        """Whether something is still on a device."""
        return self._unread

    def arm(self, plans: Plans, state: State) -> None:
        """Work out what to look at when a metric comes."""
        self._watch, self._trends = {}, {}
        remembered = self.strict
        for here in state.regions.values():
            plan = plans[here.stage]
            remembered |= plan.remembered
            for key, leaf in plan.trends.items():
                self._trends.setdefault(leaf.metric, []).append((state.memories.get(key), leaf))
            frame = plan.frame(self._graph, state)
            for watch in plan.watched:
                tests = tuple(
                    (gate, test)
                    for edge, gate, test in watch.tests
                    if is_asked(edge, plan.stage, here, state)
                )
                if tests:
                    self._watch.setdefault(watch.metric, []).append((frame, watch, tests))
        for key, leaf in plans.before.items() if state.regions else ():
            self._trends.setdefault(leaf.metric, []).append((state.recent.get(key), leaf))
        # A metric may also make a blocked edge's guard false, and that is told.
        self._remembered = remembered | self._watch.keys() if state.blocked else remembered
        self._cells = {name: metric.cell for name, metric in state.metrics.items()}

    # As values come

    def add(self, given: Given, at: int) -> bool:
        """Take values that came with an update; whether some guard may be true now.

        Args:
            given: The values.
            at: With which update since the last look.

        Raises:
            MetricError: As for :meth:`read`.
        """
        urgent = needed = False
        for name, value in given:
            arrival = self.one(name, value, at)
            self.waiting.append(arrival)
            if arrival.trend:
                urgent = True
            elif arrival.seen and not needed and name in self._watch:
                needed = self._needs(name)
        if urgent or len(self.waiting) >= MAX_PENDING:
            return True
        return needed and self._follow(given)

    def one(self, name: str, value: float | Unread, at: int) -> Waiting:
        """What becomes of a value that comes now."""
        cell, seen = None, True
        every = self._sparse.get(name) if self._sparse else None
        if every is not None:
            cell = math.floor(self._now(every.unit) / every.exact)
            before = self._cells.get(name)
            seen = before is None or cell > before
            if seen:
                self._cells[name] = cell
        trend = seen and (
            name in self._remembered
            or (
                name in self._trends
                and any(
                    heeds(memory, leaf, float(self._now(leaf.unit)))
                    for memory, leaf in self._trends[name]
                )
            )
        )
        if isinstance(value, Unread):
            self._unread = True
            return Waiting(at, name, math.nan, seen, trend, cell, value)
        return Waiting(at, name, value, seen, trend, cell, None)

    def _needs(self, name: str) -> bool:
        """Whether the metric alone decides over some guard, all else in it being true."""
        return any(
            all(other(frame) for other in gate)
            for frame, _, tests in self._watch[name]
            for gate, _ in tests
        )

    def _follow(self, given: Given) -> bool:
        """Let the frames follow the values that have come; whether a guard is true now."""
        self.read()
        for arrival in self.waiting[self._followed :]:
            if not arrival.seen:
                continue
            finite = -math.inf < arrival.value < math.inf
            for frame, watch, _ in self._watch.get(arrival.name, ()):
                if watch.counts:
                    frame[watch.index] = 0.0 if finite else frame[watch.index] + 1
                else:
                    frame[watch.index] = arrival.value if finite else math.nan
        self._followed = len(self.waiting)
        return any(
            test(frame)
            for name, _ in given
            for frame, _, tests in self._watch.get(name, ())
            for _, test in tests
        )

    # At a look

    def read(self, others: Iterable[Waiting] = ()) -> None:
        """Fetch what is still on a device, all of it at once.

        Args:
            others: Values that have come besides those that wait.

        Raises:
            MetricError: One is no number; it is told as NaN, and no guard looks at it.
        """
        if not self._unread:
            return
        new = (*self.waiting[self._read_to :], *others)
        unread = [(w, w.unread) for w in new if w.unread is not None]
        numbers = self._fetch([value for _, value in unread])
        refused: MetricError | None = None
        for (arrival, value), number in zip(unread, numbers, strict=True):
            try:
                if isinstance(number, MetricError):
                    raise number
                arrival.value = as_number(value.source, number)
            except MetricError as error:
                arrival.seen, refused = False, error
            arrival.unread = None
        self._unread, self._read_to = False, len(self.waiting)
        if refused is not None:
            raise refused

    def _fetch(self, unread: Sequence[Unread]) -> Sequence[object]:
        """The numbers of values; in place of one that cannot be read, the error that says so."""
        if not unread:
            return ()
        try:
            return self._reader([one.value for one in unread])
        except Exception:  # noqa: BLE001 - which it was is found out below, and raised by name
            return [_alone(one) for one in unread]

    def forget(self) -> None:
        """Drop what waits."""
        self.waiting, self._unread = [], False
        self._followed = self._read_to = 0

    def mark(self) -> tuple[Any, ...]:
        """What :meth:`add` changes, to go back to with :meth:`undo` if an update is refused."""
        return len(self.waiting), dict(self._cells)

    def undo(self, mark: tuple[Any, ...]) -> None:
        """Be as if nothing had come since the mark."""
        count, self._cells = mark
        del self.waiting[count:]
        self._followed = min(self._followed, count)
        self._read_to = min(self._read_to, count)

    def refuse_nonfinite(self, arrivals: Iterable[Arrival], state: State) -> None:
        """Say what a metric with ``nonfinite: error`` has come to.

        Raises:
            MetricError: A value that was looked at is not finite.
        """
        for arrival in arrivals:
            if arrival.seen and arrival.name in self.strict and not math.isfinite(arrival.value):
                raise MetricError(
                    f"metric {arrival.name!r} was {arrival.value} at step "
                    f"{state.clock.step - arrival.ago}, and the graph says 'nonfinite: error' of "
                    "it; the value is recorded, and the next call goes on"
                )


def _alone(unread: Unread) -> object:
    try:
        return unread.value.item()
    except Exception as error:  # noqa: BLE001 - whatever a device or a layout has against it
        refused = MetricError(
            f"metric {unread.source!r} cannot be read: {type(error).__name__}: {error}"
        )
        refused.__cause__ = error
        return refused
