"""How one tensor grows: its map, what fills what is new, and what a norm or a tie asks for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stagegraph.actions.changes import Axes
from stagegraph.actions.growth.width.filling import Fill, fill, perturb
from stagegraph.actions.growth.width.maps import Binding, mapped
from stagegraph.actions.growth.width.patterns import continued

__all__ = ["TensorGrowth"]


@dataclass(frozen=True, slots=True)
class TensorGrowth:
    """How one parameter or buffer grows.

    Attributes:
        name: Today's name.
        tensor: The parameter or buffer.
        binding: How its axes grow.
        fill: What fresh units hold.
        noise: How much copies are made to differ where they are read, as a share.
        factor: What everything is multiplied by, once it is ``offset`` larger, in float64.
        offset: What belongs to the value and is not stored in it: 1 for a gain of 1 + weight.
        silent: Whether units that hold the mean of all others get zero here: a norm that subtracts
            the mean makes nothing of them, and its bias must add nothing.
        mute: Which entries are zero, whatever ``fill`` says. Booleans that broadcast to the grown
            shape.
        added: What fresh entries get on top.
        pattern: For a buffer: how its content goes on (:mod:`~.patterns`); nothing is filled in.
    """

    name: str
    tensor: Tensor
    binding: Binding
    fill: Fill
    noise: float = 0.0
    factor: float = 1.0
    offset: float = 0.0
    silent: bool = False
    mute: Tensor | None = None
    added: float = 0.0
    pattern: str | None = None

    @property
    def axes(self) -> Axes:
        """How its axes grow, as data."""
        return tuple(
            tuple(tuple((factor.size, factor.after) for factor in part) for part in axis)
            for axis in self.binding.axes
        )

    def grown(self, value: Tensor, *, seed: int) -> Tensor:
        """The grown tensor."""
        if self.pattern is not None:
            return continued(value, self.pattern, self.binding.grown)
        out = mapped(value, self.binding, "weight")
        if out.is_floating_point():
            fill(out, value, self.binding, self.fill, seed=seed)
            if self.noise:
                perturb(out, value, self.binding, self.noise, seed=seed)
        if self.added:
            fresh = self.binding.marks("fresh").to(out.device).expand_as(out)
            out = torch.where(fresh, out + self.added, out)
        return self.finished(out)

    def finished(self, out: Tensor) -> Tensor:
        """The mapped tensor with its factor, and silent where it must be."""
        if self.silent:
            marks = self.binding.marks("averaged").to(out.device)
            out = out.masked_fill(marks.expand_as(out), 0.0)
        if self.mute is not None:
            out = out.masked_fill(self.mute.to(out.device).expand_as(out), 0.0)
        if self.factor == 1.0:
            return out
        return ((out.double() + self.offset) * self.factor - self.offset).to(out.dtype)
