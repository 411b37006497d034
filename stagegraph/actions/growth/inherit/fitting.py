"""Fitting: what becomes of each tensor of a model that inherits from a smaller one.

Every tensor of the model gets a :class:`Fit`: it is copied, grown by the maps of its spaces, left
as it is, or refused with the axis that stands against it. Nothing is made and nothing is changed
here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal
from zlib import crc32

import torch
from torch import Tensor, nn

from stagegraph.actions.changes import Axes
from stagegraph.actions.growth.attributes import Attribute, find_attributes
from stagegraph.actions.growth.inherit.pairing import Pairing, renamed
from stagegraph.actions.growth.inherit.weights import Weights
from stagegraph.actions.growth.operation import Site
from stagegraph.actions.growth.width.bindings import Bounds, BoundTensor, bind, solve_sizes
from stagegraph.actions.growth.width.maps import SpaceMap
from stagegraph.actions.growth.width.norms import norm_of
from stagegraph.actions.growth.width.resize import Writing, tensors_of
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
from stagegraph.actions.parameters import shown_name
from stagegraph.errors import SelectorError, UnsupportedError, did_you_mean
from stagegraph.schema.actions import Inherit
from stagegraph.schema.spaces import AxisPart

__all__ = ["Fit", "Fitting", "Status", "fit"]

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


@dataclass(frozen=True, slots=True)
class Fitting:
    """What becomes of a model.

    Attributes:
        fits: Every parameter and buffer that a state dict has.
        unused: The names in the weights that nothing here takes.
        units: Per space that is larger here, its size in the weights and here.
        blocks: Per stack that has more blocks here, their number in the weights and here.
        writings: The attributes that must say something else: the eps of norms over more units.
        norms: The norms whose gain makes up for more units.
        tied: The norms that make up for a weight which writes a space and reads it.
        exact: Whether the model is to compute what the smaller one did.
    """

    fits: tuple[Fit, ...]
    unused: tuple[str, ...]
    units: Mapping[str, tuple[int, int]]
    blocks: Mapping[str, tuple[int, int]]
    writings: tuple[Writing, ...]
    norms: tuple[str, ...]
    tied: tuple[str, ...]
    exact: bool

    @property
    def refused(self) -> list[Fit]:
        """What cannot be taken."""
        return [one for one in self.fits if one.status == "refused"]

    def extras(self) -> list[str]:
        """The additional blocks that are to become the identity."""
        return list(dict.fromkeys(f.extra for f in self.fits if f.extra is not None and f.taken))


def fit(site: Site, weights: Weights, action: Inherit, *, place: str) -> Fitting:
    """What becomes of each tensor of a model.

    Raises:
        SelectorError: A pattern matches nothing.
        UnsupportedError: The spaces do not fit, or the function could not be kept so.
    """
    old_names = renamed(list(weights.tensors), action.rename, place=place)
    small = {new: weights.tensors[old] for new, old in old_names.items()}
    targets = _targets(site.model)
    _check_leave(action.leave, targets, place)
    names = [shown_name(n) for t in targets for n in t.names if not _is_left(t, action.leave)]
    pairing = Pairing.of(small, names, action.stacks)
    paired = [_paired(target, small, pairing, action.leave) for target in targets]
    if action.how == "corner":
        fitted = _Spread()
        fits = _in_corners(site, paired, weights, action, place)
    else:
        fitted, fits = _by_spaces(site, paired, weights, action, place)
    used = {
        pairing.origin(shown_name(n)).name for f in fits if f.content is not None for n in f.names
    }
    unused = tuple(old for new, old in old_names.items() if new not in used) + weights.others
    mapped = all(one.taken for one in fits) and not unused
    return Fitting(
        fits=tuple(replace(f, origin=old_names.get(f.origin or "", f.origin)) for f in fits),
        unused=unused,
        units=fitted.units,
        blocks=dict(pairing.stretched),
        writings=fitted.writings,
        norms=fitted.norms,
        tied=fitted.tied,
        exact=mapped
        and action.how != "corner"
        and (action.stacks == "identity" or not pairing.stretched),
    )


# Which tensor comes from where


def _targets(model: nn.Module) -> list[Fit]:
    """Every tensor that a state dict has, once, under all its names."""
    there = tensors_of(model)
    found: dict[int, tuple[Tensor, list[str]]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        own = there.get(name)
        if own is not None and own is tensor:
            found.setdefault(id(own), (own, []))[1].append(name)
    return [Fit(tuple(names), tensor, "left") for tensor, names in found.values()]


def _is_left(target: Fit, leave: Sequence[str]) -> bool:
    return any(fnmatchcase(shown_name(name), glob) for name in target.names for glob in leave)


def _check_leave(leave: Sequence[str], targets: Sequence[Fit], place: str) -> None:
    names = [shown_name(name) for target in targets for name in target.names]
    for glob in leave:
        if not any(fnmatchcase(name, glob) for name in names):
            raise SelectorError(
                f"{place}: leave {glob!r} matches no parameter or buffer{did_you_mean(glob, names)}"
            )


def _paired(
    target: Fit, small: Mapping[str, Tensor], pairing: Pairing, leave: Sequence[str]
) -> Fit:
    """A tensor with what it comes from; it is copied for now."""
    if _is_left(target, leave):
        return replace(target, words="left alone, as asked")
    origins = [pairing.origin(shown_name(name)) for name in target.names]
    problem = next((o.problem for o in origins if o.problem is not None), None)
    if problem is not None:
        return replace(target, status="refused", words=problem)
    found = [origin for origin in origins if origin.name in small]
    if not found:
        missing = "an additional block" if origins[0].name == "" else "not in the weights"
        return replace(target, words=missing, extra=origins[0].extra)
    first = found[0]
    taken = replace(
        target, status="copied", origin=first.name, content=small[first.name], extra=first.extra
    )
    if any(not _same(small[first.name], small[other.name]) for other in found[1:]):
        return _refused(
            taken,
            f"{' and '.join(target.names)} are one tensor here and differ in the weights: untie "
            "them here",
        )
    return taken


def _same(one: Tensor, other: Tensor) -> bool:
    if one is other or one.is_meta or other.is_meta:  # without memory only the cost is asked for
        return True
    return one.shape == other.shape and torch.equal(one, other)


def _refused(target: Fit, why: str) -> Fit:
    return replace(target, status="refused", words=why, growth=None, axes=None)


def _misfit(target: Fit, shape: Sequence[int]) -> str | None:
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


# By spaces


@dataclass(frozen=True, slots=True)
class _Spread:
    """What the spaces come to."""

    units: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    writings: tuple[Writing, ...] = ()
    norms: tuple[str, ...] = ()
    tied: tuple[str, ...] = ()
    growths: tuple[TensorGrowth, ...] = ()


def _by_spaces(
    site: Site, paired: Sequence[Fit], weights: Weights, action: Inherit, place: str
) -> tuple[_Spread, list[Fit]]:
    large = bind(site.model, site.spaces, place=place)
    small = _small_bounds(large, paired, weights, action, place)
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
                _refused(
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
    why = _misfit(target, shape)
    if why is not None:
        return _refused(target, why)
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


def _small_bounds(
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


def _spread(
    site: Site,
    large: Bounds,
    small: Bounds,
    units: Mapping[str, tuple[int, int]],
    weights: Weights,
    action: Inherit,
    place: str,
) -> _Spread:
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
    return _Spread(
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


# Into corners


def _in_corners(
    site: Site, paired: Sequence[Fit], weights: Weights, action: Inherit, place: str
) -> list[Fit]:
    """Each content at the beginning of every axis, or of every factor that a layout tells of."""
    large = bind(site.model, site.spaces, place=place)
    small = _small_bounds(large, paired, weights, action, place)
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
        return _refused(target, _misfit(target, small) or "a factor of an axis is smaller here")
    if small == large:
        return target
    told = ", ".join(
        f"axis {dim} {before} to {after}"
        for dim, (before, after) in enumerate(zip(small, large, strict=True))
        if before != after
    )
    return replace(target, status="grown", axes=axes, words=f"{told}, in the corner")
