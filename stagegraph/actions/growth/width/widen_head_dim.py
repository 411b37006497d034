"""Widen the heads of attention, in place.

Scores are q·k/√d. New units of a query begin with zero, so that the sum does not change; those of
a key are random, so that the query's learn. As d becomes d', queries are multiplied by √(d'/d),
unless the model divides by a number that has nothing to do with d. New values are random, and read
with zero. (2308.06103 scales keys; with queries the gradient of what is new is the same.)

Rotary positions turn pairs of units by angles of their own. Where the size is multiplied by a whole
number k, the i-th pair becomes the k·i-th, whose frequency is the same: base^(-2ki/(kd)); the grown
model is then one that its class would make. Else the old frequencies stay, and new ones follow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import isclose, sqrt
from typing import Any

import torch
from torch import nn

from stagegraph.actions.growth.attributes import Attribute
from stagegraph.actions.growth.operation import Site
from stagegraph.actions.growth.width.add_heads import refuse_fixed_heads
from stagegraph.actions.growth.width.bindings import Bounds, BoundTensor, bind
from stagegraph.actions.growth.width.families import space_map
from stagegraph.actions.growth.width.maps import Binding, Factor, Part, SpaceMap
from stagegraph.actions.growth.width.norms import norm_of
from stagegraph.actions.growth.width.patterns import FREQUENCIES, MORE_FREQUENCIES, base_of
from stagegraph.actions.growth.width.projections import Kind, Kinds, marked, writers
from stagegraph.actions.growth.width.resize import ResizePlan, Writing
from stagegraph.actions.growth.width.states import StatePolicy
from stagegraph.actions.growth.width.tensor_growth import TensorGrowth
from stagegraph.actions.growth.width.widen import Widening, resizing, size_after
from stagegraph.errors import UnsupportedError
from stagegraph.schema.actions import WidenHeadDim

__all__ = ["plan"]

_SCALE = re.compile(r"scal|norm_factor|temperature")
"""What attributes are called that scores are multiplied with or divided by."""

_REMEDY = (
    ": scores are scaled otherwise than it seemed (say scale: fixed, or scale: by_size where they "
    "are scaled by 1/√d), or rotary positions turn other pairs than declared: write (heads 2 half) "
    "where they turn the first half against the second, (heads half 2) where they turn neighbours, "
    "and let space be half"
)


def plan(site: Site, action: WidenHeadDim, *, place: str) -> ResizePlan:
    """What wider heads would do to this model; nothing is changed.

    Raises:
        SelectorError: The space, or something else that is named, is not there.
        UnsupportedError: It is there, but cannot grow so.
    """
    bounds = bind(site.model, site.spaces, place=place)
    space = action.space
    bounds.of(space)
    refuse_fixed_heads(site.model, bounds, space)
    _refuse_norms(site.model, bounds, space)
    before, after = bounds.sizes[space], size_after(bounds, action, space)
    buffers = {b.name: b for b in bounds.of(space) if not isinstance(b.tensor, nn.Parameter)}
    parameters = _without(bounds, buffers)
    kinds = writers(parameters, action, space)
    times, scales = _scales(site.model, parameters, kinds, action, after)
    patterns = _patterns(buffers, before, after, place)
    interleaved = bool(patterns) and set(patterns.values()) == {FREQUENCIES}
    widening = Widening(place, {space: after}, "zero_out", policy=StatePolicy(action.state))
    planned = resizing(site, bounds, widening)
    tensors = tuple(
        _grown(
            growth,
            kinds.get(growth.name, {}),
            times=times.get(growth.name, 1.0),
            pattern=patterns.get(growth.name),
            interleaved=interleaved,
        )
        for growth in planned.tensors
    )
    return replace(
        planned,
        tensors=tensors,
        writings=(*planned.writings, *scales),
        how=f"widen_head_dim {space}: {before} to {after}",
        remedy=_REMEDY,
        evidence={
            **planned.evidence,
            "queries_times": {name: factor for name, factor in times.items() if factor != 1.0},
            "scales": [one.attribute.path for one in scales],
            "frequencies": patterns,
            "citizen": not patterns or interleaved,
        },
    )


def _without(bounds: Bounds, buffers: Mapping[str, BoundTensor]) -> Bounds:
    return replace(bounds, tensors=tuple(b for b in bounds.tensors if b.name not in buffers))


def _refuse_norms(model: nn.Module, bounds: Bounds, space: str) -> None:
    found = [
        bound.name
        for bound in bounds.of(space)
        for norm in [norm_of(model.get_submodule(bound.name.rpartition(".")[0]))]
        if norm is not None and norm.sees_all
    ]
    if found:
        raise UnsupportedError(
            f"{bounds.place}: {', '.join(map(repr, found))}: a norm over {space!r} looks at all "
            "units of a head at once. New units of queries and of keys would both have to begin "
            "with zero, and would stay so for ever; add heads instead (add_heads)"
        )


def _scales(
    model: nn.Module,
    bounds: Bounds,
    kinds: Mapping[str, Kinds],
    action: WidenHeadDim,
    after: int,
) -> tuple[dict[str, float], list[Writing]]:
    """What each tensor of queries is multiplied by, and the attributes that hold 1/√d or √d."""
    before = bounds.sizes[action.space]
    ratio = after / before
    times: dict[str, float] = {}
    found: dict[tuple[int, str], Writing] = {}
    for name, one in kinds.items():
        if not any("q" in names for _, names in one.values()):
            continue
        scales = [] if action.scale == "fixed" else list(_scales_above(model, name))
        writings = [
            Writing(scale, scale.value * power)
            for scale in scales
            for power in _powers(scale.value, before, ratio)
        ]
        # a scale that is another number than 1/√d stays what it is when d grows
        other = bool(scales) and not writings and action.scale == "auto"
        times[name] = 1.0 if other or action.scale == "fixed" else sqrt(ratio)
        found |= {(id(w.attribute.owner), w.attribute.name): w for w in writings}
    return times, list(found.values())


def _scales_above(model: nn.Module, name: str) -> Iterator[Attribute]:
    """The scales of the module that has a parameter, and of the one that has that."""
    path = name
    for _ in range(2):
        if not path:
            return
        path = path.rpartition(".")[0]
        module = model.get_submodule(path)
        for key, value in vars(module).items():
            if _SCALE.search(key) and isinstance(value, float):
                yield Attribute(f"{path}.{key}".lstrip("."), module, key)


def _powers(value: Any, before: int, ratio: float) -> list[float]:
    for size in (before, 2 * before):
        for power in (-0.5, 0.5):
            if isclose(value, size**power, rel_tol=1e-6):
                return [ratio**power]
    return []


def _patterns(
    buffers: Mapping[str, BoundTensor], before: int, after: int, place: str
) -> dict[str, str]:
    """How the frequencies of rotary positions go on.

    Raises:
        UnsupportedError: A buffer of the space holds something else.
    """
    multiple = after % before == 0
    for name, bound in buffers.items():
        buffer = bound.tensor
        if buffer.is_meta:
            continue
        falls = buffer.dim() == 1 and buffer.is_floating_point()
        if not falls or bool((buffer <= 0).any() or (buffer.diff() > 0).any()):
            raise UnsupportedError(
                f"{place}: the buffer {name!r}, of shape {tuple(buffer.shape)}, is in the space of "
                "a head's units, and holds no frequencies of rotary positions, so that nobody "
                "knows how it goes on; let the model make it in forward, from a buffer of "
                "frequencies base^(-2i/d)"
            )
        multiple = multiple and base_of(buffer) is not None
    return dict.fromkeys(buffers, FREQUENCIES if multiple else MORE_FREQUENCIES)


def _grown(
    growth: TensorGrowth,
    kinds: Kinds,
    *,
    times: float,
    pattern: str | None,
    interleaved: bool,
) -> TensorGrowth:
    """The growth of a tensor with its queries multiplied, and silent where they are new."""
    axes: list[tuple[Part, ...]] = []
    shifted: dict[tuple[int, int], tuple[int | None, tuple[Kind, ...]]] = {}
    for dim, axis in enumerate(growth.binding.axes):
        parts: list[Part] = []
        for at, part in enumerate(axis):
            place, names = kinds.get((dim, at), (None, ()))
            factors = _scaled(part, place, names, times)
            if interleaved:
                place = _moved(part, place)
                factors = tuple(one for factor in factors for one in _between(factor))
            parts.append(factors)
            if names:
                shifted[dim, at] = (place, names)
        axes.append(tuple(parts))
    binding = Binding(tuple(axes))
    mute = marked(binding, shifted, ("q",)) if shifted else None
    return replace(growth, binding=binding, mute=mute, pattern=pattern)


def _scaled(part: Part, place: int | None, names: tuple[Kind, ...], times: float) -> Part:
    """A part with its queries multiplied: by the map of the factor that tells them apart."""
    if "q" not in names or times == 1.0:
        return part
    if place is None:  # all are queries: the map of the units multiplies them
        place = next(at for at, factor in enumerate(part) if factor.map is not None)
        grown = part[place].map
        assert grown is not None
        by = torch.ones(grown.after, dtype=torch.float64)
        by[grown.source >= 0] = times
        space = replace(grown, write=grown.write * by, read=grown.read / by)
    else:
        by = torch.tensor([times if name == "q" else 1.0 for name in names], dtype=torch.float64)
        space = SpaceMap(len(names), torch.arange(len(names)), by, 1 / by)
    return (*part[:place], replace(part[place], map=space), *part[place + 1 :])


def _between(factor: Factor) -> tuple[Factor, ...]:
    """A factor whose new units are spread evenly: each old one is followed by new ones."""
    grown = factor.map
    if grown is None or grown.after == grown.before:
        return (factor,)
    before, num = grown.before, grown.after // grown.before
    stays = SpaceMap(before, torch.arange(before), grown.write[:before], grown.read[:before])
    changes = bool((stays.write != 1).any())
    return (
        replace(factor, map=stays if changes else None),
        Factor(1, space_map("zero_out", 1, num), factor.role),
    )


def _moved(part: Part, place: int | None) -> int | None:
    """Where a factor is once the factors before it are taken apart."""
    if place is None:
        return None
    grown = [factor.map for factor in part[:place]]
    return place + sum(one is not None and one.after != one.before for one in grown)
