"""Passes: epochs over a loader, counted exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from fractions import Fraction
from typing import Generic, TypeVar

__all__ = ["Epoch"]

T = TypeVar("T")


class Epoch(Generic[T]):
    """One pass over a loader; stops when the run ends.

    Args:
        index: Which pass, from 0.
        loader: The batches.
        moved: Told the passes so far, the running one's fraction included, at each batch.
        done: Whether the run has ended.
    """

    def __init__(
        self,
        index: int,
        loader: Iterable[T],
        moved: Callable[[Fraction], None],
        done: Callable[[], bool],
    ) -> None:
        self.index = index
        self._loader = loader
        self._moved = moved
        self._done = done

    def __iter__(self) -> Iterator[T]:
        size = len(self._loader) if isinstance(self._loader, Sized) else 0
        for number, batch in enumerate(self._loader, start=1):
            if self._done():
                return
            if size:
                self._moved(self.index + Fraction(min(number, size), size))
            yield batch
        self._moved(Fraction(self.index + 1))
