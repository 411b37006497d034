"""Unstable: the memory of a guard that watches a metric after a growth for a lasting excess.

The reference is robust: the median of the metric's values before the growth, and their spread by
the median absolute deviation (MAD). So is a reading: the median of the values of the window. A
single outlier moves neither, whatever its size. Values come spaced (``spec.spacing``), so that the
memory is bounded however often one logs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from stagegraph.engine.comparing import SLACK

__all__ = [
    "LEAST_BEFORE",
    "LEAST_IN_WINDOW",
    "PER_WINDOW",
    "Level",
    "Recent",
    "UnstableMemory",
    "UnstableSpec",
    "watch",
]

PER_WINDOW = 16
"""How many values of a window are looked at, at the most."""

KEPT_BEFORE = 2 * PER_WINDOW
"""How many values before a growth make its reference, at the most: two windows of them."""

LEAST_BEFORE = 8
"""How many values before a growth make a reference, at the least."""

LEAST_IN_WINDOW = 3
"""How many values make a reading, at the least: a single outlier is never their median."""

_NORMAL = 1.4826
"""The MAD of a normal distribution times this is its standard deviation."""

Verdict = Literal["waiting", "transient", "cannot tell", "stable", "excess", "unstable"]

_TRUTH: Mapping[Verdict, bool | None] = {
    "waiting": None,
    "transient": None,
    "cannot tell": None,
    "stable": False,
    "excess": False,
    "unstable": True,
}


@dataclass(frozen=True, slots=True)
class Recent:
    """The newest values of a metric, one per spacing at the most.

    Attributes:
        values: The values, oldest first; at most :data:`KEPT_BEFORE`.
        at: Progress at the newest.
    """

    values: tuple[float, ...] = ()
    at: float | None = None

    def due(self, spacing: float, at: float) -> bool:
        """Whether a value that comes there is taken."""
        return self.at is None or at - self.at >= spacing * (1 - SLACK)

    def add(self, spacing: float, at: float, value: float) -> Recent:
        """The newest values after one more finite one."""
        if not self.due(spacing, at):
            return self
        return Recent((*self.values, value)[-KEPT_BEFORE:], at)


@dataclass(frozen=True, slots=True)
class Level:
    """Where a metric was, and how much it varied there.

    >>> Level.of([2.0, 2.1, 1.9, 2.0, 2.2, 1.8, 2.0, 90.0])
    Level(center=2.0, spread=0.1482..., count=8)

    Attributes:
        center: The median.
        spread: The MAD, scaled to be the standard deviation of normal noise.
        count: Of how many values.
    """

    center: float
    spread: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Level | None:
        """The level of values; ``None`` if they are too few, or too large to tell."""
        if len(values) < LEAST_BEFORE:
            return None
        center = median(values)
        spread = _NORMAL * median(abs(value - center) for value in values)
        if not (math.isfinite(center) and math.isfinite(spread)):
            return None
        return cls(center, spread, len(values))


@dataclass(frozen=True, slots=True)
class UnstableSpec:
    """A lasting excess, in numbers; all durations in the unit of ``at``.

    Attributes:
        worse: The sign of getting worse: 1 if lower is better, -1 if higher is.
        spreads: How many spreads over the center are too much.
        share: The least that is too much, as a share of the center's absolute value.
        span: The window of a reading.
        allow: How long after the reference nothing is judged.
        within: The deadline after the reference, or ``None``.
        lasting: How long the excess must last.
        spacing: How far apart values are at the least.
    """

    worse: int
    spreads: float
    share: float
    span: float
    allow: float
    within: float | None
    lasting: float
    spacing: float

    def too_much(self, level: Level) -> float:
        """The excess over the center from which it is too much."""
        return max(self.spreads * level.spread, self.share * abs(level.center))


@dataclass(frozen=True, slots=True)
class UnstableMemory:
    """What an :class:`UnstableSpec` remembers.

    Attributes:
        values: The values of the window with their progress, oldest first.
        bad_since: Progress at the first reading of the present run of bad ones, or ``None``.
        bad: How many bad readings in a row.
        back: Whether a reading after the transient was good.
        verdict: What is known by now.
        center: Of the reference, as it was at the last reading.
        spread: Likewise.
        reading: The last reading.
        excess: How much worse it was than the center, in units of what is too much.
    """

    values: tuple[tuple[float, float], ...] = ()
    bad_since: float | None = None
    bad: int = 0
    back: bool = False
    verdict: Verdict = "waiting"
    center: float | None = None
    spread: float | None = None
    reading: float | None = None
    excess: float | None = None

    @property
    def truth(self) -> bool | None:
        """The guard's value; ``None`` is unknown."""
        return _TRUTH[self.verdict]

    @property
    def at(self) -> float | None:
        """Progress at the newest value."""
        return self.values[-1][0] if self.values else None

    def disturbed(self) -> UnstableMemory:
        """The memory after a disturbance: the window and the excess begin anew.

        That the metric had come back stays known.
        """
        return UnstableMemory(back=self.back)

    def evidence(self, spec: UnstableSpec) -> dict[str, Any]:
        """What the guard saw."""
        return {
            "verdict": self.verdict,
            "center": self.center,
            "spread": self.spread,
            "reading": self.reading,
            "excess": self.excess,
            "observations": len(self.values),
            "since": self.bad_since,
            "lasting": spec.lasting,
            "came_back": self.back,
        }

    def to_json(self) -> dict[str, Any]:
        """The memory as JSON data; :meth:`from_json` gives back the very same."""
        names = ("bad_since", "bad", "back", "verdict", "center", "spread", "reading", "excess")
        return {
            "values": [list(pair) for pair in self.values],
            **{name: getattr(self, name) for name in names},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> UnstableMemory:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: The data is no such memory.
        """
        if data["verdict"] not in _TRUTH:
            raise ValueError(f"{data['verdict']!r} is no verdict")
        return cls(**{**data, "values": tuple((at, value) for at, value in data["values"])})


def watch(
    memory: UnstableMemory,
    spec: UnstableSpec,
    at: float,
    value: float,
    level: Level | None,
    taken: float | None,
) -> UnstableMemory:
    """The memory after one more finite value.

    Args:
        memory: What is remembered.
        spec: What is asked.
        at: Progress at the value.
        value: The value, finite.
        level: The reference; ``None``: too few values came before it, or there is none.
        taken: Progress when the reference was taken; ``None``: there is none.
    """
    last = memory.at
    if last is not None and at - last < spec.spacing * (1 - SLACK):
        return memory
    start = at - spec.span * (1 + SLACK)
    values = (*(pair for pair in memory.values if pair[0] > start), (at, value))
    values = values[-(PER_WINDOW + 1) :]
    if taken is None:
        return UnstableMemory(values, back=memory.back)
    if level is None:
        return UnstableMemory(values, back=memory.back, verdict="cannot tell")
    much = spec.too_much(level)
    reading = median(value for _, value in values)
    excess = spec.worse * (reading - level.center) / much if much else math.inf
    if not math.isfinite(excess):
        return UnstableMemory(
            values, None, 0, memory.back, "cannot tell", level.center, level.spread, reading
        )
    seen = (level.center, level.spread, reading, excess)
    if len(values) < LEAST_IN_WINDOW:
        # Neither good nor bad: a run of bad readings goes on.
        verdict: Verdict = "transient" if _early(at, taken, spec) else "waiting"
        return UnstableMemory(values, memory.bad_since, memory.bad, memory.back, verdict, *seen)
    if _early(at, taken, spec):
        return UnstableMemory(values, None, 0, memory.back, "transient", *seen)
    if excess <= 1:
        return UnstableMemory(values, None, 0, True, "stable", *seen)
    since = at if memory.bad_since is None else memory.bad_since
    bad = memory.bad + 1
    lasted = bad >= 2 and at - since >= spec.lasting * (1 - SLACK)
    overdue = spec.within is not None and at - taken >= spec.within * (1 - SLACK)
    lost = lasted or (overdue and not memory.back)
    return UnstableMemory(values, since, bad, memory.back, "unstable" if lost else "excess", *seen)


def _early(at: float, taken: float, spec: UnstableSpec) -> bool:
    """Whether the transient that is allowed is not over."""
    return at - taken < spec.allow * (1 - SLACK)
