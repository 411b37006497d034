"""By spaces: tensors that grow by the maps of the spaces that are larger here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from zlib import crc32

from stagegraph.actions.growth.inherit.fits import Fit, misfit, refused_fit
from stagegraph.actions.growth.inherit.small_bounds import small_bounds
from stagegraph.actions.growth.inherit.weights import Weights
from stagegraph.actions.growth.operation import Site
from stagegraph.actions.growth.width.bindings import Bounds, BoundTensor, bind
from stagegraph.actions.growth.width.maps import SpaceMap
from stagegraph.actions.growth.width.norms import norm_of
from stagegraph.actions.growth.width.resize import Writing
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
from stagegraph.schema.actions import Inherit

__all__ = ["Spread", "by_spaces"]


@dataclass(frozen=True, slots=True)
class Spread:
    """What the spaces come to."""

    units: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    writings: tuple[Writing, ...] = ()
    norms: tuple[str, ...] = ()
    tied: tuple[str, ...] = ()
    growths: tuple[TensorGrowth, ...] = ()


def by_spaces(
    site: Site, paired: Sequence[Fit], weights: Weights, action: Inherit, place: str
) -> tuple[Spread, list[Fit]]:
    """What becomes of each tensor by the spaces it lies in, and what the spaces come to."""
    large = bind(site.model, site.spaces, place=place)
    small = small_bounds(large, paired, weights, action, place)
    sizes = {s: (small.sizes[s], large.sizes[s]) for s in small.sizes if s in large.sizes}
    cut = {s: size for s, size in sizes.items() if size[0] > size[1]}
    units = {s: size for s, size in sizes.items() if size[0] < size[1]}
    spread = _spread(site, large, small, units, weights, action, place)
    growths = {id(b.tensor): g for b, g in _joined(large, spread.growths)}
    spaces = {id(bound.tensor): bound for bound in large.tensors}
    fits: list[Fit] = []
    for target in paired:
        bound = spaces.get(id(target.tensor))
        over = [] if bound is None else [s for s in cut if bound.axes_of(s)]
        if target.status != "copied":
            fits.append(target)
        elif over:
            told = ", ".join(f"{s!r} has {cut[s][0]} units and {cut[s][1]} here" for s in over)
            fits.append(
                refused_fit(
                    target, f"space {told}: nothing is cut off; take a model at least as large"
                )
            )
        else:
            fits.append(_fitted(target, growths.get(id(target.tensor)), bound, units))
    return spread, fits


def _joined(
    large: Bounds, growths: Sequence[TensorGrowth]
) -> Iterator[tuple[BoundTensor, TensorGrowth]]:
    by_name = {bound.name: bound for bound in large.tensors}
    for growth in growths:
        yield by_name[growth.name], growth


def _fitted(
    target: Fit,
    growth: TensorGrowth | None,
    bound: BoundTensor | None,
    units: Mapping[str, tuple[int, int]],
) -> Fit:
    assert target.content is not None
    shape = tuple(target.content.shape) if growth is None else growth.binding.grown
    why = misfit(target, shape)
    if why is not None:
        return refused_fit(target, why)
    if growth is None or bound is None:
        return target
    return replace(target, status="grown", growth=growth, words=_words(bound, growth, units))


def _words(bound: BoundTensor, growth: TensorGrowth, units: Mapping[str, tuple[int, int]]) -> str:
    """How a tensor grows, for people."""
    told = [
        f"axis {dim} {space} {before} to {after}"
        for space, (before, after) in units.items()
        for dim in bound.axes_of(space)
    ]
    factor = "" if growth.factor == 1.0 else f", times {growth.factor:.6g}"
    return ", ".join(sorted(told)) + factor


def _spread(
    site: Site,
    large: Bounds,
    small: Bounds,
    units: Mapping[str, tuple[int, int]],
    weights: Weights,
    action: Inherit,
    place: str,
) -> Spread:
    """The maps of all spaces that are larger here, and what they need."""
    assert action.how != "corner"
    after = {space: size[1] for space, size in units.items()}
    seed = crc32(f"{place}|{sorted(units.items())}".encode())
    widening = Widening(place, after, action.how, seed=seed)
    uses = list(norm_uses(site.model, large, widening))
    maps: dict[str, SpaceMap] = {}
    shares: dict[str, float] = {}
    for space in units:
        maps[space], shares[space] = map_of(space, small, widening, uses)
    silent = {f"{use.path}.{use.norm.bias}".lstrip(".") for use in uses if use.norm.sees_all}
    tensors: dict[str, TensorGrowth] = {}
    for bound in small.tensors:
        if any(bound.axes_of(space) for space in maps):
            growth = tensor_growth(site.model, small, bound, maps, widening)
            tensors[growth.name] = replace(growth, silent=growth.name in silent)
    compensated = compensate_norms(
        [use for use in uses if f"{use.path}.{use.norm.gain}".lstrip(".") in tensors],
        shares,
        tensors,
    )
    _refuse_unseen_ties(site, small, maps, place)
    tied = compensate_ties(site, small, maps, tensors, place)
    return Spread(
        units=units,
        writings=tuple(
            Writing(attribute, value)
            for attribute, value in eps_writings(site.model, uses, shares, _eps(uses, weights))
        ),
        norms=tuple(compensated),
        tied=tuple(tied),
        growths=tuple(tensors.values()),
    )


def _eps(uses: Sequence[NormUse], weights: Weights) -> dict[str, float]:
    """The eps of the smaller model's norms by their path, where the model was given."""
    if weights.model is None:
        return {}
    modules = dict(weights.model.named_modules())
    found: dict[str, float] = {}
    for use in uses:
        norm = norm_of(modules[use.path]) if use.path in modules else None
        if norm is not None and norm.eps is not None:
            found[use.path] = float(getattr(modules[use.path], norm.eps))
    return found


def _refuse_unseen_ties(
    site: Site, small: Bounds, maps: Mapping[str, SpaceMap], place: str
) -> None:
    """Without a probe nobody sees which norm feeds the reader of a tied weight."""
    if site.probe is not None or any(p.is_meta for p in site.model.parameters()):
        return  # without memory only the cost is asked for
    for bound in small.tensors:
        for space, grown in maps.items():
            tied = bound.roles(space) == {"out", "in"} and len(bound.aliases) > 1
            if tied and {int(count) for count in grown.copies} != {1}:
                raise UnsupportedError(
                    f"{place}: {' and '.join(bound.aliases)} are one weight, which writes "
                    f"{space!r} and reads it; which norm makes up for its copies is seen on a "
                    "batch: give probe=, or take how: zero_in"
                )
