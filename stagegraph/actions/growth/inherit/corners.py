"""Corners: contents put at the beginning of every axis of a larger tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from stagegraph.actions.changes import Axes
from stagegraph.actions.growth.inherit.fits import Fit, misfit, refused_fit
from stagegraph.actions.growth.inherit.small_bounds import small_bounds
from stagegraph.actions.growth.inherit.weights import Weights
from stagegraph.actions.growth.operation import Site
from stagegraph.actions.growth.width.bindings import Bounds, BoundTensor, bind
from stagegraph.schema.actions import Inherit

__all__ = ["in_corners"]


def in_corners(
    site: Site, paired: Sequence[Fit], weights: Weights, action: Inherit, place: str
) -> list[Fit]:
    """Each content at the beginning of every axis, or of every factor that a layout tells of."""
    large = bind(site.model, site.spaces, place=place)
    small = small_bounds(large, paired, weights, action, place)
    declared = {id(bound.tensor): bound for bound in large.tensors}
    inner = {bound.name: bound for bound in small.tensors}
    fits: list[Fit] = []
    for target in paired:
        if target.content is None or target.status != "copied":
            fits.append(target)
            continue
        bound = declared.get(id(target.tensor))
        axes = _plain_axes(target) if bound is None else _factors(large, small, bound, inner)
        fits.append(_cornered(target, axes))
    return fits


def _plain_axes(target: Fit) -> Axes:
    assert target.content is not None
    sizes = zip(target.content.shape, target.tensor.shape, strict=False)
    return tuple((((int(before), int(after)),),) for before, after in sizes)


def _factors(
    large: Bounds, small: Bounds, bound: BoundTensor, inner: Mapping[str, BoundTensor]
) -> Axes:
    if bound.name not in inner:  # it has another number of axes
        return ()
    pairs = zip(
        small.binding(inner[bound.name], {}).axes, large.binding(bound, {}).axes, strict=True
    )
    return tuple(
        tuple(
            tuple((f.size, g.size) for f, g in zip(part, grown, strict=True))
            for part, grown in zip(axis, other, strict=True)
        )
        for axis, other in pairs
    )


def _cornered(target: Fit, axes: Axes) -> Fit:
    assert target.content is not None
    small, large = tuple(target.content.shape), tuple(target.tensor.shape)
    factors = [factor for axis in axes for part in axis for factor in part]
    if len(small) != len(large) or any(before > after for before, after in factors):
        return refused_fit(target, misfit(target, small) or "a factor of an axis is smaller here")
    if small == large:
        return target
    told = ", ".join(
        f"axis {dim} {before} to {after}"
        for dim, (before, after) in enumerate(zip(small, large, strict=True))
        if before != after
    )
    return replace(target, status="grown", axes=axes, words=f"{told}, in the corner")
