"""Bindings: what the declared layouts mean for one model, every size worked out.

A layout names spaces; how large they are follows from the tensors' shapes and from the attributes
that state sizes. A size that does not follow, or two that differ, are refused with the tensor and
the axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import prod
from typing import Any

from torch import Tensor, nn

from stagegraph.actions.growth.attributes import Attribute, find_attributes
from stagegraph.actions.growth.width.maps import Binding, Factor, Role, SpaceMap
from stagegraph.actions.growth.width.roles import role_of
from stagegraph.actions.parameters import shown_name
from stagegraph.errors import SelectorError, UnsupportedError, did_you_mean
from stagegraph.schema.spaces import AxisFactor, AxisPart, Layout, Spaces, parse_layout

__all__ = ["BoundTensor", "Bounds", "as_size", "bind", "solve_sizes"]


@dataclass(frozen=True, slots=True)
class BoundTensor:
    """A parameter or buffer with its layout.

    Attributes:
        name: Today's name; the first of a tensor that has several.
        aliases: All its names.
        tensor: The parameter or buffer.
        layouts: Its layout under each name, roles filled in.
    """

    name: str
    aliases: tuple[str, ...]
    tensor: Tensor
    layouts: tuple[Layout, ...]

    @property
    def layout(self) -> Layout:
        """The layout under its first name."""
        return self.layouts[0]

    def axes_of(self, space: str) -> list[int]:
        """The axes that a space is a factor of."""
        return [
            dim
            for dim, axis in enumerate(self.layout)
            if any(factor.space == space for part in axis for factor in part)
        ]

    def roles(self, space: str) -> set[Role]:
        """What it does with a space, under all its names."""
        return {
            factor.role or "out"
            for layout in self.layouts
            for axis in layout
            for part in axis
            for factor in part
            if factor.space == space
        }


@dataclass(frozen=True, slots=True)
class Bounds:
    """All that is bound to spaces in one model.

    Attributes:
        place: Where the growth is written, for messages.
        tensors: The tensors that have a layout, each once.
        attributes: The attributes that state a size, each with the product that it is.
        sizes: The size of each space.
    """

    place: str
    tensors: tuple[BoundTensor, ...]
    attributes: tuple[tuple[Attribute, AxisPart], ...]
    sizes: Mapping[str, int]

    def of(self, space: str) -> list[BoundTensor]:
        """The tensors that a space is in.

        Raises:
            SelectorError: No layout names it.
        """
        found = [bound for bound in self.tensors if bound.axes_of(space)]
        if not found:
            known = sorted(self.sizes)
            raise SelectorError(
                f"{self.place}: no layout names a space {space!r}{did_you_mean(space, known)}; "
                "write under spaces: tensors: which axes belong to it"
            )
        return found

    def binding(
        self, bound: BoundTensor, maps: Mapping[str, SpaceMap], *, role: Role | None = None
    ) -> Binding:
        """How a tensor grows when these spaces do.

        Args:
            bound: The tensor.
            maps: The maps of the spaces that grow.
            role: Take this role everywhere, for a tensor whose names say different ones.
        """
        shape = tuple(bound.tensor.shape)
        return Binding(
            tuple(
                tuple(self._part(part, axis, shape[dim], maps, role) for part in axis)
                for dim, axis in enumerate(bound.layout)
            )
        )

    def _part(
        self,
        part: AxisPart,
        axis: Sequence[AxisPart],
        length: int,
        maps: Mapping[str, SpaceMap],
        role: Role | None,
    ) -> tuple[Factor, ...]:
        sizes = [self._size(factor) for factor in part]
        if None in sizes:  # the one free factor takes what is left
            rest = length - sum(self._length(other) for other in axis if other is not part)
            known = prod(size for size in sizes if size is not None)
            sizes = [rest // known if size is None else size for size in sizes]
        return tuple(
            Factor(
                size or 1,
                maps.get(factor.space) if factor.space is not None else None,
                role or factor.role or "out",
            )
            for factor, size in zip(part, sizes, strict=True)
        )

    def _size(self, factor: AxisFactor) -> int | None:
        return factor.size if factor.space is None else self.sizes[factor.space]

    def _length(self, part: AxisPart) -> int:
        return prod(self._size(factor) or 1 for factor in part)

    def value(self, part: AxisPart, grown: Mapping[str, int]) -> int:
        """What a size attribute must say when these spaces have these sizes."""
        sizes = {**self.sizes, **grown}
        return prod(sizes[f.space] if f.space is not None else f.size or 1 for f in part)


def bind(model: nn.Module, spaces: Spaces, *, place: str) -> Bounds:
    """Look the declared layouts up in a model.

    Raises:
        SelectorError: A pattern matches no tensor, or no attribute.
        UnsupportedError: A layout does not fit a tensor, or a size does not follow.
    """
    tensors = _tensors(model, spaces, place)
    attributes = tuple(
        (attribute, parse_layout(text)[0][0])
        for pattern, text in spaces.sizes.items()
        for attribute in find_attributes(model, pattern, place=place)
    )
    sizes = solve_sizes(tensors, attributes, place=place)
    missing = sorted(spaces.names() - set(sizes))
    if missing:
        raise UnsupportedError(
            f"{place}: the size of {', '.join(map(repr, missing))} does not follow from the "
            "shapes; name an attribute that states it under spaces: sizes:"
        )
    return Bounds(place, tuple(tensors), attributes, sizes)


def _tensors(model: nn.Module, spaces: Spaces, place: str) -> list[BoundTensor]:
    patterns = [(pattern, parse_layout(text)) for pattern, text in spaces.tensors.items()]
    unused = dict(spaces.tensors)
    found: dict[int, list[tuple[str, Tensor, Layout]]] = {}
    names = dict(model.named_parameters(remove_duplicate=False))
    everything: dict[str, Tensor] = {**names, **dict(model.named_buffers(remove_duplicate=False))}
    for name, tensor in everything.items():
        for pattern, layout in patterns:
            if fnmatchcase(name, pattern) or fnmatchcase(shown_name(name), pattern):
                unused.pop(pattern, None)
                filled = _with_roles(model, name, tensor, layout, place)
                found.setdefault(id(tensor), []).append((name, tensor, filled))
                break
    _add_ties(model, found, everything, place)
    if unused:
        near = "; ".join(f"{glob!r}{did_you_mean(glob, list(everything))}" for glob in unused)
        raise SelectorError(f"{place}: spaces: tensors: no parameter or buffer matches {near}")
    return [
        BoundTensor(uses[0][0], tuple(u[0] for u in uses), uses[0][1], tuple(u[2] for u in uses))
        for uses in found.values()
    ]


def _add_ties(
    model: nn.Module,
    found: dict[int, list[tuple[str, Tensor, Layout]]],
    everything: Mapping[str, Tensor],
    place: str,
) -> None:
    """Give a tied tensor its layout under all its names, also those that no pattern matches.

    The head of a language model reads what the embedding writes, and is seldom named beside it.
    """
    for name, tensor in everything.items():
        uses = found.get(id(tensor), [])
        if uses and name not in [use[0] for use in uses]:
            bare = tuple(
                tuple(tuple(replace(f, role=None) for f in part) for part in axis)
                for axis in uses[0][2]
            )
            uses.append((name, tensor, _with_roles(model, name, tensor, bare, place)))


def _with_roles(model: nn.Module, name: str, tensor: Tensor, layout: Layout, place: str) -> Layout:
    if len(layout) != tensor.dim():
        raise UnsupportedError(
            f"{place}: {name!r} has {tensor.dim()} axes {tuple(tensor.shape)}, and its layout "
            f"tells of {len(layout)}"
        )
    module = model.get_submodule(name.rpartition(".")[0])
    return tuple(
        tuple(
            tuple(_with_role(factor, module, name, dim, tensor, place) for factor in part)
            for part in axis
        )
        for dim, axis in enumerate(layout)
    )


def _with_role(
    factor: AxisFactor, module: nn.Module, name: str, dim: int, tensor: Tensor, place: str
) -> AxisFactor:
    if factor.space is None or factor.role is not None:
        return factor
    role = role_of(module, name.rpartition(".")[2], dim, tensor.dim())
    if role is None:
        raise UnsupportedError(
            f"{place}: nobody knows whether axis {dim} of {name!r}, of a {type(module).__name__}, "
            f"writes or reads the space {factor.space!r}; say so in its layout: "
            f"'{factor.space}:out' or '{factor.space}:in'"
        )
    return AxisFactor(factor.size, factor.space, role)


_Equation = tuple[str, int, tuple[AxisPart, ...]]
"""Where it comes from, a length, and the parts whose lengths add up to it."""


def _equations(
    tensors: Sequence[BoundTensor], attributes: Sequence[tuple[Attribute, AxisPart]]
) -> Iterator[_Equation]:
    for attribute, part in attributes:
        value = as_size(attribute.value)
        if value is not None:
            yield f"attribute {attribute.path!r}", value, (part,)
    for bound in tensors:
        for alias, layout in zip(bound.aliases, bound.layouts, strict=True):
            for dim, axis in enumerate(layout):
                yield f"axis {dim} of {alias!r}", bound.tensor.shape[dim], axis


def as_size(value: Any) -> int | None:
    """The size that an attribute states: itself, or the last entry of a shape."""
    if isinstance(value, list | tuple) and value:
        value = value[-1]
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def solve_sizes(
    tensors: Sequence[BoundTensor],
    attributes: Sequence[tuple[Attribute, AxisPart]],
    *,
    place: str,
    known: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """The sizes of the spaces, each found where all else of an equation is known.

    Args:
        tensors: The tensors.
        attributes: The attributes that state a size.
        place: Where the growth is written, for messages.
        known: Sizes that are given.

    Returns:
        What follows; a space whose size does not is left out.

    Raises:
        UnsupportedError: Two sizes of one space differ.
    """
    sizes: dict[str, int] = dict(known or {})
    waiting = list(_equations(tensors, attributes))
    progress = True
    while progress:
        progress = False
        for equation in waiting.copy():
            unknown = {f.space for part in equation[2] for f in part if f.space} - set(sizes)
            if len(unknown) > 1:
                continue
            waiting.remove(equation)
            progress = True
            _settle(equation, next(iter(unknown), None), sizes, place)
    return sizes


def _settle(equation: _Equation, unknown: str | None, sizes: dict[str, int], place: str) -> None:
    where, length, parts = equation
    if any(f.space is None and f.size is None for part in parts for f in part):
        _settle_free(equation, unknown, sizes, place)
        return
    known = sum(_known(part, sizes) for part in parts if not _has(part, unknown))
    if unknown is None:
        if known != length:
            raise _differs(where, length, parts, sizes, place)
        return
    per_unit = sum(_known(part, sizes) for part in parts if _has(part, unknown))
    rest = length - known
    if rest <= 0 or rest % per_unit or not _is_linear(parts, unknown):
        raise _differs(where, length, parts, sizes, place)
    sizes[unknown] = rest // per_unit


def _settle_free(
    equation: _Equation, unknown: str | None, sizes: dict[str, int], place: str
) -> None:
    """An axis with a free factor fixes no size; what is known of it must divide it."""
    where, length, parts = equation
    named = [part for part in parts if any(factor.space for factor in part)]
    if unknown is None and named and (len(parts) > 1 or length % _known(parts[0], sizes)):
        raise _differs(where, length, parts, sizes, place)


def _has(part: AxisPart, space: str | None) -> bool:
    return space is not None and any(factor.space == space for factor in part)


def _is_linear(parts: Sequence[AxisPart], space: str) -> bool:
    return all(sum(factor.space == space for factor in part) <= 1 for part in parts)


def _known(part: AxisPart, sizes: Mapping[str, int]) -> int:
    return prod(
        factor.size or 1 if factor.space is None else sizes.get(factor.space, 1) for factor in part
    )


def _differs(
    where: str,
    length: int,
    parts: Sequence[AxisPart],
    sizes: Mapping[str, int],
    place: str,
) -> UnsupportedError:
    told = " + ".join(" × ".join(_word(factor, sizes) for factor in part) for part in parts)
    return UnsupportedError(
        f"{place}: {where} has {length} entries, which is not {told}; where layers differ in "
        "size, give their spaces different names"
    )


def _word(factor: AxisFactor, sizes: Mapping[str, int]) -> str:
    if factor.space is None:
        return "anything" if factor.size is None else str(factor.size)
    known = sizes.get(factor.space)
    return factor.space if known is None else f"{factor.space} ({known})"
