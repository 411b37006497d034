"""Slice factors: a factor on the updates of some entries of a tensor, the new ones of a widened.

An optimizer has one learning rate per tensor. So the old values are kept while it steps, and
afterwards p ← old + f (p − old) on the slice; decoupled weight decay is scaled with the rest, and
the moments go on as if nothing were. 0 leaves the slice as it was, bit for bit, and 1 costs
nothing. This is a factor on the update itself, whatever the optimizer makes of a learning rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SliceFactor", "Slices", "entry_factors"]


@dataclass(frozen=True, slots=True, eq=False)
class SliceFactor:
    """One factor on a slice.

    Attributes:
        place: Where it is written; it has the value of that place.
        parameter: The parameter.
        mask: Which of its entries; booleans that broadcast to its shape, as
            :meth:`stagegraph.actions.growth.width.maps.Binding.marks` gives them.

    Raises:
        ValueError: The mask is of another shape.
    """

    place: str
    parameter: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        """Refuse a mask that does not fit."""
        shape, mask = self.parameter.shape, self.mask.shape
        last = shape[len(shape) - len(mask) :] if len(mask) <= len(shape) else ()
        if len(last) != len(mask) or any(m not in (1, n) for m, n in zip(mask, last, strict=True)):
            raise ValueError(
                f"{self.place}: a mask of shape {tuple(mask)} does not fit a parameter of shape "
                f"{tuple(shape)}"
            )


def entry_factors(parameter: Tensor, factors: Sequence[tuple[Tensor, float]]) -> Tensor:
    """The product of factors on overlapping slices, per entry; it broadcasts to the parameter.

    Args:
        parameter: The parameter.
        factors: Masks and their factors.
    """
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    product = torch.ones((), dtype=dtype, device=parameter.device)
    for mask, factor in factors:
        product = torch.where(mask.to(parameter.device), product * factor, product)
    return product


@dataclass(frozen=True, slots=True)
class _Kept:
    parameter: Tensor
    old: Tensor
    factors: Tensor


class Slices:
    """The old values of one optimizer's parameters, while it steps."""

    def __init__(self) -> None:
        self._kept: list[_Kept] = []

    def keep(self, wanted: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Keep what these parameters are now.

        Args:
            wanted: Parameters and the factor of each of their entries.
        """
        self._kept = [
            _Kept(parameter, parameter.detach().clone(), factors) for parameter, factors in wanted
        ]

    def blend(self) -> None:
        """Take back the share of each update that its factor leaves out."""
        kept, self._kept = self._kept, []
        for one in kept:
            if one.parameter.shape == one.old.shape:  # not after a growth that a raise led to
                with torch.no_grad():
                    one.parameter.copy_(_blended(one.old, one.parameter.detach(), one.factors))


def _blended(old: Tensor, new: Tensor, factors: Tensor) -> Tensor:
    dtype = factors.dtype
    between = torch.lerp(old.to(dtype), new.to(dtype), factors.expand(new.shape)).to(new.dtype)
    # where nothing moved, -0.0 stays -0.0; what is frozen stays, even beside an infinite update
    return torch.where((factors == 1) | (new == old), new, torch.where(factors == 0, old, between))
