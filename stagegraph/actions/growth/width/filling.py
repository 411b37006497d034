"""Filling: what goes into the entries of a grown tensor that come from no old one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor

from stagegraph.actions.growth.width.maps import Binding, Factor, Part

__all__ = ["Fill", "fill", "perturb"]

Content = Literal["zero", "random", "mean", "mean_noise", "pair", "last", "stretch"]

_NOISE = 0.1
"""How much ``mean_noise`` strays from the mean, as a share of the spread of what is there."""


@dataclass(frozen=True, slots=True)
class Fill:
    """What fresh units hold in one tensor.

    Attributes:
        out: Where the tensor writes them: ``zero``, ``random`` numbers as large as the old ones,
            the ``mean`` of the old ones, without or with noise, a ``pair``: random, the second half
            like the first; the ``last`` old one, or all old ones in order, by a ``stretch`` over
            the new places.
        read: Where the tensor reads them: ``zero``, ``random``, or a ``pair``: random, and the
            second half with the opposite sign.
    """

    out: Content = "zero"
    read: Content = "zero"


def fill(grown: Tensor, old: Tensor, binding: Binding, content: Fill, *, seed: int) -> None:
    """Fill the fresh units of a grown tensor, in place.

    Args:
        grown: The mapped tensor, of shape ``binding.grown``.
        old: The tensor before.
        binding: How it grew.
        content: What to fill in.
        seed: For random numbers of this tensor's own; nobody else's are drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    for view, dim, factor in _factors(grown, binding):
        if factor.map is None or not bool(factor.map.fresh.any()):
            continue
        fresh = factor.map.fresh.nonzero().flatten()
        first, count = int(fresh[0]), len(fresh)
        units = view.narrow(dim, first, count)
        wanted = content.out if factor.role == "out" else content.read
        if wanted in ("mean", "mean_noise"):
            mean = view.narrow(dim, 0, first).double().mean(dim, keepdim=True)
            noise = _random(units, old, binding, generator) if wanted == "mean_noise" else 0.0
            units.copy_(mean.expand(units.shape) + _NOISE * noise)
        elif wanted == "last":
            units.copy_(view.narrow(dim, first - 1, 1).expand(units.shape))
        elif wanted == "stretch":
            units.copy_(_stretched(view.narrow(dim, 0, first), dim, count))
        elif wanted == "random":
            units.copy_(_random(units, old, binding, generator))
        elif wanted == "pair":
            half = units.narrow(dim, 0, count // 2)
            half.copy_(_random(half, old, binding, generator))
            sign = 1 if factor.role == "out" else -1
            units.narrow(dim, count // 2, count // 2).copy_(half * sign)


def perturb(grown: Tensor, old: Tensor, binding: Binding, noise: float, *, seed: int) -> None:
    """Make copies differ where they are read, so that what is read stays the same, in place.

    Args:
        grown: The mapped tensor.
        old: The tensor before.
        binding: How it grew.
        noise: Standard deviation, as a share of that of the old entries.
        seed: For random numbers of this tensor's own.
    """
    generator = torch.Generator().manual_seed(seed)
    for view, dim, factor in _factors(grown, binding):
        if factor.map is None or factor.role != "in":
            continue
        source = factor.map.source
        at = (source >= 0).nonzero().flatten()
        delta = torch.randn(view.shape, generator=generator, dtype=torch.float64)
        delta = delta.index_select(dim, at) * noise * float(old.double().std())
        copies = factor.map.copies.double()
        shape = [1] * view.dim()
        shape[dim] = factor.map.before
        sums = torch.zeros(
            (*view.shape[:dim], factor.map.before, *view.shape[dim + 1 :]), dtype=torch.float64
        ).index_add_(dim, source[at], delta)
        means = sums / copies.clamp(min=1).view(shape)
        delta = (delta - means.index_select(dim, source[at])).to(view.device)
        where = at.to(view.device)
        changed = view.index_select(dim, where).double() + delta
        view.index_copy_(dim, where, changed.to(view.dtype))


def _factors(tensor: Tensor, binding: Binding) -> Iterator[tuple[Tensor, int, Factor]]:
    """Each factor of each axis, with a view of the grown tensor that has its units as an axis."""
    for dim, axis in enumerate(binding.axes):
        start = 0
        for part in axis:
            length = prod(factor.after for factor in part)
            piece = tensor.narrow(dim, start, length)
            yield from _in_part(piece, dim, part)
            start += length


def _in_part(piece: Tensor, dim: int, part: Part) -> Iterator[tuple[Tensor, int, Factor]]:
    view = piece
    if len(part) > 1:
        sizes = [factor.after for factor in part]
        view = piece.view(*piece.shape[:dim], *sizes, *piece.shape[dim + 1 :])
    for place, factor in enumerate(part):
        yield view, dim + place, factor


def _random(units: Tensor, old: Tensor, binding: Binding, generator: torch.Generator) -> Tensor:
    """Normal numbers with the standard deviation of the old entries, or of a usual beginning."""
    spread = float(old.double().std()) if old.numel() > 1 else 0.0
    if spread == 0.0:
        spread = max(1, old.numel() // max(1, old.shape[0])) ** -0.5
    drawn = torch.randn(units.shape, generator=generator, dtype=torch.float32)
    return (drawn * spread).to(units.device, units.dtype)


def _stretched(old: Tensor, dim: int, count: int) -> Tensor:
    """So many units on the lines between the old ones, the first like the first."""
    places = torch.linspace(0, old.shape[dim] - 1, count, dtype=torch.float64, device=old.device)
    below = places.floor().long()
    above = places.ceil().long()
    share = (places - below).view([-1 if axis == dim else 1 for axis in range(old.dim())])
    low, high = (old.index_select(dim, at).double() for at in (below, above))
    return low + share * (high - low)
