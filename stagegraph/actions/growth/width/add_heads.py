"""Add heads to attention, in place.

Heads are units like any others, as attention treats each by itself. What is particular to them is
checked here: that they can be had without a wider stream, and that values which begin with zero are
those of the new heads alone.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from stagegraph.actions.growth.operation import Site
from stagegraph.actions.growth.width.bindings import Bounds, bind
from stagegraph.actions.growth.width.filling import Fill
from stagegraph.actions.growth.width.projections import Kinds, marked, writers
from stagegraph.actions.growth.width.resize import ResizePlan
from stagegraph.actions.growth.width.states import StatePolicy
from stagegraph.actions.growth.width.tensor_growth import TensorGrowth
from stagegraph.actions.growth.width.widen import Widening, resizing, size_after
from stagegraph.errors import UnsupportedError
from stagegraph.schema.actions import AddHeads

__all__ = ["plan", "refuse_fixed_heads"]

_REMEDY = (
    ": heads were counted otherwise than declared; where queries share keys and values, write "
    "(groups per_group head_dim) for queries and (groups head_dim) for these; name what states the "
    "number of heads under spaces: sizes:; and where a model divides its width by the number of "
    "heads, let it keep head_dim as an attribute"
)


def plan(site: Site, action: AddHeads, *, place: str) -> ResizePlan:
    """What more heads would do to this model; nothing is changed.

    Raises:
        SelectorError: The space, or something else that is named, is not there.
        UnsupportedError: It is there, but cannot grow so.
    """
    bounds = bind(site.model, site.spaces, place=place)
    space = action.space
    bounds.of(space)
    refuse_fixed_heads(site.model, bounds, space)
    before, after = bounds.sizes[space], size_after(bounds, action, space)
    family = "zero_out" if action.how == "zero_in" else action.how
    policy = StatePolicy(action.state)
    widening = Widening(place, {space: after}, family, seed=after, policy=policy)
    planned = resizing(site, bounds, widening)
    tensors = planned.tensors
    if action.how == "zero_in":
        tensors = _with_zero_values(planned, bounds, action)
    return replace(
        planned,
        tensors=tensors,
        how=f"add_heads {space}: {before} to {after}, {action.how}",
        remedy=_REMEDY,
        evidence={**planned.evidence, "how": action.how},
    )


def refuse_fixed_heads(model: nn.Module, bounds: Bounds, space: str) -> None:
    """Refuse modules whose heads are as wide together as their stream.

    Raises:
        UnsupportedError: There is one.
    """
    for bound in bounds.of(space):
        for alias in bound.aliases:
            path = alias.rpartition(".")[0].removesuffix("out_proj").rstrip(".")
            if isinstance(model.get_submodule(path), nn.MultiheadAttention):
                raise UnsupportedError(
                    f"{bounds.place}: axis {bound.axes_of(space)[0]} of {bound.name!r} is of an "
                    f"nn.MultiheadAttention, {path!r}, whose heads are together as wide as its "
                    f"stream (embed_dim = num_heads × head_dim), so that {space!r} cannot grow by "
                    "itself; widen an MLP, or take an attention with a head_dim of its own"
                )


def _with_zero_values(
    planned: ResizePlan, bounds: Bounds, action: AddHeads
) -> tuple[TensorGrowth, ...]:
    kinds = writers(bounds, action, action.space)
    if not any("v" in names for one in kinds.values() for _, names in one.values()):
        raise UnsupportedError(
            f"{bounds.place}: how: zero_in lets the values of new heads begin with zero, and "
            f"nothing that makes values is in the space {action.space!r}: new heads would read "
            "those of old ones; take how: zero_out"
        )
    return tuple(_silent(growth, kinds.get(growth.name)) for growth in planned.tensors)


def _silent(growth: TensorGrowth, kinds: Kinds | None) -> TensorGrowth:
    if kinds is None:
        return replace(growth, fill=Fill(out="random", read="random"))
    out = growth.fill.out if growth.tensor.dim() == 1 else "random"
    return replace(
        growth,
        fill=Fill(out=out, read="random"),
        mute=marked(growth.binding, kinds, ("v",)),
    )
