"""Plateau: the memory of a metric that may have stopped improving.

Two ways to tell. :class:`PlateauSpec` is an equivalence test: the upper confidence bound of the
improvement that one more window would bring lies under a stated worth, several times in a row.
:class:`PatienceSpec` is the familiar wait without a new best. Both keep their memory as frozen,
bounded data; ``observe(memory, spec, at=..., value=...)`` is pure and returns the next memory.

Values that are missing or not finite are dropped by the caller: they neither count as waiting nor
move anything. A growth, or any other disturbance, starts again with :func:`fresh`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, Literal, Self, overload

from stagegraph.engine.statistics import fit_trend, student_quantile

__all__ = [
    "BINS",
    "Bin",
    "Goal",
    "PatienceMemory",
    "PatienceSpec",
    "PlateauMemory",
    "PlateauSpec",
    "Reading",
    "Verdict",
    "fresh",
    "observe",
]

Goal = Literal["minimize", "maximize"]

Verdict = Literal["waiting", "cannot tell", "improving", "plateau"]
"""``waiting``: the window is not full yet. ``cannot tell``: nothing contradicts a plateau, but it
is not shown often enough, or there are too few observations, or too much noise."""

BINS = 16
"""Bins per window; denser logging is averaged into them."""

_MIN_POINTS = 6
_SPACING = 8
_SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class PlateauSpec:
    """A plateau by equivalence.

    Attributes:
        goal: Which way the metric is better.
        worth: The relative improvement per window below which going on is not worth it.
        span: Width of the window, in the unit of progress that ``at`` counts.
        confirm: How many tests in a row must hold, spaced by at least an eighth of the span.
        confidence: Of the upper bound, one-sided.
        min_observations: How many observations the window must hold; it is full when they could
            have come at even distances, at ``1 - 1 / min_observations`` of the span.
        spacing: How far apart observations are at least; what comes sooner is not looked at, so
            that the metric's declared rate decides, and not how often it is logged. 0: no limit.
    """

    goal: Goal
    worth: float
    span: float
    confirm: int = 3
    confidence: float = 0.95
    min_observations: int = 8
    spacing: float = 0.0

    def __post_init__(self) -> None:
        _check_goal(self.goal)
        for name, value in (("worth", self.worth), ("span", self.span)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is positive and finite, got {value!r}")
        if not (math.isfinite(self.spacing) and self.spacing >= 0):
            raise ValueError(f"spacing is finite and not negative, got {self.spacing!r}")
        if self.confirm < 1:
            raise ValueError(f"confirm is at least 1, got {self.confirm!r}")
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence is at least 0.5 and under 1, got {self.confidence!r}")
        if self.min_observations < _MIN_POINTS:
            raise ValueError(
                f"min_observations is at least {_MIN_POINTS}, got {self.min_observations!r}"
            )


@dataclass(frozen=True, slots=True)
class PatienceSpec:
    """A plateau by patience: no new best for a while.

    Attributes:
        goal: Which way the metric is better.
        span: How long, in the unit of progress that ``at`` counts.
        delta: The relative improvement that a new best must bring.
        spacing: How far apart observations are at least, as for :class:`PlateauSpec`.
    """

    goal: Goal
    span: float
    delta: float = 0.0
    spacing: float = 0.0

    def __post_init__(self) -> None:
        _check_goal(self.goal)
        if not (math.isfinite(self.span) and self.span > 0):
            raise ValueError(f"span is positive and finite, got {self.span!r}")
        if not (math.isfinite(self.delta) and self.delta >= 0):
            raise ValueError(f"delta is finite and not negative, got {self.delta!r}")
        if not (math.isfinite(self.spacing) and self.spacing >= 0):
            raise ValueError(f"spacing is finite and not negative, got {self.spacing!r}")


def _check_goal(goal: str) -> None:
    if goal not in ("minimize", "maximize"):
        raise ValueError(f"the goal is 'minimize' or 'maximize', got {goal!r}")


@dataclass(frozen=True, slots=True)
class Bin:
    """Observations that lie close together, as one.

    Attributes:
        index: Which stretch of ``span / BINS`` since the first observation.
        count: How many.
        at: Their mean progress.
        value: Their mean value.
    """

    index: int
    count: int
    at: float
    value: float

    def add(self, at: float, value: float) -> Bin:
        """The bin with one more observation; exact for a constant, safe for huge values."""
        n = self.count + 1
        return Bin(
            self.index,
            n,
            self.at + (at - self.at) / n,
            self.value + (value / n - self.value / n),
        )


Finding = Literal["flat", "improving", "few", "noisy", "unclear"]


@dataclass(frozen=True, slots=True)
class Reading:
    """The outcome of one test.

    Attributes:
        finding: ``flat``: the bound is under worth. ``improving``: the estimate is not.
            ``few``: too few observations. ``noisy``: the standard error is over worth, or the
            level cannot be told from zero.
            ``unclear``: the estimate is under worth, its bound is not.
        start: Progress at the first observation of the window.
        end: Progress at the last.
        observations: How many there were.
        level: The fitted value at the window's end; ``None``, as below, if nothing was fitted.
        rate: Relative improvement per window.
        error: Standard error of the rate.
        upper: Upper confidence bound of the rate.
        autocorrelation: Lag-1, of the residuals.
    """

    finding: Finding
    start: float
    end: float
    observations: int
    level: float | None = None
    rate: float | None = None
    error: float | None = None
    upper: float | None = None
    autocorrelation: float | None = None


@dataclass(frozen=True, slots=True)
class PlateauMemory:
    """What a :class:`PlateauSpec` remembers: at most ``BINS + 2`` bins and the last test.

    >>> spec = PlateauSpec("minimize", worth=0.04, span=200, confirm=1)
    >>> memory = fresh(spec)
    >>> for step in range(25, 201, 25):
    ...     memory = observe(memory, spec, at=step, value=2.0 + 0.001 * (step % 2))
    >>> memory.verdict, memory.truth, memory.confirmed
    ('plateau', True, 1)

    Attributes:
        origin: Progress at the first observation; ``None`` before it.
        closed: Bins of the window that are complete, oldest first.
        open: The bin of the last observation.
        confirmed: How many tests in a row held, up to ``confirm``.
        verdict: What is known by now.
        reading: The last test.
        last: Progress at the last observation that was looked at.
    """

    origin: float | None = None
    closed: tuple[Bin, ...] = ()
    open: Bin | None = None
    confirmed: int = 0
    verdict: Verdict = "waiting"
    reading: Reading | None = None
    last: float | None = None

    @property
    def truth(self) -> bool | None:
        """The guard's value; ``None`` is unknown."""
        return _TRUTH[self.verdict]

    def evidence(self, spec: PlateauSpec) -> dict[str, Any]:
        """Why, as JSON data: the last test, or how far the window has come."""
        known: dict[str, Any] = {
            "verdict": self.verdict,
            "worth": spec.worth,
            "span": spec.span,
            "confirmed": self.confirmed,
            "confirm": spec.confirm,
        }
        if self.reading is not None:
            return known | asdict(self.reading)
        bins = self._bins()
        return known | {
            "finding": "waiting",
            "start": self.origin,
            "end": bins[-1].at if bins else None,
            "observations": sum(b.count for b in bins),
        }

    def _bins(self) -> tuple[Bin, ...]:
        return self.closed if self.open is None else (*self.closed, self.open)

    def to_json(self) -> dict[str, Any]:
        """The memory as JSON data; :meth:`from_json` gives back the very same."""
        return {
            "origin": self.origin,
            "bins": [[b.index, b.count, b.at, b.value] for b in self._bins()],
            "confirmed": self.confirmed,
            "verdict": self.verdict,
            "reading": None if self.reading is None else asdict(self.reading),
            "last": self.last,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: The data is no such memory.
        """
        try:
            bins = [Bin(int(i), int(n), float(a), float(v)) for i, n, a, v in data["bins"]]
            if data["verdict"] not in _TRUTH:
                raise ValueError(f"{data['verdict']!r} is no verdict")
            reading = data["reading"]
            return cls(
                origin=None if data["origin"] is None else float(data["origin"]),
                closed=tuple(bins[:-1]),
                open=bins[-1] if bins else None,
                confirmed=int(data["confirmed"]),
                verdict=data["verdict"],
                reading=None if reading is None else Reading(**reading),
                last=None if data["last"] is None else float(data["last"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not the memory of a plateau: {error!r}") from error


@dataclass(frozen=True, slots=True)
class PatienceMemory:
    """What a :class:`PatienceSpec` remembers.

    Attributes:
        best: The best value so far; ``None`` before the first.
        best_at: Progress when it was observed.
        at: Progress at the last observation.
        verdict: ``waiting`` before the first observation, then ``improving`` or ``plateau``.
    """

    best: float | None = None
    best_at: float | None = None
    at: float | None = None
    verdict: Verdict = "waiting"

    @property
    def truth(self) -> bool | None:
        """The guard's value; ``None`` is unknown."""
        return _TRUTH[self.verdict]

    @property
    def confirmed(self) -> int:
        """1 on a plateau, else 0."""
        return int(self.verdict == "plateau")

    def evidence(self, spec: PatienceSpec) -> dict[str, Any]:
        """Why, as JSON data."""
        waited = None if self.at is None or self.best_at is None else self.at - self.best_at
        return {
            "verdict": self.verdict,
            "best": self.best,
            "best_at": self.best_at,
            "waited": waited,
            "patience": spec.span,
        }

    def to_json(self) -> dict[str, Any]:
        """The memory as JSON data; :meth:`from_json` gives back the very same."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: The data is no such memory.
        """
        names = {f.name for f in fields(cls)}
        if set(data) != names or data["verdict"] not in _TRUTH:
            raise ValueError(f"not the memory of a patience: {dict(data)!r}")
        return cls(**data)


_TRUTH: Mapping[Verdict, bool | None] = {
    "waiting": None,
    "cannot tell": None,
    "improving": False,
    "plateau": True,
}


@overload
def fresh(spec: PlateauSpec) -> PlateauMemory: ...
@overload
def fresh(spec: PatienceSpec) -> PatienceMemory: ...
def fresh(spec: PlateauSpec | PatienceSpec) -> PlateauMemory | PatienceMemory:
    """The memory that knows nothing yet: at the entry of a stage, and after a disturbance."""
    return PlateauMemory() if isinstance(spec, PlateauSpec) else PatienceMemory()


@overload
def observe(memory: PlateauMemory, spec: PlateauSpec, at: float, value: float) -> PlateauMemory: ...
@overload
def observe(
    memory: PatienceMemory, spec: PatienceSpec, at: float, value: float
) -> PatienceMemory: ...
def observe(
    memory: PlateauMemory | PatienceMemory,
    spec: PlateauSpec | PatienceSpec,
    at: float,
    value: float,
) -> PlateauMemory | PatienceMemory:
    """The memory after one more observation.

    Args:
        memory: What is remembered.
        spec: What is asked; the same at every call.
        at: Progress, in the unit of ``spec.span``; it never goes back, and may stand still.
        value: The metric; finite.

    Returns:
        The next memory; the old one is as it was.
    """
    at, value = float(at), float(value)
    assert math.isfinite(value), "values that are not finite are dropped before"
    if isinstance(memory, PlateauMemory):
        assert isinstance(spec, PlateauSpec)
        return _observe_worth(memory, spec, at, value)
    assert isinstance(spec, PatienceSpec)
    return _observe_patience(memory, spec, at, value)


def looks(
    memory: PlateauMemory | PatienceMemory, spec: PlateauSpec | PatienceSpec, at: float
) -> bool:
    """Whether an observation there would be looked at, whatever its value."""
    last = memory.last if isinstance(memory, PlateauMemory) else memory.at
    return last is None or at - last >= spec.spacing * (1 - _SLACK)


def in_order(memory: PlateauMemory, spec: PlateauSpec | PatienceSpec | None) -> bool:
    """Whether a memory that was read back is one that observations can have left."""
    bins = (*memory.closed, *(() if memory.open is None else (memory.open,)))
    if memory.origin is None or memory.last is None or not bins:
        return memory == PlateauMemory()
    rising = all(a.index < b.index and a.at < b.at for a, b in pairwise(bins))
    assert isinstance(spec, PlateauSpec)
    newest = (memory.last - memory.origin) * BINS / spec.span
    return (
        rising
        and bins[0].index >= 0
        and bins[-1].index <= newest
        and memory.origin <= bins[0].at
        and bins[-1].at <= memory.last
        and all(b.count > 0 for b in bins)
        and (memory.reading is None or memory.reading.end <= memory.last)
        and len(bins) <= BINS + 2
    )


def _observe_patience(
    memory: PatienceMemory, spec: PatienceSpec, at: float, value: float
) -> PatienceMemory:
    best, best_at = memory.best, memory.best_at
    if not looks(memory, spec, at):
        return memory
    if best is None or best_at is None:
        return PatienceMemory(value, at, at, "improving")
    need = spec.delta * abs(best)
    better = value < best - need if spec.goal == "minimize" else value > best + need
    if better:
        return PatienceMemory(value, at, at, "improving")
    waited = at - best_at >= spec.span * (1 - _SLACK)
    return PatienceMemory(best, best_at, at, "plateau" if waited else "improving")


def _observe_worth(
    memory: PlateauMemory, spec: PlateauSpec, at: float, value: float
) -> PlateauMemory:
    origin, closed, last = memory.origin, memory.closed, memory.open
    if origin is None or last is None or memory.last is None:
        return PlateauMemory(at, (), Bin(0, 1, at, value), last=at)
    if not looks(memory, spec, at):
        return memory
    index = int((at - origin) * BINS / spec.span)
    if index == last.index:
        last = last.add(at, value)
    else:
        assert index > last.index, "progress went back"
        closed = tuple(b for b in (*closed, last) if b.at > at - spec.span)
        last = Bin(index, 1, at, value)
    reading = memory.reading
    if reading is None:
        due = at - origin >= spec.span * (1 - 1 / spec.min_observations - _SLACK)
    else:
        due = at - reading.end >= spec.span * (1 / _SPACING - _SLACK)
    if not due:
        return PlateauMemory(origin, closed, last, memory.confirmed, memory.verdict, reading, at)
    reading = _test(spec, at, (*closed, last))
    confirmed = memory.confirmed
    if reading.finding == "improving":
        confirmed = 0
    elif reading.finding == "flat":
        confirmed = min(confirmed + 1, spec.confirm)
    verdict: Verdict
    if confirmed == spec.confirm:
        verdict = "plateau"
    else:
        verdict = "improving" if reading.finding == "improving" else "cannot tell"
    return PlateauMemory(origin, closed, last, confirmed, verdict, reading, at)


def _test(spec: PlateauSpec, at: float, bins: tuple[Bin, ...]) -> Reading:
    """Whether one more window would improve the metric by less than worth."""
    start = at - spec.span * (1 - _SLACK)
    bins = tuple(b for b in bins if b.at > start)
    seen = sum(b.count for b in bins)
    points = [((b.at - at) / spec.span, b.value) for b in bins]
    if (
        seen < spec.min_observations
        or len(points) < _MIN_POINTS
        or points[-1][0] - points[0][0] < 0.5
    ):
        return Reading("few", bins[0].at, at, seen)
    trend = fit_trend(points)
    quantile = student_quantile(spec.confidence, trend.freedom)
    level = abs(trend.level)
    if level == 0 and trend.slope == 0:
        level = 1.0  # zero throughout: nothing changes, whatever it is measured by
    if not quantile * trend.level_error < level < math.inf:
        return Reading("noisy", bins[0].at, at, seen)
    sign = -1.0 if spec.goal == "minimize" else 1.0
    rate, error = sign * trend.slope / level, trend.slope_error / level
    bend, bend_error = sign * trend.bend / level, trend.bend_error / level
    upper = rate + quantile * error
    if not math.isfinite(upper):
        return Reading("noisy", bins[0].at, at, seen)
    accelerates = bend > quantile * bend_error and rate + bend >= spec.worth
    finding: Finding
    if accelerates or rate - quantile * error >= spec.worth:
        finding = "improving"
    elif error > spec.worth:
        finding = "noisy"
    elif upper < spec.worth:
        finding = "flat"
    else:
        finding = "improving" if rate >= spec.worth else "unclear"
    return Reading(finding, bins[0].at, at, seen, trend.level, rate, error, upper, trend.rho)
