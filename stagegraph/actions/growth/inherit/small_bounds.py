"""Small bounds: what a declaration of spaces comes to in the smaller model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stagegraph.actions.growth.attributes import Attribute, find_attributes
from stagegraph.actions.growth.inherit.fits import Fit
from stagegraph.actions.growth.inherit.weights import Weights
from stagegraph.actions.growth.width.bindings import Bounds, BoundTensor, solve_sizes
from stagegraph.errors import SelectorError, UnsupportedError, did_you_mean
from stagegraph.schema.actions import Inherit
from stagegraph.schema.spaces import AxisPart

__all__ = ["small_bounds"]


def small_bounds(
    large: Bounds, paired: Sequence[Fit], weights: Weights, action: Inherit, place: str
) -> Bounds:
    """The same declaration with the tensors and sizes of the smaller model."""
    contents = {id(t.tensor): t.content for t in paired if t.content is not None}
    tensors: list[BoundTensor] = []
    for bound in large.tensors:
        content = contents.get(id(bound.tensor))
        if content is not None and content.dim() == bound.tensor.dim():
            tensors.append(replace(bound, tensor=content))
    where = f"{place}: in the weights"
    unknown = [space for space in action.sizes if space not in large.sizes]
    if unknown:
        near = did_you_mean(unknown[0], list(large.sizes))
        raise SelectorError(f"{place}: sizes: no layout names a space {unknown[0]!r}{near}")
    sizes = solve_sizes(
        tensors, _small_attributes(large, weights), place=where, known=dict(action.sizes)
    )
    return Bounds(where, tuple(tensors), (), _completed(sizes, large, tensors, place))


def _small_attributes(large: Bounds, weights: Weights) -> list[tuple[Attribute, AxisPart]]:
    """What the smaller model itself states of its sizes, where it was given."""
    if weights.model is None:
        return []
    found: list[tuple[Attribute, AxisPart]] = []
    for attribute, part in large.attributes:
        try:
            own = find_attributes(weights.model, attribute.path, place=large.place)
        except SelectorError:
            continue  # a block that only the larger one has, or another name for it
        found += [(one, part) for one in own]
    return found


def _completed(
    sizes: dict[str, int], large: Bounds, tensors: Sequence[BoundTensor], place: str
) -> dict[str, int]:
    """All sizes; one that does not follow is as here where all its tensors have the same shape."""
    here = {bound.name: tuple(bound.tensor.shape) for bound in large.tensors}
    missing: list[str] = []
    for space in large.sizes:
        if space in sizes:
            continue
        own = [bound for bound in tensors if bound.axes_of(space)]
        if all(tuple(bound.tensor.shape) == here[bound.name] for bound in own):
            sizes[space] = large.sizes[space]
        else:
            missing.append(space)
    if missing:
        raise UnsupportedError(
            f"{place}: the size that {', '.join(map(repr, missing))} has in the smaller model does "
            "not follow from its tensors; give sizes: "
            f"{{{missing[0]}: ...}}, or the model itself instead of its weights"
        )
    return sizes
