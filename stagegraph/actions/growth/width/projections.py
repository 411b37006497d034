"""Projections: which entries of attention weights make queries, which keys, which values.

A parameter that reads the space of heads, or of a head's units, is the projection back into the
stream. Those that write it are told apart by what the action says, by their usual names, or by
their place where they are packed into one: in a leading factor of 3 (or 2: keys and values), or one
after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from stagegraph.actions.growth.width.bindings import Bounds, BoundTensor
from stagegraph.actions.growth.width.maps import Binding, Part
from stagegraph.actions.parameters import shown_name
from stagegraph.errors import SelectorError, UnsupportedError, did_you_mean
from stagegraph.schema.actions import AttentionGrowth
from stagegraph.schema.spaces import AxisPart

__all__ = ["Kind", "Kinds", "kinds_of", "marked", "writers"]

Kind = Literal["q", "k", "v"]

_NAMES: Mapping[str, Kind] = {
    **dict.fromkeys(("q", "query", "q_proj", "query_proj", "wq", "w_q", "to_q", "q_lin"), "q"),
    **dict.fromkeys(("k", "key", "k_proj", "key_proj", "wk", "w_k", "to_k", "k_lin"), "k"),
    **dict.fromkeys(("v", "value", "v_proj", "value_proj", "wv", "w_v", "to_v", "v_lin"), "v"),
}

_KINDS: Mapping[str, Kind] = {"q": "q", "k": "k", "v": "v"}

Kinds = Mapping[tuple[int, int], tuple[int | None, tuple[Kind, ...]]]
"""Per axis and part that writes the space: the factor that tells the kinds apart, ``None`` where
there is one kind, and the kind at each of its places."""


def writers(bounds: Bounds, action: AttentionGrowth, space: str) -> dict[str, Kinds]:
    """Per parameter that writes a space: what its entries make.

    Raises:
        SelectorError: A pattern of the action matches none of them.
        UnsupportedError: It is not known what one of them makes.
    """
    writing = [bound for bound in bounds.of(space) if "out" in bound.roles(space)]
    for field in ("q", "k", "v"):
        for pattern in getattr(action, field):
            names = [bound.name for bound in writing]
            if not any(_matches(name, pattern) for name in names):
                raise SelectorError(
                    f"{bounds.place}: {field}: {pattern!r} matches no parameter that writes the "
                    f"space {space!r}{did_you_mean(pattern, names)}"
                )
    return {bound.name: kinds_of(bound, action, space, place=bounds.place) for bound in writing}


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(shown_name(name), pattern)


def kinds_of(bound: BoundTensor, action: AttentionGrowth, space: str, *, place: str) -> Kinds:
    """What the entries of one parameter make.

    Raises:
        UnsupportedError: It is not known.
    """
    told = _named(bound.name, action)
    found: dict[tuple[int, int], tuple[int | None, tuple[Kind, ...]]] = {}
    for dim, axis in enumerate(bound.layout):
        parts = [at for at, part in enumerate(axis) if _writes(part, space)]
        for nth, at in enumerate(parts):
            kinds = (None, (told,)) if told else _packed(axis[at], nth, len(parts), action)
            if kinds is None:
                raise UnsupportedError(
                    f"{place}: axis {dim} of {bound.name!r} writes the space {space!r}, and it is "
                    "not known whether queries, keys or values; name it in q:, k: or v: of the "
                    "action, or write a packed axis as (3 ...) in its layout, in the order that "
                    "order: says"
                )
            found[dim, at] = kinds
    return found


def _named(name: str, action: AttentionGrowth) -> Kind | None:
    told: Mapping[Kind, Sequence[str]] = {"q": action.q, "k": action.k, "v": action.v}
    for kind, patterns in told.items():
        if any(_matches(name, pattern) for pattern in patterns):
            return kind
    path = name.split(".")
    own = path[-2] if path[-1] in ("weight", "bias") and len(path) > 1 else path[-1]
    return _NAMES.get(own)


def _writes(part: AxisPart, space: str) -> bool:
    return any(factor.space == space and factor.role != "in" for factor in part)


def _packed(
    part: AxisPart, nth: int, num_parts: int, action: AttentionGrowth
) -> tuple[int | None, tuple[Kind, ...]] | None:
    for order in (action.order, action.order.replace("q", "")):
        kinds = tuple(_KINDS[letter] for letter in order)
        if num_parts == len(kinds):
            return None, (kinds[nth],)
        places = [at for at, f in enumerate(part) if f.space is None and f.size == len(kinds)]
        # two is also how many halves rotary positions have: there it does not lead
        if places and (len(kinds) == 3 or places[0] == 0):
            return places[0], kinds
    return None


def marked(binding: Binding, kinds: Kinds, which: Sequence[Kind]) -> Tensor:
    """Which new entries of a grown parameter make one of these kinds.

    Args:
        binding: How it grew.
        kinds: What its entries make.
        which: The kinds.

    Returns:
        Booleans that broadcast to the grown shape.
    """
    marks = torch.zeros((1,) * len(binding.axes), dtype=torch.bool)
    for dim in {dim for dim, _ in kinds}:
        pieces = [
            _in_part(part, kinds.get((dim, at)), which) for at, part in enumerate(binding.axes[dim])
        ]
        own = torch.cat(pieces)
        marks = marks | own.view([-1 if axis == dim else 1 for axis in range(len(binding.axes))])
    return marks


def _in_part(
    part: Part, kinds: tuple[int | None, tuple[Kind, ...]] | None, which: Sequence[Kind]
) -> Tensor:
    sizes = [factor.after for factor in part]
    fresh = [
        torch.zeros(size, dtype=torch.bool) if factor.map is None else factor.map.fresh
        for factor, size in zip(part, sizes, strict=True)
    ]
    marks = torch.zeros(sizes, dtype=torch.bool)
    if kinds is None:
        return marks.flatten()
    for at in product(*map(range, sizes)):
        place, names = kinds
        kind = names[0] if place is None else names[at[place]]
        marks[at] = kind in which and any(bool(fresh[f][i]) for f, i in enumerate(at))
    return marks.flatten()
