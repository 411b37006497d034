"""Beside: what stands next to a stack and has an entry for each of its blocks.

A list of norms that the model's own loop takes one of per block, a list of learned scales, a
parameter or a buffer with a row per block. Such a thing must grow with the stack, in the same
places; what only happens to be as long must not. Which it is nobody can see, so it is declared, or
the growth is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stagegraph.actions.giving import give
from stagegraph.actions.growth.depth.layout import Place
from stagegraph.actions.growth.depth.stacks import copy_block, find_entries, insert_entries
from stagegraph.actions.sharding.alike import shard_alike
from stagegraph.actions.sharding.tensors import any_shard
from stagegraph.errors import UnsupportedError

__all__ = ["Entries", "Lists", "Rows", "as_long_beside", "copied_entries", "find_beside"]

Lists = nn.ModuleList | nn.Sequential | nn.ParameterList
"""What may hold one module or parameter per block."""


@dataclass(frozen=True, slots=True)
class Entries:
    """A list beside the stack with a module or a parameter per block.

    Attributes:
        path: Today's path.
        owner: The list.
    """

    path: str
    owner: Lists

    def insert(self, new: dict[int, Any]) -> None:
        """Put entries at these places of the grown list."""
        insert_entries(self.owner, new)


@dataclass(frozen=True, slots=True)
class Rows:
    """A parameter or a buffer beside the stack whose first axis counts blocks.

    Attributes:
        path: Today's path.
        tensor: The parameter or the buffer; it stays the same object.
    """

    path: str
    tensor: Tensor

    def take(self, order: Sequence[int], optimizers: Sequence[Optimizer]) -> None:
        """Make it consist of these of its rows, optimizer state included.

        Raises:
            UnsupportedError: Its optimizer state has another shape than itself.
        """
        tensor, before = self.tensor, self.tensor.shape
        for optimizer in optimizers:
            entry = optimizer.state.get(tensor, {})
            for key, value in entry.items():
                if isinstance(value, Tensor) and value.dim():
                    if value.shape != before:
                        raise UnsupportedError(
                            f"{self.path!r} has a row per block, and optimizer state {key!r} of "
                            f"shape {tuple(value.shape)}, of which stagegraph cannot say which "
                            "belongs to which block"
                        )
                    entry[key] = _rows(value, order)
        give(tensor, _rows(tensor, order))

    def marks(self, inserted: Sequence[Place]) -> Tensor:
        """Which of the grown tensor's rows are new; broadcasts to its shape."""
        marks = torch.zeros(len(self.tensor), *[1] * (self.tensor.dim() - 1), dtype=torch.bool)
        marks[[place.at for place in inserted]] = True
        return marks


def _rows(tensor: Tensor, order: Sequence[int]) -> Tensor:
    return tensor.detach().index_select(0, torch.tensor(order, device=tensor.device))


def find_beside(
    model: nn.Module, path: str, *, stack: nn.Module, size: int, place: str
) -> Entries | Rows | None:
    """What a path means, if it is something with an entry per block; ``None`` if it is another.

    Raises:
        UnsupportedError: It has not as many entries as the stack has blocks.
    """
    *owners, name = path.split(".")
    owner: Any = model
    for part in owners:
        owner = owner._modules.get(part) if isinstance(owner, nn.Module) else None
    if not isinstance(owner, nn.Module):
        return None
    there = owner._modules.get(name)
    tensor = {**owner._buffers, **owner._parameters}.get(name)
    if tensor is not None and tensor.dim():
        _refuse_other_size(path, len(tensor), size, place)
        _refuse_shards(path, [tensor], place)
        return Rows(path, tensor)
    if isinstance(there, Lists) and there is not stack:
        _refuse_other_size(path, len(there), size, place)
        entries = find_entries(there, path=path, place=place)
        _refuse_shards(path, [one for one in entries if isinstance(one, nn.Parameter)], place)
        return Entries(path, there)
    return None


def _refuse_shards(path: str, tensors: Sequence[Tensor], place: str) -> None:
    if any_shard(tensors):
        raise UnsupportedError(
            f"{place}: {path!r} has an entry per block and is sharded over ranks, where it cannot "
            "grow; give each block its own entry (a parameter of the block), or leave it out of "
            "the sharding (ignored_params)"
        )


def _refuse_other_size(path: str, found: int, size: int, place: str) -> None:
    if found != size:
        raise UnsupportedError(
            f"{place}: count {path!r} has {found} entries, and the stack {size} blocks"
        )


def as_long_beside(around: Sequence[tuple[str, Any]], stack: str, size: int) -> list[str]:
    """Paths of tensors and lists right in the modules around a stack that are as long as it.

    An ``nn.Sequential`` is none: it runs as a whole. Of a stack of one block nothing can be said.

    Args:
        around: The modules that contain the stack, by path.
        stack: Path of the stack.
        size: How many blocks it has.
    """
    found: list[str] = []
    for path, owner in around:
        if not isinstance(owner, nn.Module) or size == 1:
            continue
        tensors = {**owner._parameters, **owner._buffers}
        names = [k for k, t in tensors.items() if t is not None and t.dim() and len(t) == size]
        names += [
            name
            for name, module in owner._modules.items()
            if isinstance(module, nn.ModuleList | nn.ParameterList) and len(module) == size
        ]
        names += [
            name
            for name, value in vars(owner).items()
            if type(value) is list and len(value) == size and not name.startswith("_")
        ]
        found += [f"{path}.{name}".lstrip(".") for name in names]
    return [one for one in found if not f"{stack}.".startswith(f"{one}.")]


def copied_entries(
    model: nn.Module, entries: Entries, inserted: Sequence[Place]
) -> tuple[dict[int, Any], dict[nn.Parameter, nn.Parameter]]:
    """Copies of a list's entries for new blocks, by place, and which parameter is whose copy."""
    old = find_entries(entries.owner, path=entries.path, place=entries.path)
    new: dict[int, Any] = {}
    templates: dict[nn.Parameter, nn.Parameter] = {}
    for place in inserted:
        template = old[place.copy_of]
        if isinstance(template, nn.Parameter):
            copied = nn.Parameter(template.detach().clone(), template.requires_grad)
            new[place.at], templates[copied] = copied, template
            continue
        block = new[place.at] = copy_block(model, template, path=f"{entries.path}.{place.copy_of}")
        shard_alike(model, block, template)
        pairs = zip(block.parameters(), template.parameters(), strict=True)
        templates |= {copied: kept for copied, kept in pairs if copied is not kept}
    return new, templates
