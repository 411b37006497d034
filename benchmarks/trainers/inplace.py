"""What is spent at the places where a host calls somebody else, timed there.

Where a model lies in memory moves the time of a whole update by more than what is looked for; what
is timed in place does not hang on that. What the timer itself takes is measured with every update,
by what it finds for a call of nothing, and taken off.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from time import perf_counter_ns
from typing import Any, NamedTuple

from benchmarks.trainers.turns import Loop, Turn

FIRST = 120
"""Updates before the first that is timed."""


class Place(NamedTuple):
    """A function that the host calls, or one of the host's that is called from there.

    Attributes:
        owner: The class that has it.
        name: Its name there.
        host: Whether it is the host's own, whose time does not count.
        steps: Whether it is not the call that is meant, but each step of the iterator it gives.
    """

    owner: type
    name: str
    host: bool = False
    steps: bool = False


class Watch(Turn):
    """Times, from batch to batch, what is spent in some functions and not in others."""

    def __init__(self, variant: str) -> None:
        super().__init__(variant)
        self.per_update: list[float] = []
        self._spent = self._since = self._batches = self._pieces = 0
        self._counts = False
        self._nothing = self._timed(bool, counts=True)

    def fetched(self) -> None:
        """A batch is fetched: an update is over."""
        super().fetched()
        self._batches += 1
        spent, pieces = self._spent, self._pieces
        self._spent = self._pieces = 0
        outer, self._counts = self._counts, False
        self._nothing()
        self._counts = outer
        if self._batches > FIRST:
            self.per_update.append((spent - pieces * self._spent) / 1000)
        self._spent = self._pieces = 0

    @contextmanager
    def watching(self, places: Sequence[Place]) -> Iterator[None]:
        """Watch these functions."""
        with ExitStack() as undo:
            for owner, name, host, steps in places:
                undo.callback(_restored, owner, name, vars(owner).get(name))
                timed = self._stepped if steps else self._timed
                setattr(owner, name, timed(getattr(owner, name), counts=not host))
            yield

    def _stepped(self, function: Callable[..., Any], *, counts: bool) -> Callable[..., Any]:
        @wraps(function)
        def stepped(*args: Any, **kwargs: Any) -> Any:
            return _Steps(self._timed(iter(function(*args, **kwargs)).__next__, counts=counts))

        return stepped

    def _ends(self) -> None:
        """A piece of what counts is over."""
        self._spent += perf_counter_ns() - self._since
        self._pieces += 1

    def _timed(self, function: Callable[..., Any], *, counts: bool) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            outer, self._counts = self._counts, counts
            if outer:
                self._ends()
            self._since = perf_counter_ns()
            try:
                return function(*args, **kwargs)
            finally:
                if counts:
                    self._ends()
                self._counts, self._since = outer, perf_counter_ns()

        return timed


class _Steps:
    """An iterator over what calls of a function give."""

    def __init__(self, step: Callable[[], Any]) -> None:
        self._step = step

    def __iter__(self) -> _Steps:
        return self

    def __next__(self) -> Any:
        return self._step()


def _restored(owner: type, name: str, function: Any) -> None:
    if function is None:
        delattr(owner, name)
    else:
        setattr(owner, name, function)


def spent(loop: Loop, variant: str, places: Sequence[Place]) -> float:
    """Microseconds of an update that a variant spends in these places, the median."""
    watch = Watch(variant)
    with watch.watching(places):
        loop(watch)
    return statistics.median(watch.per_update)
