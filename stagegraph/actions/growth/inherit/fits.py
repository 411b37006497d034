"""Fits: what becomes of one tensor of a model that inherits, and what stands against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from stagegraph.actions.changes import Axes
from stagegraph.actions.growth.width.tensor_growth import TensorGrowth

__all__ = ["Fit", "Status", "misfit", "refused_fit"]

Status = Literal["copied", "grown", "left", "refused"]


@dataclass(frozen=True, slots=True)
class Fit:
    """What becomes of one tensor.

    Attributes:
        names: Its names; a tied one has several.
        tensor: The parameter or buffer.
        status: What becomes of it.
        words: How, or why not.
        origin: The name in the weights that it comes from.
        content: What stands there.
        extra: The path of the additional block that it is in, if that becomes the identity or is
            left.
        growth: How it grows by the maps of its spaces.
        axes: Where its content goes, if it goes into a corner.
    """

    names: tuple[str, ...]
    tensor: Tensor
    status: Status
    words: str = ""
    origin: str | None = None
    content: Tensor | None = None
    extra: str | None = None
    growth: TensorGrowth | None = None
    axes: Axes | None = None

    @property
    def name(self) -> str:
        """The first of its names."""
        return self.names[0]

    @property
    def taken(self) -> bool:
        """Whether it gets another content."""
        return self.status in ("copied", "grown")


def refused_fit(target: Fit, why: str) -> Fit:
    """The same tensor, with why it cannot be taken."""
    return replace(target, status="refused", words=why, growth=None, axes=None)


def misfit(target: Fit, shape: Sequence[int]) -> str | None:
    """What stands against a content of this shape; ``None`` if nothing."""
    assert target.content is not None
    small, large = tuple(target.content.shape), tuple(target.tensor.shape)
    if tuple(shape) == large:
        return None
    if len(small) != len(large):
        return f"{len(small)} axes in the weights, and {len(large)} here"
    cut = [dim for dim in range(len(large)) if small[dim] > large[dim]]
    if cut:
        told = ", ".join(f"axis {dim} has {small[dim]} and {large[dim]}" for dim in cut)
        return (
            f"{told} here: nothing is cut off; take a model at least as large, or leave: the tensor"
        )
    told = ", ".join(
        f"axis {dim} has {small[dim]} and {large[dim]} here"
        for dim in range(len(large))
        if shape[dim] != large[dim]
    )
    return (
        f"{told}, and no space says how it grows; name one in its layout under spaces: tensors:, "
        "or take how: corner"
    )
