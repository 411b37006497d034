"""Axes: from values to places on the page, with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stagegraph.drawing.wording import rough_number

__all__ = ["Axis", "axis_for", "steps_axis"]


@dataclass(frozen=True, slots=True)
class Axis:
    """A stretch of values and the stretch of page it is drawn on.

    Attributes:
        low: The least value.
        high: The greatest value.
        begin: Where the least stands.
        end: Where the greatest stands.
        log: Whether equal ratios take equal room.
    """

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value stands; beyond the ends it stands at the end."""
        low, high, value = self._scaled(self.low), self._scaled(self.high), self._scaled(value)
        share = 0.5 if high <= low else min(1.0, max(0.0, (value - low) / (high - low)))
        return self.begin + share * (self.end - self.begin)

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, self.low)) if self.log else value

    def ticks(self, about: int) -> list[float]:
        """Some round values."""
        if self.log:
            return _log_ticks(self.low, self.high, about)
        return _ticks(self.low, self.high, about)

    def label(self, tick: float) -> str:
        """A tick in words."""
        tick = float(f"{tick:.10g}")
        if 0 < abs(tick) < 0.001:
            digits, _, exponent = f"{tick:.2e}".partition("e")
            return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
        return "0" if tick == 0 else rough_number(tick)


def axis_for(values: Iterable[float], begin: float, end: float) -> Axis:
    """An axis that all finite values fit on, logarithmic where that spreads them better."""
    finite = sorted(value for value in values if math.isfinite(value))
    if not finite:
        return Axis(0.0, 1.0, begin, end)
    low, high = finite[0], finite[-1]
    if _better_as_log(finite):
        margin = (high / low) ** 0.06
        return Axis(low / margin, high * margin, begin, end, log=True)
    if high - low < 1e-12 * max(abs(high), abs(low), 1e-300):
        margin = abs(high) * 0.1 or 1.0
    else:
        margin = (high - low) * 0.08
    floor = 0.0 if low >= 0 and low - margin < 0 else low - margin
    return Axis(floor, high + margin, begin, end)


def _better_as_log(values: Sequence[float]) -> bool:
    """Whether the middle four fifths of positive values lie squeezed together on a plain axis."""
    low, high = values[0], values[-1]
    if low <= 0 or high / low < 2.5 or len(values) < 5:
        return False
    tenth, rest = values[len(values) // 10], values[len(values) * 9 // 10]
    plain = (rest - tenth) / (high - low)
    spread = math.log(rest / tenth) / math.log(high / low)
    return spread > 1.2 * plain


def steps_axis(last: int, begin: float, end: float) -> Axis:
    """The axis of steps, from 0."""
    return Axis(0.0, float(max(last, 1)), begin, end)


def _ticks(low: float, high: float, about: int) -> list[float]:
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    rough = span / max(about, 1)
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    count = int((high - first * step) / step + 1e-9) + 1
    return [(first + index) * step for index in range(max(0, min(count, 100)))]


def _log_ticks(low: float, high: float, about: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices: Sequence[Sequence[int]] = ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,))
    for factors in choices:
        found = [
            tick
            for power in powers
            for factor in factors
            if low <= (tick := factor * 10.0**power) <= high
        ]
        if len(found) <= about + 1:
            return found
    every = math.ceil(len(found) / max(about, 1))
    return found[::every]
