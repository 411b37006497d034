"""Maps: how a space of n units becomes one of N, for everything that is bound to it.

A growth of a space is a pair of matrices, a forward map R (N, n) that says what the grown space
holds, x' = R x, and a fold map D (n, N) that says how it is read, with D R = I. All that is bound
to the space follows from the pair:

=================  =======================================  =================================
bound as           weights, buffers, averages               gradients, moments
=================  =======================================  =================================
written (``out``)  multiply by R                            multiply by Dᵀ
read (``in``)      multiply by D, from the right            multiply by Rᵀ, from the right
=================  =======================================  =================================

Each row of R is a multiple of one old unit (a copy), the mean of all old units, or nothing (a new
unit); so a map is three vectors, and applying it is an ``index_select``. Where a coefficient is not
1, the product is computed in float64 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["MEAN", "NEW", "Binding", "Factor", "Role", "SpaceMap", "Use", "mapped"]

NEW = -1
"""In :attr:`SpaceMap.source`: a unit that comes from no old one."""

MEAN = -2
"""In :attr:`SpaceMap.source`: a unit that holds the mean of all old ones."""

Role = Literal["out", "in"]
"""Whether a tensor's axis writes its space (or holds an entry per unit), or reads it."""

Marked = Literal["fresh", "averaged", "added"]
"""Units of a grown space: see the properties of :class:`SpaceMap` of these names."""

Use = Literal["weight", "gradient", "square"]
"""What a tensor holds: values of weights, values like gradients, or squares of gradients."""


@dataclass(frozen=True, slots=True)
class SpaceMap:
    """A space of n units becoming one of N.

    Attributes:
        before: n.
        source: Per unit of the grown space: the old unit it copies, :data:`NEW` or :data:`MEAN`.
            Shape (N,), int64.
        write: Per unit of the grown space: the entry of R, 0 for a new one. Shape (N,), float64.
        read: Per unit of the grown space: the entry of D, 0 for a new one. Shape (N,), float64.
    """

    before: int
    source: Tensor
    write: Tensor
    read: Tensor

    @property
    def after(self) -> int:
        """N."""
        return len(self.source)

    @property
    def fresh(self) -> Tensor:
        """Which units of the grown space come from no old one. Shape (N,), bool."""
        return self.source == NEW

    @property
    def averaged(self) -> Tensor:
        """Which units of the grown space hold the mean of all old ones. Shape (N,), bool."""
        return self.source == MEAN

    @property
    def added(self) -> Tensor:
        """Which units of the grown space are not an old unit's first. Shape (N,), bool."""
        added = torch.ones(self.after, dtype=torch.bool)
        seen: set[int] = set()
        for place, source in enumerate(self.source.tolist()):
            if source >= 0 and source not in seen:
                added[place] = False
                seen.add(source)
        return added

    @property
    def copies(self) -> Tensor:
        """How many units of the grown space each old one has. Shape (n,), int64."""
        return torch.bincount(self.source[self.source >= 0], minlength=self.before)

    def forward(self) -> Tensor:
        """R as a matrix. Shape (N, n), float64."""
        R_Nn = torch.zeros(self.after, self.before, dtype=torch.float64)
        for place, source in enumerate(self.source.tolist()):
            if source >= 0:
                R_Nn[place, source] = self.write[place]
            elif source == MEAN:
                R_Nn[place] = self.write[place] / self.before
        return R_Nn

    def fold(self) -> Tensor:
        """D as a matrix. Shape (n, N), float64."""
        D_nN = torch.zeros(self.before, self.after, dtype=torch.float64)
        for place, source in enumerate(self.source.tolist()):
            if source >= 0:
                D_nN[source, place] = self.read[place]
        return D_nN


@dataclass(frozen=True, slots=True)
class Factor:
    """One factor of a tensor's axis, which is the product of its factors.

    Attributes:
        size: Its size before.
        map: How it grows; ``None`` if it does not.
        role: Whether the axis writes or reads the space.
    """

    size: int
    map: SpaceMap | None = None
    role: Role = "out"

    @property
    def after(self) -> int:
        """Its size afterwards."""
        return self.size if self.map is None else self.map.after


Part = tuple[Factor, ...]
"""Factors whose product is a length; the leftmost moves slowest."""


