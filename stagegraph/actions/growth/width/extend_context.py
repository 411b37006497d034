"""Extend a context: longer sequences than a model could read, what it says of short ones kept.

Learned positions get new rows. Masks, and the numbers of the positions, go on as they began; any
other buffer that is as long as a sequence is refused, as nobody knows how it goes on. A model with
rotary positions has no tensor to grow: there the attributes change that state the length, and,
where it is asked for, the base of the frequencies, which changes what the model computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import isclose
from typing import Any

from torch import Tensor, nn

from stagegraph.actions.growth.attributes import Attribute, named_owners
from stagegraph.actions.growth.operation import Site
from stagegraph.actions.growth.width.bindings import Bounds, BoundTensor, bind
from stagegraph.actions.growth.width.filling import Content, Fill
from stagegraph.actions.growth.width.maps import Binding, Factor
from stagegraph.actions.growth.width.patterns import base_of, over_positions, rescaled
from stagegraph.actions.growth.width.resize import ResizePlan, Writing, tensors_of
from stagegraph.actions.growth.width.states import StatePolicy
from stagegraph.actions.growth.width.tensor_growth import TensorGrowth
from stagegraph.actions.growth.width.widen import Widening, resizing, size_after
from stagegraph.errors import SelectorError, UnsupportedError
from stagegraph.schema.actions import ExtendContext

__all__ = ["plan"]

_CONTENTS: dict[str, Content] = {
    "last": "last",
    "mean": "mean",
    "interpolate": "stretch",
    "zero": "zero",
}

_FREQUENCIES = "inv_freq"
"""How the name of a buffer of rotary frequencies ends."""

_BASES = ("rope_theta", "rope_base", "rotary_emb_base", "rotary_base", "base", "theta")
"""What modules and configs call their base."""


def plan(site: Site, action: ExtendContext, *, place: str) -> ResizePlan:
    """What longer sequences would do to this model; nothing is changed.

    Raises:
        SelectorError: The space, or something else that is named, is not there.
        UnsupportedError: It is there, but cannot grow so.
    """
    bounds = bind(site.model, site.spaces, place=place)
    space = action.space
    if space not in bounds.sizes:
        bounds.of(space)  # says what is known
    before, after = bounds.sizes[space], size_after(bounds, action, space)
    widening = Widening(place, {space: after}, "zero_out", policy=StatePolicy(action.state))
    planned = resizing(site, bounds, widening)
    bound_to = {bound.name: bound for bound in bounds.tensors}
    tensors = [
        _continued(growth, bound_to[growth.name], action, bounds) for growth in planned.tensors
    ]
    rescalings = list(_rescaled(site.model, action.rope_base, place)) if action.rope_base else []
    base = _base(rescalings[0].tensor) if rescalings else None
    told = _told(site.model, base, action.rope_base or 1.0) if base else ()
    return replace(
        planned,
        tensors=(*tensors, *rescalings),
        writings=(*planned.writings, *told),
        how=f"extend_context {space}: {before} to {after}, {action.init}",
        exact=not rescalings,
        reached=False,
        remedy="; something depends on the longest length also where sequences are short",
        evidence={
            **planned.evidence,
            "how": action.init,
            "continued": {one.name: one.pattern for one in tensors if one.pattern},
            "rope": {
                "buffers": [one.name for one in rescalings],
                "base": [base, base * action.rope_base] if base and action.rope_base else None,
            },
        },
    )


def _continued(
    growth: TensorGrowth, bound: BoundTensor, action: ExtendContext, bounds: Bounds
) -> TensorGrowth:
    if isinstance(growth.tensor, nn.Parameter):
        return replace(growth, fill=Fill(out=_CONTENTS[action.init], read="zero"))
    pattern = over_positions(growth.tensor, bound.axes_of(action.space))
    if pattern is None or any(len(axis) > 1 or len(axis[0]) > 1 for axis in bound.layout):
        raise UnsupportedError(
            f"{bounds.place}: the buffer {growth.name!r}, of shape {tuple(growth.tensor.shape)}, "
            f"is in the space {action.space!r}, and is no causal mask and no numbers of positions, "
            "so that nobody knows how it goes on; let the model make it from the length in "
            "forward, or from a parameter"
        )
    return replace(growth, pattern=pattern)


def _base(buffer: Tensor) -> float | None:
    return None if buffer.is_meta else base_of(buffer)


def _rescaled(model: nn.Module, times: float, place: str) -> Iterator[TensorGrowth]:
    """The frequencies of rotary positions, with another base."""
    found = {
        id(tensor): (name, tensor)
        for name, tensor in tensors_of(model).items()
        if name.endswith(_FREQUENCIES)
    }
    if not found:
        raise SelectorError(
            f"{place}: rope_base is the base of rotary positions, and no buffer of the model is "
            f"called {_FREQUENCIES!r}; leave rope_base out, or keep the frequencies in such a "
            "buffer"
        )
    for name, tensor in found.values():
        if not tensor.is_meta and (isinstance(tensor, nn.Parameter) or base_of(tensor) is None):
            raise UnsupportedError(
                f"{place}: {name!r} does not hold base^(-2i/d) for any base (it has "
                f"{tuple(tensor.shape)}, from {float(tensor.max()):.4g} to "
                f"{float(tensor.min()):.4g}), so that its base cannot be changed; leave rope_base "
                "out"
            )
        yield TensorGrowth(
            name=name,
            tensor=tensor,
            binding=Binding(tuple(((Factor(size),),) for size in tensor.shape)),
            fill=Fill(),
            pattern=rescaled(times),
        )


def _told(model: nn.Module, base: float, times: float) -> Iterator[Writing]:
    """Attributes that state the base: numbers, or entries of a dictionary such as HF's."""
    owners: list[tuple[str, Any]] = [*model.named_modules(), *named_owners(model)]
    for path, owner in owners:
        for name, value in vars(owner).items():
            where = Attribute(f"{path}.{name}".lstrip("."), owner, name)
            if name in _BASES and _is_base(value, base):
                yield Writing(where, type(value)(value * times))
            elif isinstance(value, dict) and _is_base(value.get("rope_theta"), base):
                yield Writing(where, {**value, "rope_theta": value["rope_theta"] * times})


def _is_base(value: object, base: float) -> bool:
    return isinstance(value, int | float) and isclose(value, base, rel_tol=1e-4)
