"""Spaces: which axes of which tensors belong together, so that they grow together.

A layout says what the axes of a tensor are, in a little language: one word per axis, with spaces
between. ``_`` is an axis that belongs to no space. A name is a space. Parentheses are a flattened
product, the leftmost moving slowest: ``(3 heads head_dim)`` is an axis of 3 × heads × head_dim
entries. ``(a + b)`` is a concatenation. ``name:in`` says that the tensor reads the space along this
axis, ``name:out`` that it writes it; for the usual modules that is known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from stagegraph.schema.base import FrozenMap, Model
from stagegraph.schema.names import Glob

__all__ = ["FREE", "AxisFactor", "AxisPart", "Layout", "Spaces", "parse_layout"]

FREE = "_"
"""An axis that belongs to no space."""

_TOKEN = re.compile(r"\s*(?:(\d{1,9})|([A-Za-z_][A-Za-z0-9_]{0,63})(?::(in|out))?|([()+]))")


@dataclass(frozen=True, slots=True)
class AxisFactor:
    """One factor of an axis.

    Attributes:
        size: Its size, where the layout states a number.
        space: Its space; ``None`` for a number or a free axis.
        role: What the layout says of reading and writing; ``None`` if nothing.
    """

    size: int | None = None
    space: str | None = None
    role: Literal["in", "out"] | None = None


AxisPart = tuple[AxisFactor, ...]
"""Factors whose product is a length."""

Layout = tuple[tuple[AxisPart, ...], ...]
"""Per axis its parts: one, or several that are concatenated."""


def parse_layout(text: str) -> Layout:
    """Read a layout.

    >>> parse_layout("_ (2 mlp:in)")[1][0][1]
    AxisFactor(size=None, space='mlp', role='in')

    Raises:
        ValueError: It cannot be read; the message says where.
    """
    axes: list[tuple[AxisPart, ...]] = []
    parts: list[list[AxisFactor]] | None = None
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(
                f"column {at + 1} of {text!r}: {text[at : at + 1].strip()!r} is no "
                "name, number, '_', '(', ')' or '+'"
            )
        at = match.end()
        parts = _take(match, axes, parts, text)
    if parts is not None:
        raise ValueError(f"{text!r} has an open parenthesis")
    if not axes:
        raise ValueError("a layout has one word per axis, and this one is empty")
    return tuple(axes)


def _take(
    match: re.Match[str],
    axes: list[tuple[AxisPart, ...]],
    parts: list[list[AxisFactor]] | None,
    text: str,
) -> list[list[AxisFactor]] | None:
    number, name, role, sign = match.groups()
    if sign is None:
        factor = _factor(number, name, role)
        if parts is None:
            axes.append(((factor,),))
        else:
            parts[-1].append(factor)
        return parts
    if (sign == "(") != (parts is None):
        raise ValueError(f"column {match.end()} of {text!r}: {sign!r} does not belong here")
    if sign == "(":
        return [[]]
    assert parts is not None
    if not parts[-1]:
        raise ValueError(f"column {match.end()} of {text!r}: nothing stands before {sign!r}")
    if sign == "+":
        return [*parts, []]
    axes.append(tuple(tuple(part) for part in parts))
    return None


def _factor(number: str | None, name: str | None, role: str | None) -> AxisFactor:
    if number is not None:
        if int(number) == 0:
            raise ValueError("a factor of an axis is at least 1, got 0")
        return AxisFactor(size=int(number))
    if name == FREE:
        return AxisFactor()
    return AxisFactor(space=name, role="in" if role == "in" else "out" if role == "out" else None)


def _layout(text: str) -> str:
    parse_layout(text)
    return text


def _product(text: str) -> str:
    layout = parse_layout(text)
    if len(layout) != 1 or len(layout[0]) != 1:
        raise ValueError(f"{text!r} is no size; write a space, or a product such as (heads dim)")
    return text


LayoutText = Annotated[
    str, StringConstraints(min_length=1, max_length=500), AfterValidator(_layout)
]
SizeText = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_product)]


class Spaces(Model):
    """Which axes of which tensors belong together."""

    tensors: Annotated[FrozenMap[Glob, LayoutText], Field(max_length=1000)] = FrozenMap()
    """Per pattern over parameter and buffer names: the layout of their axes. The first pattern
    that matches a tensor counts."""
    sizes: Annotated[FrozenMap[Glob, SizeText], Field(max_length=1000)] = FrozenMap()
    """Attributes, of modules or of what they hold (``config.n_inner``), that state a size: a
    space, or a product such as ``(heads head_dim)``; they are written when it grows. Patterns may
    match several."""

    trace: bool = True
    """Whether the layouts are checked against what the model is seen to do on the probe."""

    def names(self) -> frozenset[str]:
        """Every space that a layout names."""
        return frozenset(
            factor.space
            for text in (*self.tensors.values(), *self.sizes.values())
            for axis in parse_layout(text)
            for part in axis
            for factor in part
            if factor.space is not None
        )
