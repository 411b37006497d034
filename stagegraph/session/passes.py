"""Passes: epochs over a loader, counted exactly."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any, Generic, Protocol, TypeVar

from stagegraph.engine.core import Core
from stagegraph.engine.meter import exact_passes
from stagegraph.errors import ProgressError, SnapshotError

__all__ = ["Count", "Epoch", "Position"]

T = TypeVar("T")


class Position(Protocol):
    """Where a run stands in its data."""

    batches: int
    """How many batches of the present pass were handed out."""
    ended: bool
    """Whether the present pass is over, and its loop left."""

    @property
    def is_known(self) -> bool:
        """Whether any pass was begun."""
        ...

    @property
    def drawn(self) -> Any:
        """What is known of the batch in hand, if the loader knows it; else ``None``."""
        ...

    @property
    def tells(self) -> bool:
        """Whether the loader of this pass knows what it draws."""
        ...

    def coming(self, counted: int) -> int:
        """Which pass comes: the one that is gone on with, or else the next."""
        ...

    def state(self) -> Any:
        """The position, for a checkpoint."""
        ...

    def load(self, state: Any) -> None:
        """The inverse of :meth:`state`."""
        ...

    def enter(
        self, index: int, loader: Any, start: Fraction
    ) -> tuple[Iterator[Any], int, Fraction]:
        """Begin a pass or go on with one: its batches, those used, the passes at its beginning."""
        ...


class Count:
    """A position without a model: the batches that were used are read again and dropped."""

    drawn = None
    tells = False

    def __init__(self) -> None:
        self.batches = 0
        self.ended = False
        self._index = 0
        self._start = Fraction(0)
        self._resumed = 0

    @property
    def is_known(self) -> bool:
        """Whether any pass was begun."""
        return self.batches > 0

    def coming(self, counted: int) -> int:
        """Which pass comes; one that was left before its end is over too."""
        if self._resumed:
            return self._index
        return max(counted, self._index + 1) if self.batches else counted

    def state(self) -> Any:
        """The position as JSON data."""
        return {
            "index": self._index,
            "batches": self.batches,
            "start": str(self._start),
            "ended": self.ended,
        }

    def load(self, state: Any) -> None:
        """The inverse of :meth:`state`."""
        try:
            self.batches, self._start = int(state["batches"]), Fraction(state["start"])
            self._index, self.ended = int(state["index"]), bool(state["ended"])
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise SnapshotError("the checkpoint's position in the data cannot be read") from error
        self._resumed = 0 if self.ended else self.batches

    def enter(
        self, index: int, loader: Any, start: Fraction
    ) -> tuple[Iterator[Any], int, Fraction]:
        """Begin a pass, or go on with the one that was resumed."""
        used, self._resumed = self._resumed, 0
        self.ended = False
        if not used:
            self._index, self.batches, self._start = index, 0, start
            return iter(loader), 0, start
        if used == _length(loader):
            return iter(()), used, self._start
        return itertools.islice(iter(loader), used, None), used, self._start


class Epoch(Generic[T]):
    """One pass over a loader; stops when the run ends.

    Args:
        index: Which pass, from 0.
        loader: The batches.
        core: Told of each batch, and reads passes over the data from there.
        position: Where the run stands in its data; begins the pass, or goes on with it.
        settle: Called before each batch, which all ranks take together; ``None``: there are none.
    """

    def __init__(
        self,
        index: int,
        loader: Iterable[T],
        core: Core,
        position: Position,
        settle: Callable[[], None] | None = None,
    ) -> None:
        self._settle = settle
        self.index = index
        self._loader = loader
        self._core = core
        self._position = position

    @property
    def drawn(self) -> Any:
        """What is known of the batch in hand: its level, sources, length and size.

        ``None`` before the first batch, and for a loader that does not know.
        """
        return self._position.drawn

    def __iter__(self) -> Iterator[T]:
        """The batches.

        Raises:
            ProgressError: There is none; training would wait for ever.
        """
        core, position, settle = self._core, self._position, self._settle
        core.meter.counts("epochs")
        size = _length(self._loader)
        batches, number, start = position.enter(self.index, self._loader, core.meter.reading)
        # Batches as a share of all passes: of so many units, and each batch is so many of them.
        each, of = start.denominator, start.denominator * size
        at = start.numerator * size + min(number, size) * each
        meter, quiet, tells = core.meter, core.quiet, position.tells
        if size and not tells:
            meter.announce(at, of)
        for batch in batches:  # every update comes through here, and each call costs
            if not quiet.left and core.state.ended is not None:
                return
            number = position.batches = number + 1
            if tells:
                self._count_drawn()
            elif number <= size:
                at += each
                if quiet.of == of:
                    quiet.at = at
                else:  # another loader was drawn from in between
                    meter.announce(at, of)
            yield batch
            if settle is not None:
                settle()
        position.ended = True
        if not number:
            raise ProgressError(
                f"pass {self.index} over the loader gave no batch; if it is an iterator that can "
                "be read once only, give something that can be read again"
            )
        if not size:
            meter.passed(start + 1)

    def _count_drawn(self) -> None:
        """Count the batch in hand; its loader counts its own passes, and may have gone back."""
        drawn = self._position.drawn
        if drawn is None:
            return
        meter = self._core.meter
        self.index = drawn.epoch
        before = meter.reading if meter.coming is None else exact_passes(meter.coming)
        meter.coming = before + drawn.share


def _length(loader: Iterable[object]) -> int:
    """How many batches; 0 if nobody knows. A ``DataLoader`` of a stream only seems to know."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return 0
