"""Embedding: put a small tensor where it belongs in a large one, and take it out again.

What a growth recorded of a tensor (:data:`~stagegraph.actions.changes.Axes`) says where in the
grown tensor the old entries are: at the beginning of each factor of each axis.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from stagegraph.actions.changes import Axes

__all__ = ["embedded", "extracted", "new_entries", "shapes"]


def shapes(axes: Axes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes before and after."""
    before = tuple(sum(prod(f[0] for f in part) for part in axis) for axis in axes)
    after = tuple(sum(prod(f[1] for f in part) for part in axis) for axis in axes)
    return before, after


def _places(axis: tuple[tuple[tuple[int, int], ...], ...]) -> Tensor:
    """Where the old entries of an axis are in the grown one."""
    found: list[Tensor] = []
    start = 0
    for part in axis:
        sizes = [after for _, after in part]
        grid = torch.arange(prod(sizes)).view(sizes)
        for dim, (before, _) in enumerate(part):
            grid = grid.narrow(dim, 0, before)
        found.append(grid.reshape(-1) + start)
        start += prod(sizes)
    return torch.cat(found)


def embedded(old: Tensor, axes: Axes) -> Tensor:
    """The old tensor with zeros where the grown one has something new."""
    out = old.detach()
    for dim, axis in enumerate(axes):
        places = _places(axis)
        length = sum(prod(after for _, after in part) for part in axis)
        if len(places) == length:
            continue
        grown = out.new_zeros((*out.shape[:dim], length, *out.shape[dim + 1 :]))
        out = grown.index_copy_(dim, places.to(out.device), out)
    return out.clone() if out.data_ptr() == old.data_ptr() else out


def extracted(grown: Tensor, axes: Axes) -> Tensor:
    """The old entries of a grown tensor."""
    out = grown.detach()
    for dim, axis in enumerate(axes):
        places = _places(axis)
        if len(places) != out.shape[dim]:
            out = out.index_select(dim, places.to(out.device))
    return out.clone() if out.data_ptr() == grown.data_ptr() else out


def new_entries(axes: Axes) -> Tensor:
    """Which entries of the grown tensor are new, as booleans of its shape."""
    before, _ = shapes(axes)
    return ~embedded(torch.ones(before, dtype=torch.bool), axes)
