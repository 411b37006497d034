"""Fetching: make one batch of its items, in the process or in a worker, the same everywhere.

Whatever draws global random numbers while an item is made draws them from a seed of the item's
own, and what was to come before comes after: an item is a function of seed, epoch and index.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import Dataset, default_collate

from stagegraph.actions.data.draws import Pick, seed_of

__all__ = ["Asked", "AskedItems", "Fetching", "Request"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a data set is asked for, if it has a method ``item``.

    Attributes:
        index: Which item.
        epoch: In which pass over its source, from 0.
        length: How long the sequence is to be; ``None`` if nobody says.
        seed: A seed of this item's own, a function of the loader's seed, source, epoch and index.
    """

    index: int
    epoch: int
    length: int | None
    seed: int

    def generator(self) -> torch.Generator:
        """Random numbers of this item's own."""
        return torch.Generator().manual_seed(self.seed)


@runtime_checkable
class AskedItems(Protocol):
    """A data set that wants to know more than the index."""

    def item(self, asked: Asked, /) -> Any:
        """One item."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """One batch to be made.

    Attributes:
        number: Which batch of the run.
        picks: Its items.
        length: How long its sequences are to be.
    """

    number: int
    picks: tuple[Pick, ...]
    length: int | None


class Fetching(Dataset[Any]):
    """Makes batches out of requests.

    Args:
        sources: The data sets by name.
        seed: The loader's seed.
        collate: Makes a batch of items.
        crop: Cuts an item to a length, for data sets without ``item``.
        isolated: Whether global random numbers get a seed per item, and are kept.
    """

    def __init__(
        self,
        sources: Mapping[str, Any],
        *,
        seed: int,
        collate: Callable[[list[Any]], Any] | None,
        crop: Callable[[Any, int], Any] | None,
        isolated: bool,
    ) -> None:
        self.sources = dict(sources)
        self._asking = {name for name, one in sources.items() if isinstance(one, AskedItems)}
        self._seed = seed
        self._collate = default_collate if collate is None else collate
        self._crop = crop
        self._isolated = isolated

    def __getitem__(self, request: Request) -> Any:
        """The batch of a request."""
        with _kept_random(on=self._isolated):
            items = [self._item(pick, request.length) for pick in request.picks]
            if self._isolated:
                _seed_global(seed_of(self._seed, "collate", request.number))
            return self._collate(items)

    def _item(self, pick: Pick, length: int | None) -> Any:
        name, epoch, index = pick
        seed = 0
        if self._isolated or name in self._asking:
            seed = seed_of(self._seed, "item", name, epoch, index)
        if self._isolated:
            _seed_global(seed)
        return self.item(name, Asked(index, epoch, length, seed))

    def item(self, name: str, asked: Asked) -> Any:
        """One item of a source."""
        data = self.sources[name]
        if name in self._asking:
            return data.item(asked)
        item = data[asked.index]
        return (
            item if asked.length is None or self._crop is None else self._crop(item, asked.length)
        )


def _seed_global(seed: int) -> None:
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


@contextmanager
def _kept_random(*, on: bool) -> Iterator[None]:
    """What is drawn inside on the host is not missing afterwards."""
    if not on:
        yield
        return
    python, cpu = random.getstate(), torch.default_generator.get_state()
    numpy = sys.modules.get("numpy")
    theirs = None if numpy is None else numpy.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        torch.default_generator.set_state(cpu)
        if numpy is not None and theirs is not None:
            numpy.random.set_state(theirs)
