"""Running: one pass over a CurriculumLoader, and the requests that its workers take."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from torch.utils.data import Sampler

from stagegraph.actions.data.draws import Draw
from stagegraph.actions.data.fetching import Request

if TYPE_CHECKING:
    from stagegraph.actions.data.curriculum import CurriculumLoader

__all__ = ["Pass", "Requests"]

T = TypeVar("T")


class Pass(Generic[T]):
    """One pass: fetches ahead, counts what is handed out, goes on elsewhere after a rewind."""

    def __init__(self, loader: CurriculumLoader[T]) -> None:
        self._loader = loader
        self._turn: int | None = None
        self._fetched: Iterator[T] | None = None
        self._over = False
        self.drawn: deque[Draw] = deque()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        loader = self._loader
        if self._turn != loader.turn_of(self):
            rewound = self._turn is not None
            self._begin()
            self._over = rewound and loader.pass_over
        if self._over or self._fetched is None:
            raise StopIteration
        batch = next(self._fetched, self)
        if batch is self:
            self._over, self._fetched = True, None
            raise StopIteration
        loader.hand_out(self.drawn.popleft())
        return batch  # type: ignore[return-value]

    def _begin(self) -> None:
        """Fetch from where the loader stands now; what was fetched ahead is dropped."""
        self._over, self._fetched = False, None
        self.drawn.clear()
        self._fetched = self._loader.open(self)
        self._turn = self._loader.turn_of(self)


class Requests(Sampler[Request]):
    """The requests of the pass that runs, as workers take them.

    It does not keep the loader alive: a loader in a circle with its workers would end them only
    when the garbage collector comes, and then after a timeout each.
    """

    def __init__(self, loader: CurriculumLoader[Any]) -> None:
        self._loader = weakref.ref(loader)

    def __iter__(self) -> Iterator[Request]:
        loader = self._loader()
        cursor = None
        while loader is not None:
            request, cursor, last = loader.request(cursor)
            loader = None
            yield request
            if last:
                return
            loader = self._loader()
