"""SeededSampler: an order that is a function of seed and epoch, so that it can be gone on with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sized
from typing import Any

import torch
from torch.utils.data import Sampler

from stagegraph.errors import ProgressError

__all__ = ["SeededSampler"]


class SeededSampler(Sampler[int]):
    """Indices in an order that depends on seed, epoch and nothing else.

    It draws from no global random numbers and can begin anywhere in an epoch at once, so that a
    run that is resumed sees the batches that it would have seen. ``Engine.epochs`` tells it the
    epoch; in a loop of your own call :meth:`set_epoch`.

    >>> sampler = SeededSampler(range(6), seed=1)
    >>> whole = list(sampler)
    >>> sampler.skip(4)
    >>> list(sampler) == whole[4:]
    True

    Args:
        data: What is sampled; only its length counts.
        seed: Another seed, another order; the same on all ranks.
        shuffle: Whether the order is random; else it is that of the data.
        num_ranks: How many ranks share the data; each gets every so many-th index.
        rank: Which of them this is.
        drop_last: With several ranks: leave out the rest that does not divide, instead of giving
            some ranks an index twice.
    """

    def __init__(
        self,
        data: Sized,
        *,
        seed: int = 0,
        shuffle: bool = True,
        num_ranks: int = 1,
        rank: int = 0,
        drop_last: bool = False,
    ) -> None:
        if not 0 <= rank < num_ranks:
            raise ProgressError(f"rank {rank} is none of {num_ranks} ranks: 0 to {num_ranks - 1}")
        self._size = len(data)
        self._seed = seed
        self._shuffle = shuffle
        self._num_ranks = num_ranks
        self._rank = rank
        self._drop_last = drop_last
        self._skip = 0
        self.epoch = 0
        """Whose order is given."""

    def set_epoch(self, epoch: int) -> None:
        """From here on, give the order of this epoch."""
        self.epoch = epoch

    def skip(self, count: int) -> None:
        """Leave out the first indices, in the next pass only."""
        self._skip = count

    def __len__(self) -> int:
        rest = 0 if self._drop_last else self._num_ranks - 1
        return (self._size + rest) // self._num_ranks

    def __iter__(self) -> Iterator[int]:
        skip, self._skip = self._skip, 0
        order = self._order()
        total = len(self) * self._num_ranks
        while len(order) < total:
            order += order[: total - len(order)]
        return iter(order[self._rank : total : self._num_ranks][skip:])

    def _order(self) -> list[int]:
        if not self._shuffle:
            return list(range(self._size))
        digest = hashlib.sha256(f"{self._seed}/{self.epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        order: list[Any] = torch.randperm(self._size, generator=generator).tolist()
        return order
