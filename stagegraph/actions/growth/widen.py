"""Widen: more units for a space, in every tensor that writes or reads it.

The maps come from :mod:`~.families`; this file decides which map each space gets, what the norms
over it need, and what is to be done where one weight both writes and reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from zlib import crc32

from torch import Tensor, nn

from stagegraph.actions.growth.attributes import Attribute, named_owners
from stagegraph.actions.growth.bindings import Bounds, BoundTensor, as_size, bind
from stagegraph.actions.growth.crosscheck import cross_check
from stagegraph.actions.growth.families import Family, normalised, space_map
from stagegraph.actions.growth.feeding import feeding_norm
from stagegraph.actions.growth.filling import Content, Fill
from stagegraph.actions.growth.maps import SpaceMap
from stagegraph.actions.growth.norms import EPS, Norm, norm_of
from stagegraph.actions.growth.operation import Site
from stagegraph.actions.growth.resize import ResizePlan, Writing
from stagegraph.actions.growth.shapes import stated_sizes
from stagegraph.actions.growth.states import StatePolicy
from stagegraph.actions.growth.tensor_growth import TensorGrowth
from stagegraph.errors import UnsupportedError
from stagegraph.schema.actions import SizedGrowth, Widen

__all__ = ["Widening", "plan", "resizing", "size_after"]


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


@dataclass(frozen=True, slots=True)
class _NormUse:
    """A norm of the model that works on a space that grows."""

    path: str
    module: nn.Module
    norm: Norm
    space: str


def resizing(site: Site, bounds: Bounds, widening: Widening) -> ResizePlan:
    """The plan of a widening.

    Raises:
        UnsupportedError: The function could not be kept; the message names what stands against it.
    """
    seen = cross_check(site, bounds, widening.sizes)
    uses = list(_norms(site.model, bounds, widening))
    maps: dict[str, SpaceMap] = {}
    shares: dict[str, float] = {}
    for space in widening.sizes:
        maps[space], shares[space] = _map(space, bounds, widening, uses)
    tensors: dict[str, TensorGrowth] = {}
    biases = {f"{use.path}.{use.norm.bias}".lstrip(".") for use in uses if use.norm.sees_all}
    for bound in bounds.tensors:
        if any(bound.axes_of(space) for space in maps):
            growth = _growth(site.model, bounds, bound, maps, widening)
            tensors[growth.name] = replace(growth, silent=growth.name in biases)
    compensated = _compensate_norms(uses, shares, tensors)
    tied = _compensate_ties(site, bounds, maps, tensors, widening.place)
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


def _norms(model: nn.Module, bounds: Bounds, widening: Widening) -> Iterator[_NormUse]:
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
            yield _NormUse(path, module, norm, spaces[0])


def _map(
    space: str, bounds: Bounds, widening: Widening, uses: Sequence[_NormUse]
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


def _growth(
    model: nn.Module,
    bounds: Bounds,
    bound: BoundTensor,
    maps: Mapping[str, SpaceMap],
    widening: Widening,
) -> TensorGrowth:
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


def _compensate_norms(
    uses: Sequence[_NormUse], shares: Mapping[str, float], tensors: dict[str, TensorGrowth]
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


def _compensate_ties(
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


def _writings(
    model: nn.Module,
    bounds: Bounds,
    tensors: Mapping[str, TensorGrowth],
    grown: Mapping[str, int],
    uses: Sequence[_NormUse],
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
    for use in uses:
        eps, share = use.norm.eps, shares[use.space]
        if use.norm.sees_all and share != 1.0 and eps is not None:
            attribute = Attribute(f"{use.path}.{eps}".lstrip("."), use.module, eps)
            write(attribute, attribute.value * share)
            for told in _config_eps(model, attribute.value, uses):
                write(told, attribute.value * share)
        if use.norm.kind == "group":
            attribute = Attribute(f"{use.path}.num_groups".lstrip("."), use.module, "num_groups")
            write(attribute, _num_groups(use, bounds, grown))
    return tuple(found.values())


def _config_eps(model: nn.Module, eps: float, uses: Sequence[_NormUse]) -> Iterator[Attribute]:
    """The attributes of configs that state the eps of these norms, if of no other."""
    ours = {id(use.module) for use in uses}
    others = [m for m in model.modules() if id(m) not in ours and norm_of(m) is not None]
    if any(getattr(other, name, None) == eps for other in others for name in EPS):
        return
    for path, owner in named_owners(model):
        for name in EPS:
            if vars(owner).get(name) == eps:
                yield Attribute(f"{path}.{name}", owner, name)


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


def _num_groups(use: _NormUse, bounds: Bounds, grown: Mapping[str, int]) -> int:
    groups = int(use.module.num_groups)  # type: ignore[arg-type]
    per_group = bounds.sizes[use.space] // groups
    after = grown[use.space]
    if after % per_group:
        raise UnsupportedError(
            f"{bounds.place}: {use.path!r} normalises groups of {per_group} units of "
            f"{use.space!r}; {after} units are no whole number of groups: take a size that is"
        )
    return after // per_group
