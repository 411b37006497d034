"""Host rates: the learning rate that the host's scheduler gives, as far back as matters.

It decides nothing. A plateau that is told while the rate falls is told with how much it fell over
its window: the decay does this (rule S8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stagegraph.progress import Progress, Unit

__all__ = ["FELL", "HostRate", "fall", "follow", "rates_from_json", "rates_to_json"]

MOST = 64
"""How many rates are kept; when there are more, every other one goes."""

CHANGED = 0.005
"""A rate is kept if it differs from the one kept before by more than this share of it."""

FELL = 0.02
"""From which fall over its window on a plateau is told with it."""


@dataclass(frozen=True, slots=True)
class HostRate:
    """The host's learning rate at one time.

    Attributes:
        clock: When.
        rate: The largest of all parameter groups, without the engine's own factors.
    """

    clock: Progress
    rate: float


def follow(rates: tuple[HostRate, ...], clock: Progress, rate: float) -> tuple[HostRate, ...]:
    """The rates after one more reading."""
    if rates and abs(rate - rates[-1].rate) <= CHANGED * abs(rates[-1].rate):
        return rates
    rates = (*rates, HostRate(clock, rate))
    return rates if len(rates) <= MOST else rates[::2]


def fall(rates: Sequence[HostRate], unit: Unit, start: float) -> dict[str, float] | None:
    """How much the rate fell since a reading of the clock, also if it has risen again.

    Under warm restarts a window may hold the end of one decay and the begin of the next.

    Args:
        rates: The rates, oldest first.
        unit: The unit of ``start``.
        start: Where the window began.

    Returns:
        ``from``, and ``to``, the lowest since; and ``fell``, the share. ``None`` if it fell by
        less than 2 %.
    """
    earlier = [r for r in rates if float(r.clock.of(unit)) <= start] or list(rates[:1])
    if not earlier or earlier[-1].rate <= 0:
        return None
    first = earlier[-1].rate
    lowest = min(r.rate for r in rates[len(earlier) - 1 :])
    fell = 1 - lowest / first
    return {"from": first, "to": lowest, "fell": fell} if fell >= FELL else None


def rates_to_json(rates: Sequence[HostRate]) -> list[Any]:
    """The rates as JSON data."""
    return [[one.clock.to_json(), one.rate] for one in rates]


def rates_from_json(data: Sequence[Any]) -> tuple[HostRate, ...]:
    """The inverse of :func:`rates_to_json`."""
    return tuple(HostRate(Progress.from_json(clock), rate) for clock, rate in data)
