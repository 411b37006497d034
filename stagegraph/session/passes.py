"""Passes: epochs over a loader, counted exactly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Generic, TypeVar

from stagegraph.engine.core import Core
from stagegraph.errors import ProgressError

__all__ = ["Epoch"]

T = TypeVar("T")


class Epoch(Generic[T]):
    """One pass over a loader; stops when the run ends.

    Args:
        index: Which pass, from 0.
        loader: The batches.
        core: Told of each batch, and reads passes over the data from there.
    """

    def __init__(
        self,
        index: int,
        loader: Iterable[T],
        core: Core,
    ) -> None:
        self.index = index
        self._loader = loader
        self._core = core

    def __iter__(self) -> Iterator[T]:
        """The batches.

        Raises:
            ProgressError: There is none; training would wait for ever.
        """
        core, start, number = self._core, self._core.meter.reading, 0
        core.meter.counts("epochs")
        size = _length(self._loader)
        for number, batch in enumerate(self._loader, start=1):
            if core.done:
                return
            if size:
                core.meter.coming = start + Fraction(min(number, size), size)
            yield batch
        if not number:
            raise ProgressError(
                f"pass {self.index} over the loader gave no batch; if it is an iterator that can "
                "be read once only, give something that can be read again"
            )
        if not size:
            core.meter.passed(start + 1)


def _length(loader: Iterable[object]) -> int:
    """How many batches; 0 if nobody knows. A ``DataLoader`` of a stream only seems to know."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return 0