@dataclass(frozen=True, slots=True)
class Binding:
    """How the axes of a tensor are bound to spaces.

    Attributes:
        axes: Per axis its parts; an axis of several parts is their concatenation.
    """

    axes: tuple[tuple[Part, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape before."""
        return tuple(sum(_length(part) for part in axis) for axis in self.axes)

    @property
    def grown(self) -> tuple[int, ...]:
        """The tensor's shape afterwards."""
        return tuple(sum(_length(part, grown=True) for part in axis) for axis in self.axes)

    def swapped(self, *axes: int) -> Binding:
        """The binding of a tensor that has these axes only, in this order."""
        return Binding(tuple(self.axes[axis] for axis in axes))

    def marks(self, which: Marked, role: Role | None = None) -> Tensor:
        """Which entries of the grown tensor lie in units of one sort.

        Args:
            which: Units from no old one, units that hold the mean of all, or all that are not an
                old unit's first.
            role: Look at axes of this role only.

        Returns:
            Booleans that broadcast to the grown shape.
        """
        marks = torch.zeros((1,) * len(self.axes), dtype=torch.bool)
        for dim, axis in enumerate(self.axes):
            own = torch.cat([_marks(part, which, role) for part in axis])
            if own.any():
                shape = [1] * len(self.axes)
                shape[dim] = len(own)
                marks = marks | own.view(shape)
        return marks


def _length(part: Part, *, grown: bool = False) -> int:
    length = 1
    for factor in part:
        length *= factor.after if grown else factor.size
    return length


def _marks(part: Part, which: Marked, role: Role | None) -> Tensor:
    marks = torch.zeros((), dtype=torch.bool)
    for factor in part:
        own = torch.zeros(factor.after, dtype=torch.bool)
        if factor.map is not None and role in (None, factor.role):
            own = getattr(factor.map, which)
        marks = (marks.unsqueeze(-1) | own).reshape(-1)
    return marks


def mapped(tensor: Tensor, binding: Binding, use: Use) -> Tensor:
    """What a tensor becomes; its entries in fresh units are zero.

    Args:
        tensor: The tensor, of shape ``binding.shape``.
        binding: How its axes grow.
        use: What it holds. ``square`` is exact for copies and new units; where a unit is the mean
            of all others, the square of a sum is not known and the mean of the squares stands in.

    Returns:
        A new tensor of shape ``binding.grown``, with the old dtype, device and memory format.
    """
    out = tensor.detach()
    for dim, axis in enumerate(binding.axes):
        if all(factor.map is None for part in axis for factor in part):
            continue
        pieces = (
            torch.split(out, [_length(part) for part in axis], dim) if len(axis) > 1 else (out,)
        )
        grown = [
            _grow_part(piece, dim, part, use) for piece, part in zip(pieces, axis, strict=True)
        ]
        out = grown[0] if len(grown) == 1 else torch.cat(grown, dim)
    if out.data_ptr() == tensor.data_ptr():
        return tensor.detach().clone()
    format_ = torch.channels_last if _is_channels_last(tensor) else torch.contiguous_format
    return out.to(tensor.dtype, memory_format=format_)


def _is_channels_last(tensor: Tensor) -> bool:
    return (
        tensor.dim() == 4
        and tensor.is_contiguous(memory_format=torch.channels_last)
        and not tensor.is_contiguous()
    )


def _grow_part(tensor: Tensor, dim: int, part: Part, use: Use) -> Tensor:
    if len(part) == 1:
        return _grow(tensor, dim, part[0], use)
    out = torch.unflatten(tensor, dim, [factor.size for factor in part])
    for place, factor in enumerate(part):
        out = _grow(out, dim + place, factor, use)
    return out.flatten(dim, dim + len(part) - 1)


def _grow(tensor: Tensor, dim: int, factor: Factor, use: Use) -> Tensor:
    space = factor.map
    if space is None:
        return tensor
    coefficients = _coefficients(space, factor.role, use)
    source = space.source.clamp(min=0).to(tensor.device)
    out = tensor.index_select(dim, source)
    if bool((coefficients != 1).any()):
        shape = [1] * tensor.dim()
        shape[dim] = space.after
        out = out.double() * coefficients.to(tensor.device).view(shape)
    averaged = (space.source == MEAN).nonzero().flatten().tolist()
    if averaged and _means(factor.role, use):
        mean = tensor.double().mean(dim, keepdim=True)
        for place in averaged:
            scaled = mean * float(coefficients[place])
            out.narrow(dim, place, 1).copy_(scaled)
    return out


def _means(role: Role, use: Use) -> bool:
    """Whether a mean unit's entry is the mean of the old entries; if not, it is zero."""
    return role == "out" if use == "weight" else role == "in" or use == "square"


def _coefficients(space: SpaceMap, role: Role, use: Use) -> Tensor:
    writes = (role == "out") == (use == "weight")
    coefficients = space.write if writes else space.read
    coefficients = torch.where(space.source == NEW, 0.0, coefficients)
    if use != "square":
        return coefficients
    squares = coefficients**2
    return torch.where(space.source == MEAN, 1.0, squares)
