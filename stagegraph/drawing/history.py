"""What a run's records say happened, put in order for drawing.

Records are journal lines. A roll-back returns the clock, so that steps can occur twice: what lies
after the snapshot's boundary on the branch that was left is kept, marked as abandoned.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["History", "Move", "Point", "Record", "Return", "Stay", "read_history"]

Record = Mapping[str, Any]
"""One line of a journal, as JSON data."""


@dataclass(frozen=True, slots=True)
class Stay:
    """A stretch of steps that a region spent in one stage.

    Attributes:
        region: The region.
        stage: The stage's key.
        start: The first boundary.
        end: The last one; of a stay that still goes on, the last that was heard of.
        visit: Which visit it was, if that is known.
        abandoned: Whether a roll-back undid it.
        open: Whether it still went on at the last record.
    """

    region: str
    stage: str
    start: int
    end: int
    visit: int | None = None
    abandoned: bool = False
    open: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """One region's move at one boundary; ``record`` has the evidence."""

    record: Record
    region: str
    step: int
    edge: str | None
    kind: str
    source: str | None
    via: tuple[str, ...]
    target: str
    abandoned: bool = False


@dataclass(frozen=True, slots=True)
class Return:
    """A roll-back from one step to another."""

    record: Record
    start: int
    to: int
    name: str


@dataclass(frozen=True, slots=True)
class Point:
    """A value at a step.

    Attributes:
        step: The boundary.
        value: The value; ``None`` where it was not a finite number.
        branch: How many roll-backs there had been.
        acted: Whether an action of the boundary made it, so that a return to it undoes it.
    """

    step: int
    value: float | None
    branch: int
    acted: bool = False


@dataclass
class History:
    """Everything the pictures need of a run.

    Attributes:
        records: All of them.
        run: The record that opened the run, or an empty one.
        end: The record that closed it, if it is over.
        last_step: The clock at the last record.
        top_step: The highest step that any branch came to.
        stays: Stretches of stages, in order of their start.
        moves: In order.
        returns: Roll-backs, in order.
        metrics: Points by name.
        losses: The training loss, where the vitals have it.
        rates: Effective learning rates: points by group.
        params: Parameter counts.
        alphas: Points by cohort.
        growths: Growth records, in order, each with the parameter count after it.
        current: The stage every region was last in.
    """

    records: Sequence[Record] = ()
    run: Record = field(default_factory=dict)
    end: Record | None = None
    last_step: int = 0
    top_step: int = 0
    stays: list[Stay] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    returns: list[Return] = field(default_factory=list)
    metrics: dict[str, list[Point]] = field(default_factory=dict)
    losses: list[Point] = field(default_factory=list)
    rates: dict[str, list[Point]] = field(default_factory=dict)
    params: list[Point] = field(default_factory=list)
    alphas: dict[str, list[Point]] = field(default_factory=dict)
    growths: list[tuple[Record, Point]] = field(default_factory=list)
    current: dict[str, str] = field(default_factory=dict)

    def visits(self) -> Counter[str]:
        """How often each stage was entered, instant ones included."""
        return Counter(key for move in self.moves for key in (*move.via, move.target))

    def steps_in(self) -> Counter[str]:
        """How many updates were spent in each stage, abandoned ones included."""
        spent: Counter[str] = Counter()
        for stay in self.stays:
            spent[stay.stage] += stay.end - stay.start
        return spent

    def taken(self) -> Counter[tuple[str, str]]:
        """How often each way was taken: by edge id and what it was taken as.

        The ``next`` of an instant stage that a move went through counts as well.
        """
        counts: Counter[tuple[str, str]] = Counter()
        for move in self.moves:
            counts[move.edge or f"{move.region}:initial", move.kind] += 1
            for key in move.via:
                counts[f"{key}.next", "next"] += 1
        return counts

    def kept(self, points: Sequence[Point]) -> list[Point]:
        """The points of the branch that the run is on."""
        return [point for point in points if not self.abandoned(point)]

    def abandoned(self, point: Point) -> bool:
        """Whether a later roll-back undid this point."""
        reach = point.step + point.acted
        return any(reach > back.to for back in self.returns[point.branch :])


def integer(value: Any, otherwise: int = 0) -> int:
    """A step out of a record; anything that is none becomes ``otherwise``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return otherwise
    return min(max(0, int(value)), 2**53)


def finite(value: Any) -> float | None:
    """A finite number out of a record, or ``None``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        real = float(value)
    except OverflowError:
        return None
    return real if math.isfinite(real) else None


def mapping(value: Any) -> Mapping[str, Any]:
    """A mapping out of a record, or an empty one; keys become text."""
    if not isinstance(value, Mapping):
        return {}
    return {str(key): item for key, item in value.items()}


def sequence(value: Any) -> Sequence[Any]:
    """A list out of a record, or an empty one."""
    return value if isinstance(value, list | tuple) else ()


def read_history(records: Iterable[Record]) -> History:
    """Put a run's records in order.

    It takes what it finds: missing keys become unknown, unknown types are left alone.
    """
    reader = _Reader()
    found: Iterable[Any] = records
    kept = [record for record in found if isinstance(record, Mapping)]
    for record in kept:
        reader.read(record)
    reader.history.records = kept
    return reader.finish()


_TIMED = frozenset(("run", "move", "growth", "facts", "metric", "vitals", "end"))
"""Types of records whose step is surely that of the clock."""


