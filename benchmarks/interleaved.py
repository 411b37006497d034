"""Timing of variants side by side: one after the other every few calls, compared within a cycle.

The machine may change its speed in the middle of a run; what is measured in one cycle is slowed
down alike, so the median of the ratios within cycles tells more than a ratio of means.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping
from itertools import repeat
from time import perf_counter_ns
from typing import NamedTuple

Call = Callable[[], object]


class Timing(NamedTuple):
    """One variant: nanoseconds per call, and how many times the first variant's that is."""

    name: str
    ns: float
    ratio: float


def compare(variants: Mapping[str, Call], *, calls: int = 2000, cycles: int = 60) -> list[Timing]:
    """Time variants; the first is what the others are compared with.

    Args:
        variants: What to call, by name.
        calls: Calls in a row, the same for all.
        cycles: How many times all take their turn.
    """
    times: dict[str, list[float]] = {name: [] for name in variants}
    for call in variants.values():
        _time(call, calls)
    gc.collect()
    gc.disable()
    try:
        for _ in range(cycles):
            for name, call in variants.items():
                times[name].append(_time(call, calls))
    finally:
        gc.enable()
    first = times[next(iter(variants))]
    return [
        Timing(
            name,
            statistics.median(taken),
            statistics.median(t / f for t, f in zip(taken, first, strict=True)),
        )
        for name, taken in times.items()
    ]


def _time(call: Call, calls: int) -> float:
    begin = perf_counter_ns()
    for _ in repeat(None, calls):
        call()
    return (perf_counter_ns() - begin) / calls


def table(title: str, timings: list[Timing], limits: Mapping[str, str] | None = None) -> str:
    """The timings in columns."""
    limits = limits or {}
    lines = [title]
    for timing in timings:
        limit = limits.get(timing.name)
        told = f"   limit {limit}" if limit else ""
        lines.append(f"  {timing.name:<46}{timing.ns:>12,.0f} ns{timing.ratio:>9.2f} x{told}")
    return "\n".join(lines)
