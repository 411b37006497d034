"""Turns: loops that belong to a host run side by side, a few updates each, one at a time.

A host's loop cannot be left and entered again, so each has a thread of its own, and all but one
wait. A turn changes where a loop fetches a batch: that happens once per update in every host.
What was there before is no longer in the processor's caches, so the first
updates of a turn are not timed, and the order is another one in each cycle.
Each turn is timed twice: on the wall, and by what this thread alone had of the processor, which
others on the machine do not disturb as much.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random
from time import perf_counter_ns, thread_time_ns
from typing import NamedTuple

import torch

PATIENCE = 600.0
"""Seconds that one turn may take before all is given up."""


Loop = Callable[["Turn"], None]


class Taken(NamedTuple):
    """What one update took, the mean over one turn; in microseconds."""

    wall: float
    cpu: float


class Turn:
    """One loop's place in the order; its loader calls :meth:`fetched` with each batch."""

    def __init__(self, first: int, updates: int) -> None:
        self.taken: list[Taken] = []
        self.failure: BaseException | None = None
        self.over = False
        self._first, self._last = first, first + updates
        self._fetched = self._last
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._began: tuple[int, int] | None = None

    def fetched(self) -> None:
        """A batch is fetched; the turn may be over with it."""
        if self._fetched == self._last:
            self._end()
            self._fetched = 0
        if self._fetched == self._first:
            self._began = perf_counter_ns(), thread_time_ns()
        self._fetched += 1

    def _end(self) -> None:
        wall, cpu = perf_counter_ns(), thread_time_ns()
        if self._began is not None:
            per = 1000 * (self._last - self._first)
            self.taken.append(Taken((wall - self._began[0]) / per, (cpu - self._began[1]) / per))
            self._done.release()
            self._go.acquire()

    def run(self, loop: Loop) -> None:
        """Take turns until the loop ends."""
        self._go.acquire()
        torch.set_num_threads(1)  # each thread has a number of its own
        try:
            loop(self)
        except BaseException as error:  # noqa: BLE001 - told by the thread that asks
            self.failure = error
        self.over = True
        self._done.release()

    def take(self) -> None:
        """Let the loop run to the end of its next turn."""
        if self.over:
            return
        self._go.release()
        if not self._done.acquire(timeout=PATIENCE):
            raise TimeoutError(f"a turn has taken more than {PATIENCE:g} s")
        if self.failure is not None:
            raise self.failure


def side_by_side(
    groups: Sequence[Mapping[str, Loop]],
    *,
    first: int,
    updates: int,
    warmup: int,
    warmed: Callable[[], object],
) -> list[dict[str, Sequence[Taken]]]:
    """Run loops to their end, in turns.

    Args:
        groups: Loops by name; those of one group are compared with each other, and follow one
            another. All make the same number of updates.
        first: Updates at the beginning of each turn that are not timed.
        updates: Updates of each turn that are timed.
        warmup: Turns that are not counted.
        warmed: Called when these are over.

    Returns:
        Per group and loop, what an update took in each cycle.
    """
    turns = [{name: Turn(first, updates) for name in group} for group in groups]
    for group, theirs in zip(groups, turns, strict=True):
        for name, loop in group.items():
            run = partial(theirs[name].run, loop)
            threading.Thread(target=run, name=name, daemon=True).start()
    shuffle, cycle = Random(0).shuffle, 0
    every = [list(theirs.values()) for theirs in turns]
    while not all(turn.over for theirs in every for turn in theirs):
        cycle += 1
        if cycle == warmup:
            warmed()
        for theirs in every:
            shuffle(theirs)
            for turn in theirs:
                turn.take()
    cycles = min(len(turn.taken) for theirs in every for turn in theirs)
    return [{name: turn.taken[warmup:cycles] for name, turn in one.items()} for one in turns]
