"""Counting what an update makes Python do: the same on a calm machine and on a busy one."""

from __future__ import annotations

import statistics
import sys

from benchmarks.counting import Counter
from benchmarks.trainers.turns import Loop, Turn

FIRST, UPDATES = 110, 30
"""The update with which counting begins, between two evaluations; and how many are counted."""


class Work(Turn):
    """Counts the bytecodes and the calls of Python functions from batch to batch."""

    def __init__(self, variant: str) -> None:
        super().__init__(variant)
        self.per_update: list[tuple[int, int]] = []
        self._batches, self._counter = 0, Counter()

    def fetched(self) -> None:
        """A batch is fetched: an update is over."""
        super().fetched()
        self._batches += 1
        if self._batches == FIRST:
            self._counter.begin(running=sys._getframe(1))
        elif FIRST < self._batches <= FIRST + UPDATES:
            self.per_update.append((self._counter.codes, self._counter.calls))
        if self._batches == FIRST + UPDATES:
            self._counter.end()
        self._counter.codes = self._counter.calls = 0


def count(loop: Loop, variant: str) -> tuple[float, float]:
    """Bytecodes and calls of one update in a variant, medians."""
    work = Work(variant)
    loop(work)
    codes, calls = zip(*work.per_update, strict=True)
    return statistics.median(codes), statistics.median(calls)
