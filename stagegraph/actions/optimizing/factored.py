"""Factored second moments (Adafactor, 1804.04235): means of squares over rows and over columns.

Of a second moment V (..., n, m) only r, its means over the last axis, and c, its means over the
last but one, are kept; V is taken to be r cᵀ / mean(r). Growth makes V to V' = A V Bᵀ with the
squared maps A of the rows and B of the columns, so that

    r' = A r · mean(B c) / mean(c)        c' = B c · mean(A r) / mean(r)

which is what r' and c' of V' are where V has rank one, and also of any V where the other axis has
the same coefficient for all of it (no growth, or an equal split).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from stagegraph.actions.growth.width.maps import Binding, Factor, mapped

__all__ = ["grown_factor"]


def grown_factor(
    own: Tensor,
    other: Tensor,
    binding: Binding,
    which: Literal["row", "column"],
    *,
    fill: bool,
    keep: bool,
) -> Tensor:
    """The row or column means of a widened parameter.

    Args:
        own: Its row means, (..., n, 1) or (..., n); or column means, (..., 1, m) or (..., m).
        other: The others of the two.
        binding: How the parameter's axes grow.
        which: What ``own`` is.
        fill: Give fresh units the mean of the others; otherwise zero.
        keep: Let added copies keep their moments; otherwise zero.
    """
    axis, across = (-2, -1) if which == "row" else (-1, -2)
    kept = own.dim() == len(binding.axes)
    if not kept:
        own, other = own.unsqueeze(across), other.unsqueeze(axis)
    beside = _grown(other, _means(binding, axis, lead=False), across, fill=fill, keep=keep)
    before = other.double().mean(across, keepdim=True)
    ratio = beside.mean(across, keepdim=True) / before
    scaled = own.double() * ratio.where(before != 0, 1.0)
    out = _grown(scaled, _means(binding, across, lead=True), axis, fill=fill, keep=keep)
    return (out if kept else out.squeeze(across)).to(own.dtype)


def _means(binding: Binding, over: int, *, lead: bool) -> Binding:
    """The binding of the means over one of the last two axes, with or without growth before."""
    axes = list(binding.axes)
    axes[over] = ((Factor(1),),)
    if not lead:
        axes[:-2] = [((Factor(size),),) for size in binding.shape[:-2]]
    return Binding(tuple(axes))


def _grown(value: Tensor, binding: Binding, axis: int, *, fill: bool, keep: bool) -> Tensor:
    out = mapped(value.double(), binding, "square")
    fresh = binding.marks("fresh").to(out.device)
    if fill and bool(fresh.any()):
        there = (~fresh).expand(out.shape)
        count = there.sum(axis, keepdim=True)
        mean = (out * there).sum(axis, keepdim=True) / count.clamp(min=1)
        out = mean.where(count > 0, out[there].mean()).where(fresh, out)
    if not keep:
        out = out.masked_fill(binding.marks("added").to(out.device) & ~fresh, 0.0)
    return out
