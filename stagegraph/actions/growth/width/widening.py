"""Width: which map each space gets, and what the norms over it and tied weights need for it.

Whatever makes spaces larger (:mod:`~.widen`, :mod:`~.inherit`) asks here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from stagegraph.actions.growth.attributes import Attribute, named_owners
from stagegraph.actions.growth.operation import Site
from stagegraph.actions.growth.width.bindings import Bounds, BoundTensor
from stagegraph.actions.growth.width.families import Family, normalised, space_map
from stagegraph.actions.growth.width.feeding import feeding_norm
from stagegraph.actions.growth.width.filling import Content, Fill
from stagegraph.actions.growth.width.maps import SpaceMap
from stagegraph.actions.growth.width.norms import EPS, Norm, norm_of
from stagegraph.actions.growth.width.states import StatePolicy
from stagegraph.actions.growth.width.tensor_growth import TensorGrowth
from stagegraph.errors import UnsupportedError

__all__ = [
    "NormUse",
    "Widening",
    "compensate_norms",
    "compensate_ties",
    "eps_writings",
    "map_of",
    "norm_uses",
    "tensor_growth",
]

_WRITTEN: Mapping[Family, Content] = {"zero_out": "random", "pair": "pair"}
_READ: Mapping[Family, Content] = {"zero_in": "random", "pair": "pair"}
"""What new units hold where a tensor writes them, and where it reads them; else zero."""


@dataclass(frozen=True, slots=True)
class Widening:
    """What is to become larger, and how; what all operations in width come down to.

    Attributes:
        place: Where it is written, for messages.
        sizes: Per space its size afterwards.
        family: Where the new units come from.
        noise: How much copies are made to differ where they are read.
        seed: For an uneven split.
        policy: What the optimizer's state of what is new is.
    """

    place: str
    sizes: Mapping[str, int]
    family: Family
    noise: float = 0.0
    seed: int = 0
    policy: StatePolicy = field(default_factory=StatePolicy)


@dataclass(frozen=True, slots=True)
class NormUse:
    """A norm of the model that works on a space that grows."""

    path: str
    module: nn.Module
    norm: Norm
    space: str


def norm_uses(model: nn.Module, bounds: Bounds, widening: Widening) -> Iterator[NormUse]:
    """The norms that work on a space that grows."""
    bound_to: dict[int, str] = {}
    for space in widening.sizes:
        bound_to |= {id(b.tensor): space for b in bounds.tensors if b.axes_of(space)}
        for attribute, part in bounds.attributes:
            if attribute.name == "normalized_shape" and any(f.space == space for f in part):
                bound_to[id(attribute.owner)] = space
    for path, module in model.named_modules():
        own = [*module._parameters.values(), *module._buffers.values(), module]
        spaces = [bound_to[id(one)] for one in own if id(one) in bound_to]
        norm = norm_of(module) if spaces else None
        if norm is not None:
            yield NormUse(path, module, norm, spaces[0])


def map_of(
    space: str, bounds: Bounds, widening: Widening, uses: Sequence[NormUse]
) -> tuple[SpaceMap, float]:
    """The map of one space, and the share of the grown units that the old mean square is over."""
    before, after = bounds.sizes[space], widening.sizes[space]
    over = [use for use in uses if use.space == space and use.norm.sees_all]
    kinds = {use.norm.kind for use in over}
    try:
        if not over:
            return space_map(widening.family, before, after, seed=widening.seed), 1.0
        found = normalised(widening.family, before, after, subtracts_mean="layer" in kinds)
    except ValueError as error:
        norms = f" (norms over it: {', '.join(use.path for use in over)})" if over else ""
        raise UnsupportedError(f"{widening.place}: space {space!r}: {error}{norms}") from error
    if found[1] != 1.0 and len(kinds) > 1:
        raise UnsupportedError(
            f"{widening.place}: space {space!r} has norms that subtract its mean and norms that do "
            f"not ({', '.join(use.path for use in over)}); only whole multiples of {before} keep "
            "the function"
        )
    return found


def tensor_growth(
    model: nn.Module,
    bounds: Bounds,
    bound: BoundTensor,
    maps: Mapping[str, SpaceMap],
    widening: Widening,
) -> TensorGrowth:
    """How one tensor grows by these maps.

    Args:
        model: The model that it is for.
        bounds: What is bound to spaces, with the sizes before.
        bound: The tensor.
        maps: The maps of the spaces that grow.
        widening: What fresh units hold.
    """
    roles = {role for space in maps for role in bound.roles(space)}
    tied = roles == {"out", "in"} and len(bound.aliases) > 1
    return TensorGrowth(
        name=bound.name,
        tensor=bound.tensor,
        binding=bounds.binding(bound, maps, role="out" if tied else None),
        fill=Fill(
            out=_fresh_content(model, bound, widening.family),
            read=_READ.get(widening.family, "zero"),
        ),
        noise=widening.noise,
    )


def _fresh_content(model: nn.Module, bound: BoundTensor, family: Family) -> Content:
    """What a tensor that writes a space holds for new units."""
    owner, _, own_name = bound.name.rpartition(".")
    module = model.get_submodule(owner)
    vector = bound.tensor.dim() == 1
    norm = norm_of(module) if vector else None
    if own_name == "running_var" or (norm is not None and own_name == norm.gain):
        return "mean"
    if vector and (family == "zero_in" or own_name in ("bias", "running_mean")):
        return "zero"
    if vector:
        return "mean"
    return _WRITTEN.get(family, "zero")


def compensate_norms(
    uses: Sequence[NormUse], shares: Mapping[str, float], tensors: dict[str, TensorGrowth]
) -> list[str]:
    """Give norms over more units the gain that makes up for it."""
    done: list[str] = []
    for use in uses:
        share = shares[use.space]
        if not use.norm.sees_all or share == 1.0 or use.norm.gain is None:
            continue
        _scale(tensors, f"{use.path}.{use.norm.gain}".lstrip("."), share**0.5, use.norm.offset)
        done.append(use.path)
    return done


def _scale(tensors: dict[str, TensorGrowth], name: str, factor: float, offset: float = 0.0) -> None:
    growth = tensors[name]
    tensors[name] = replace(growth, factor=growth.factor * factor, offset=offset)


def compensate_ties(
    site: Site,
    bounds: Bounds,
    maps: Mapping[str, SpaceMap],
    tensors: dict[str, TensorGrowth],
    place: str,
) -> list[str]:
    """Where a weight that was grown as a writer is a reader too, divide what it is fed with."""
    done: list[str] = []
    if site.probe is None:  # only the cost is asked for: nothing is made from this plan
        return done
    for bound in bounds.tensors:
        for space, grown in maps.items():
            if bound.roles(space) != {"out", "in"} or len(bound.aliases) == 1:
                continue
            times = {int(count) for count in grown.copies}
            if times == {1}:
                continue
            reader = _reader(bound, space)
            found = feeding_norm(site.model, site.probe, reader)
            if found is None or f"{found}.weight" not in tensors:
                raise UnsupportedError(
                    f"{place}: {' and '.join(bound.aliases)} are one weight, which writes "
                    f"{space!r} and reads it: each unit would be counted {max(times)} times, and "
                    f"no norm was found right before {reader!r} whose gain could make up for it; "
                    "take how: zero_in, or untie them"
                )
            norm = norm_of(site.model.get_submodule(found))
            assert norm is not None
            for name in (norm.gain, norm.bias):
                if name is not None:
                    offset = norm.offset if name == norm.gain else 0.0
                    _scale(tensors, f"{found}.{name}", 1 / next(iter(times)), offset)
            done.append(found)
    return done


def _reader(bound: BoundTensor, space: str) -> str:
    """The module under whose name a tied weight reads a space."""
    for alias, layout in zip(bound.aliases, bound.layouts, strict=True):
        if any(f.space == space and f.role == "in" for axis in layout for p in axis for f in p):
            return alias.rpartition(".")[0]
    raise AssertionError(f"{bound.aliases} reads no {space}")


def eps_writings(
    model: nn.Module,
    uses: Sequence[NormUse],
    shares: Mapping[str, float],
    before: Mapping[str, float] | None = None,
) -> Iterator[tuple[Attribute, float]]:
    """The attributes that state the eps of norms over more units, and what they must say.

    Args:
        model: The model.
        uses: The norms.
        shares: Per space, which share of the grown units the mean of squares is spread over.
        before: Per norm, by path, the eps that it had, where the model does not say it.
    """
    for use in uses:
        eps, share = use.norm.eps, shares[use.space]
        if use.norm.sees_all and share != 1.0 and eps is not None:
            attribute = Attribute(f"{use.path}.{eps}".lstrip("."), use.module, eps)
            value = (before or {}).get(use.path, attribute.value) * share
            yield attribute, value
            for told in _config_eps(model, attribute.value, uses):
                yield told, value


def _config_eps(model: nn.Module, eps: float, uses: Sequence[NormUse]) -> Iterator[Attribute]:
    """The attributes of configs that state the eps of these norms, if of no other."""
    ours = {id(use.module) for use in uses}
    others = [m for m in model.modules() if id(m) not in ours and norm_of(m) is not None]
    if any(getattr(other, name, None) == eps for other in others for name in EPS):
        return
    for path, owner in named_owners(model):
        for name in EPS:
            if vars(owner).get(name) == eps:
                yield Attribute(f"{path}.{name}", owner, name)
