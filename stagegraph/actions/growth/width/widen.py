"""Widen: more units for a space, in every tensor that writes or reads it.

The maps come from :mod:`~.families`; this file decides which map each space gets, what the norms
over it need, and what is to be done where one weight both writes and reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from zlib import crc32

from torch import Tensor, nn

from stagegraph.actions.growth.attributes import Attribute
from stagegraph.actions.growth.operation import Site
from stagegraph.actions.growth.width.bindings import Bounds, as_size, bind
from stagegraph.actions.growth.width.crosscheck import cross_check
from stagegraph.actions.growth.width.maps import SpaceMap
from stagegraph.actions.growth.width.resize import ResizePlan, Writing
from stagegraph.actions.growth.width.shapes import stated_sizes
from stagegraph.actions.growth.width.states import StatePolicy
from stagegraph.actions.growth.width.tensor_growth import TensorGrowth
from stagegraph.actions.growth.width.widening import (
    NormUse,
    Widening,
    compensate_norms,
    compensate_ties,
    eps_writings,
    map_of,
    norm_uses,
    tensor_growth,
)
from stagegraph.errors import UnsupportedError
from stagegraph.schema.actions import SizedGrowth, Widen

__all__ = ["Widening", "plan", "resizing", "size_after"]


def plan(site: Site, action: Widen, *, place: str) -> ResizePlan:
    """What a growth of spaces would do to this model; nothing is changed.

    Raises:
        SelectorError: A space, or something else that is named, is not there.
        UnsupportedError: It is there, but cannot grow so.
    """
    bounds = bind(site.model, site.spaces, place=place)
    sizes: dict[str, int] = {}
    for space in action.space:
        bounds.of(space)
        sizes[space] = size_after(bounds, action, space)
    policy = StatePolicy(
        action.state, action.copies, action.scales == "keep", tuple(site.optimizers)
    )
    seed = crc32(f"{place}|{sorted(sizes.items())}".encode())
    widening = Widening(place, sizes, action.how, action.noise, seed, policy)
    return resizing(site, bounds, widening)


def size_after(bounds: Bounds, action: SizedGrowth, space: str) -> int:
    """The size of a space afterwards.

    Raises:
        UnsupportedError: It would not grow, or not be whole.
    """
    try:
        return action.size_after(bounds.sizes[space])
    except ValueError as error:
        raise UnsupportedError(f"{bounds.place}: space {space!r}: {error}") from error


def resizing(site: Site, bounds: Bounds, widening: Widening) -> ResizePlan:
    """The plan of a widening.

    Raises:
        UnsupportedError: The function could not be kept; the message names what stands against it.
    """
    seen = cross_check(site, bounds, widening.sizes)
    uses = list(norm_uses(site.model, bounds, widening))
    maps: dict[str, SpaceMap] = {}
    shares: dict[str, float] = {}
    for space in widening.sizes:
        maps[space], shares[space] = map_of(space, bounds, widening, uses)
    tensors: dict[str, TensorGrowth] = {}
    biases = {f"{use.path}.{use.norm.bias}".lstrip(".") for use in uses if use.norm.sees_all}
    for bound in bounds.tensors:
        if any(bound.axes_of(space) for space in maps):
            growth = tensor_growth(site.model, bounds, bound, maps, widening)
            tensors[growth.name] = replace(growth, silent=growth.name in biases)
    compensated = compensate_norms(uses, shares, tensors)
    tied = compensate_ties(site, bounds, maps, tensors, widening.place)
    return ResizePlan(
        place=widening.place,
        tensors=tuple(tensors.values()),
        writings=_writings(site.model, bounds, tensors, widening.sizes, uses, shares),
        policy=widening.policy,
        how=f"{widening.family} {_sizes(bounds, widening)}",
        exact=True,
        evidence={
            "how": widening.family,
            "units": {s: [bounds.sizes[s], after] for s, after in widening.sizes.items()},
            "tensors": sorted(tensors),
            "norms": compensated,
            "tied": tied,
            "symmetry": _symmetry(widening),
            **seen,
        },
    )


def _sizes(bounds: Bounds, widening: Widening) -> str:
    return ", ".join(f"{s} {bounds.sizes[s]} to {after}" for s, after in widening.sizes.items())


def _symmetry(widening: Widening) -> str:
    if widening.family == "split" and not widening.noise:
        return "copies alike: they stay alike for ever unless something else makes them differ"
    if widening.family == "split":
        return f"copies read with noise of {widening.noise:g} that cancels"
    return "copies read unevenly" if widening.family == "uneven" else "new units of their own"


def _writings(
    model: nn.Module,
    bounds: Bounds,
    tensors: Mapping[str, TensorGrowth],
    grown: Mapping[str, int],
    uses: Sequence[NormUse],
    shares: Mapping[str, float],
) -> tuple[Writing, ...]:
    """The attributes that must say something else afterwards, each once."""
    found: dict[tuple[int, str], Writing] = {}

    def write(attribute: Attribute, value: Any) -> None:
        found.setdefault((id(attribute.owner), attribute.name), Writing(attribute, value))

    for attribute, part in bounds.attributes:
        size = bounds.value(part, grown)
        if as_size(attribute.value) != size:
            write(attribute, _like(attribute.value, size))
    for path, module in model.named_modules():
        for name, value in _stated(path, module, tensors).items():
            write(Attribute(f"{path}.{name}".lstrip("."), module, name), value)
    for attribute, eps in eps_writings(model, uses, shares):
        write(attribute, eps)
    for use in uses:
        if use.norm.kind == "group":
            attribute = Attribute(f"{use.path}.num_groups".lstrip("."), use.module, "num_groups")
            write(attribute, _num_groups(use, bounds, grown))
    return tuple(found.values())


def _stated(path: str, module: nn.Module, tensors: Mapping[str, TensorGrowth]) -> dict[str, Any]:
    """What a module says of its own tensors and must say afterwards."""
    now: dict[str, tuple[int, ...]] = {}
    after: dict[str, tuple[int, ...]] = {}
    own: dict[str, Tensor] = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(recurse=False)),
    }
    for name, tensor in own.items():
        growth = next((g for g in tensors.values() if g.tensor is tensor), None)
        now[name] = tuple(tensor.shape)
        after[name] = now[name] if growth is None else growth.binding.grown
    return {} if now == after else stated_sizes(module, now, after)


def _like(value: Any, size: int) -> Any:
    """A size in the form that an attribute has it in."""
    if isinstance(value, list | tuple):
        return type(value)([*value[:-1], size])
    return size


def _num_groups(use: NormUse, bounds: Bounds, grown: Mapping[str, int]) -> int:
    groups = int(use.module.num_groups)  # type: ignore[arg-type]
    per_group = bounds.sizes[use.space] // groups
    after = grown[use.space]
    if after % per_group:
        raise UnsupportedError(
            f"{bounds.place}: {use.path!r} normalises groups of {per_group} units of "
            f"{use.space!r}; {after} units are no whole number of groups: take a size that is"
        )
    return after // per_group