class _Reader:
    """One pass over the records; holds the stays that are still open."""

    def __init__(self) -> None:
        self.history = History()
        self.open: dict[str, Stay] = {}
        self.last_move: dict[str, int] = {}

    def read(self, record: Record) -> None:
        self._edited(record)
        history = self.history
        step = integer(record.get("step"), history.last_step)
        kind = record.get("type")
        if kind == "roll_back":
            self._return(record, step)
            return
        if kind in _TIMED:
            history.last_step = max(history.last_step, step)
            history.top_step = max(history.top_step, step)
        match kind:
            case "run":
                history.run = history.run or record
                self._point(history.params, step, record.get("params"))
            case "move":
                self._move(record, step)
            case "metric":
                points = history.metrics.setdefault(str(record.get("name", "?")), [])
                points.append(Point(step, finite(record.get("value")), len(history.returns)))
            case "vitals":
                self._vitals(record, step)
            case "facts":
                self._point(history.params, step, record.get("params"), acted=True)
            case "growth":
                self._growth(record, step)
            case "end":
                history.end = record

    def _edited(self, record: Record) -> None:
        """Call the edges that were taken what an edited graph calls them from here on."""
        told = record if record.get("type") == "edit" else mapping(record.get("edited"))
        moved = {old: str(new) for old, new in mapping(told.get("moved")).items()}
        if moved:
            self.history.moves[:] = [
                replace(move, edge=moved.get(move.edge or "", move.edge))
                for move in self.history.moves
            ]

    def _growth(self, record: Record, step: int) -> None:
        history = self.history
        after = _params_after(mapping(record.get("certificate")))
        point = Point(step, after, len(history.returns), acted=True)
        history.growths.append((record, point))
        if after is not None:
            history.params.append(point)

    def _point(self, points: list[Point], step: int, value: Any, *, acted: bool = False) -> None:
        real = finite(value)
        if real is not None:
            points.append(Point(step, real, len(self.history.returns), acted))

    def _vitals(self, record: Record, step: int) -> None:
        history, branch = self.history, len(self.history.returns)
        # Vitals are written when the boundary has been acted on; only their loss is of before.
        self._point(history.params, step, record.get("params"), acted=True)
        if finite(record.get("loss")) is not None or "raw" in record:
            history.losses.append(Point(step, finite(record.get("loss")), branch))
        rates = record.get("lr")
        for group, rate in enumerate(rates if isinstance(rates, list | tuple) else (rates,)):
            if rate is not None:
                points = history.rates.setdefault(str(group), [])
                points.append(Point(step, finite(rate), branch, acted=True))
        for cohort, alpha in mapping(record.get("alphas")).items():
            self._point(history.alphas.setdefault(cohort, []), step, alpha, acted=True)

    def _move(self, record: Record, step: int) -> None:
        region = str(record.get("region") or "?")
        target = str(record.get("target") or "?")
        edge, source = record.get("edge"), record.get("source")
        move = Move(
            record,
            region,
            step,
            None if edge is None else str(edge),
            str(record.get("kind") or "?"),
            None if source is None else str(source),
            tuple(str(key) for key in sequence(record.get("via"))),
            target,
        )
        self.history.moves.append(move)
        self._close(region, step)
        self.last_move[region] = step
        visit = record.get("visit")
        self.open[region] = Stay(
            region, target, step, step, visit if isinstance(visit, int) else None
        )
        self.history.current[region] = target

    def _close(self, region: str, step: int) -> None:
        stay = self.open.pop(region, None)
        if stay is not None:
            self.history.stays.append(replace(stay, end=max(stay.start, step)))

    def _return(self, record: Record, step: int) -> None:
        """Mark what is undone, and put every region back where it was at the boundary."""
        history = self.history
        start = max(step, history.last_step)
        to, name = _destination(record, start)
        jumped = {
            region: stay
            for region, stay in self.open.items()
            if stay.start == start and self.last_move.get(region) == start and start > to
        }
        for region in list(self.open):
            if region in jumped:
                del self.open[region]
            self._close(region, start)
        there = {}
        for region in {stay.region for stay in history.stays}:
            own = [s for s in history.stays if s.region == region and not s.abandoned]
            before = [s for s in own if s.start < to <= s.end] or [
                s for s in own if s.start <= to <= s.end
            ]
            if before:
                there[region] = before[0]
        history.stays = [part for stay in history.stays for part in _cut(stay, to)]
        history.moves = [
            replace(m, abandoned=m.abandoned or (m.step >= to and m.step < start))
            for m in history.moves
        ]
        for region, stay in there.items():
            again = jumped.get(region, stay)
            self.open[region] = replace(again, start=to, end=to, abandoned=False)
            history.current[region] = again.stage
        history.returns.append(Return(record, start, to, name))
        history.last_step = to

    def finish(self) -> History:
        history = self.history
        running = history.end is None
        for region in list(self.open):
            stay = self.open[region]
            end = max(stay.start, history.last_step)
            history.stays.append(replace(stay, end=end, open=running and stay.stage != "stop"))
        history.stays.sort(key=lambda stay: (stay.region, stay.start, stay.abandoned))
        return history


def _params_after(certificate: Mapping[str, Any]) -> float | None:
    counts = mapping(certificate.get("params"))
    return finite(certificate.get("params_after", counts.get("after")))


def _destination(record: Record, start: int) -> tuple[int, str]:
    """The step that a roll-back leads to, and the snapshot's name.

    ``to`` is that step, or else the snapshot's name, and ``boundary`` the step.
    """
    to = record.get("to")
    if isinstance(to, int) and not isinstance(to, bool):
        return min(integer(to), start), str(record.get("snapshot") or "?")
    return min(integer(record.get("boundary"), start), start), str(to or "?")


def _cut(stay: Stay, to: int) -> list[Stay]:
    """A stay as what a return to ``to`` leaves of it and what it undoes."""
    if stay.abandoned or stay.end <= to:
        return [stay]
    if stay.start >= to:
        return [replace(stay, abandoned=True)]
    return [replace(stay, end=to), replace(stay, start=to, abandoned=True)]
