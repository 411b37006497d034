"""Turns: one loop of a host's, in which stagegraph is there, and then is not.

Where a model lies in memory makes it faster or slower by more than what is looked for. So nothing
is trained twice: the same loop goes on with the same model, and what listens to it changes every
few updates. It changes where a batch is fetched: that happens once per update in every host, when
the update before is over. The first updates of a turn are not timed, as what was away for some
turns is no longer in the processor's caches, and the order is another one in each cycle.
Each turn is timed twice: on the wall, and by what this thread alone had of the processor.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random
from time import perf_counter_ns, thread_time_ns
from typing import NamedTuple

VARIANTS = ("bare", "no-op", "stagegraph")
"""Nobody listens; a callback of the host's own that does nothing; ten guards that wait."""

FIRST, UPDATES, WARMUP = 2, 6, 20
"""Updates of a turn that are not timed, and those that are; cycles that are not counted."""


BEGUN = 5
"""Updates that stagegraph listens to at the beginning: an engine that has not begun still waits for
the first of them."""


class Turn:
    """One variant's, for good.

    Args:
        variant: Which of the ``VARIANTS``.
    """

    def __init__(self, variant: str) -> None:
        self.variant = "stagegraph"
        """Whose turn it is."""
        self._later, self._left = variant, BEGUN
        self._switch: Callable[[str], None] = _nothing

    def begins(self, switch: Callable[[str], None]) -> None:
        """A loop begins, with stagegraph; this lets another variant listen to it."""
        self._switch = switch

    def fetched(self) -> None:
        """A batch is fetched: an update is over."""
        if self._left:
            self._left -= 1
            if not self._left:
                self._to(self._later)

    def _to(self, variant: str) -> None:
        self.variant = variant
        self._switch(variant)


Loop = Callable[[Turn], None]


class Taken(NamedTuple):
    """What one update took, the median of one turn's; in microseconds.

    One of them may evaluate.
    """

    wall: float
    cpu: float


class Turns(Turn):
    """All variants, in turns.

    Args:
        cycles: Turns of each that count.
        random: For their order.
    """

    def __init__(self, cycles: int, random: Random) -> None:
        super().__init__("stagegraph")
        self.taken: dict[str, list[Taken]] = {variant: [] for variant in VARIANTS}
        """What an update took, by variant and cycle."""
        self.updates = (WARMUP + cycles + 1) * len(VARIANTS) * (FIRST + UPDATES)
        """How many a loop makes in all."""
        self._random, self._turns = random, 0
        self._coming: list[str] = []
        self._clocks: list[tuple[int, int]] = []

    def run(self, loop: Loop) -> list[dict[str, Taken]]:
        """Run a loop to its end.

        Returns:
            For each cycle, what an update took in each variant.
        """
        try:
            loop(self)
        finally:
            gc.unfreeze()
        cycles = zip(*self.taken.values(), strict=False)
        return [dict(zip(self.taken, one, strict=True)) for one in cycles]

    def fetched(self) -> None:
        """A batch is fetched; the turn may be over with it."""
        super().fetched()
        self._clocks.append((perf_counter_ns(), thread_time_ns()))
        if len(self._clocks) > FIRST + UPDATES:
            self._end()
            self._clocks = [(perf_counter_ns(), thread_time_ns())]

    def _end(self) -> None:
        if self._turns > WARMUP * len(VARIANTS):
            wall, cpu = zip(*self._clocks[FIRST:], strict=True)
            self.taken[self.variant].append(Taken(_median_step(wall), _median_step(cpu)))
        elif self._turns == WARMUP * len(VARIANTS):
            gc.collect()
            gc.freeze()  # what was made so far is no garbage, and is looked through no more
        self._turns += 1
        if not self._coming:
            self._coming = self._random.sample(VARIANTS, len(VARIANTS))
        self._to(self._coming.pop())


def _median_step(clock: Sequence[int]) -> float:
    return statistics.median(after - before for before, after in pairwise(clock)) / 1000


def _nothing(_variant: str) -> None:
    """The loop itself asks whose turn it is."""
