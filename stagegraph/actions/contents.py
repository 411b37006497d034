"""Contents: what tensors hold, copied, to be put back in place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from stagegraph.actions.sharding.tensors import local

__all__ = ["Contents", "state_tensors", "storages", "tensors_in"]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in a value, in containers too."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors_in(one)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for one in value:
            yield from tensors_in(one)


def state_tensors(optimizers: Iterable[Optimizer]) -> list[Tensor]:
    """All tensors of the state of optimizers."""
    return [t for one in optimizers for entry in one.state.values() for t in tensors_in(entry)]


def storages(tensors: Iterable[Tensor]) -> dict[int, torch.UntypedStorage]:
    """The memory that tensors lie in, each piece once, by its address."""
    found: dict[int, torch.UntypedStorage] = {}
    for tensor in map(local, tensors):
        if _is_plain(tensor):
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage
    return {address: storage for address, storage in found.items() if address}


def _is_plain(tensor: Tensor) -> bool:
    """Whether it lies in one piece of memory; quantized ones are made of others."""
    return type(tensor.data) is Tensor and tensor.layout is torch.strided and not tensor.is_meta


class Contents:
    """Copies of what tensors hold.

    Memory is copied, not elements: tied tensors are copied once, and one that was expanded, which
    takes no elements, can be put back too. Of what is sharded over ranks each rank copies its part.

    Args:
        tensors: The tensors.
        host: Copy to the host's memory, so that none of an accelerator's is taken.

    >>> x = torch.zeros(2)
    >>> kept = Contents([x])
    >>> _ = x.add_(1)
    >>> kept.restore()
    >>> x
    tensor([0., 0.])
    """

    def __init__(self, tensors: Iterable[Tensor], *, host: bool = False) -> None:
        several = [local(tensor) for tensor in tensors]
        self._plain = [(old, _copied(old, host)) for old in storages(several).values()]
        others = {id(t): t for t in several if not _is_plain(t) and not t.is_meta}.values()
        self._others = [
            (t, t.detach().to("cpu", copy=True) if host else t.detach().clone()) for t in others
        ]

    @property
    def num_bytes(self) -> int:
        """How much was copied."""
        plain = sum(copied.nbytes() for _, copied in self._plain)
        return plain + sum(copied.nbytes for _, copied in self._others)

    def restore(self) -> None:
        """Put everything back; tensors must lie where they lay."""
        for storage, content in self._plain:
            storage.copy_(content)
        with torch.no_grad():
            for tensor, copied in self._others:
                tensor.copy_(copied)


def _copied(storage: torch.UntypedStorage, host: bool) -> torch.UntypedStorage:  # noqa: FBT001
    to_host = host and storage.device.type != "cpu"
    return storage.cpu() if to_host else storage.clone()  # type: ignore[no-untyped-call, no-any-return]
