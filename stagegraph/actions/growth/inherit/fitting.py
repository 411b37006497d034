"""Fitting: what becomes of each tensor of a model that inherits from a smaller one.

Every tensor of the model gets a :class:`Fit`: it is copied, grown by the maps of its spaces, left
as it is, or refused with the axis that stands against it. Nothing is made and nothing is changed
here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from stagegraph.actions.growth.inherit.by_spaces import Spread, by_spaces
from stagegraph.actions.growth.inherit.corners import in_corners
from stagegraph.actions.growth.inherit.fits import Fit, refused_fit
from stagegraph.actions.growth.inherit.pairing import Pairing, renamed
from stagegraph.actions.growth.inherit.weights import Weights
from stagegraph.actions.growth.operation import Site
from stagegraph.actions.growth.width.resize import Writing, tensors_of
from stagegraph.actions.parameters import shown_name
from stagegraph.errors import SelectorError, did_you_mean
from stagegraph.schema.actions import Inherit

__all__ = ["Fitting", "fit"]


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
        fitted = Spread()
        fits = in_corners(site, paired, weights, action, place)
    else:
        fitted, fits = by_spaces(site, paired, weights, action, place)
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
        return refused_fit(
            taken,
            f"{' and '.join(target.names)} are one tensor here and differ in the weights: untie "
            "them here",
        )
    return taken


def _same(one: Tensor, other: Tensor) -> bool:
    if one is other or one.is_meta or other.is_meta:  # without memory only the cost is asked for
        return True
    return one.shape == other.shape and torch.equal(one, other)
