"""Names for spaces, as a person would give them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stagegraph.actions.growth.width.traced import Traced, TracedAxis, TracedSpace

__all__ = ["name_spaces"]


@dataclass(frozen=True, slots=True)
class _Kind:
    """Spaces that are alike: those of numbered siblings."""

    ids: tuple[str, ...]
    space: TracedSpace
    starred: bool


def name_spaces(traced: Traced, dims: Mapping[str, int]) -> dict[str, str]:
    """A name for each space; alike spaces of sibling blocks get one name together.

    Args:
        traced: The trace.
        dims: How many dimensions each parameter has.
    """
    kinds = _kinds(traced.spaces)
    names: dict[str, str] = {}
    taken: set[str] = set()
    streams = [kind for kind in kinds if _is_stream(kind, dims)]
    for stream in streams:
        _give(stream, "stream", names, taken)
    others = [kind for kind in kinds if kind not in streams]
    convolved = [kind for kind in others if _is_convolved(kind.space, dims)]
    vocabulary = _vocabulary(kinds)
    for kind in others:
        if kind is vocabulary:
            wish = "vocab"
        elif kind in convolved and not (kind.space.is_input or kind.space.is_output):
            wish = "channels" if len(convolved) == 1 else _from_module(kind.space, whole=True)
        else:
            wish = _usual(traced, kind, streams) or _from_module(kind.space, whole=False)
        _give(kind, wish, names, taken)
    return names


def _give(kind: _Kind, wish: str, names: dict[str, str], taken: set[str]) -> None:
    name, count = wish, 1
    while name in taken:
        count += 1
        name = f"{wish}{count}"
    taken.add(name)
    names |= dict.fromkeys(kind.ids, name)


# Alike


def _kinds(spaces: Mapping[str, TracedSpace]) -> list[_Kind]:
    groups: dict[object, list[str]] = {}
    for identity, space in spaces.items():
        groups.setdefault(_signature(space), []).append(identity)
    return [
        _Kind(tuple(ids), spaces[ids[0]], bool(_common_numbers(spaces[ids[0]])))
        for ids in groups.values()
    ]


def _common_numbers(space: TracedSpace) -> set[int]:
    """The places of numbers in names on which all members agree, names before them included."""
    split = [member.name.split(".") for member in space.members]
    return {
        place
        for place, part in enumerate(split[0])
        if part.isdigit() and all(parts[: place + 1] == split[0][: place + 1] for parts in split)
    }


def _signature(space: TracedSpace) -> object:
    starred = _common_numbers(space)
    return space.size, tuple(
        (
            tuple("*" if k in starred else part for k, part in enumerate(member.name.split("."))),
            member.dim,
            member.factor,
            member.roles,
        )
        for member in space.members
    )


# What it is


def _written(space: TracedSpace) -> list[str]:
    return [member.name for member in space.members if "out" in member.roles]


def _read(space: TracedSpace) -> list[str]:
    return [member.name for member in space.members if "in" in member.roles]


def _is_convolved(space: TracedSpace, dims: Mapping[str, int]) -> bool:
    used = {*_written(space), *_read(space)}
    return "channels" in space.hints and 2 * sum(dims[name] > 2 for name in used) > len(used)


def _is_stream(kind: _Kind, dims: Mapping[str, int]) -> bool:
    """A space that many write and somebody reads, added to or normed, of no block in particular."""
    space = kind.space
    normed = any(norm.kind != "batch" for norm in space.norms)
    if kind.starred or not (space.adds or normed) or _is_convolved(space, dims):
        return False
    return len(_written(space)) > 1 and bool(_read(space))


def _vocabulary(kinds: Iterable[_Kind]) -> _Kind | None:
    looked_up = [kind for kind in kinds if "lookup" in kind.space.hints]
    return max(looked_up, key=lambda kind: (kind.space.is_output, kind.space.size), default=None)


def _usual(traced: Traced, kind: _Kind, streams: list[_Kind]) -> str | None:
    space = kind.space
    if space.is_output:
        return "outputs"
    if space.is_input:
        return "inputs"
    if "positions" in space.hints:
        alone = sum("positions" in other.hints for other in traced.spaces.values()) == 1
        named = any("pos" in member.name for member in space.members)
        return "positions" if alone or named else _from_module(space, whole=False)
    if "heads" in space.hints:
        return _heads(traced, kind)
    for hint in ("head_dim", "value_dim"):
        if hint in space.hints:
            return hint
    is_mlp = any(_is_mlp(traced, space, stream.ids[0]) for stream in streams)
    return "mlp" if is_mlp else None


def _heads(traced: Traced, kind: _Kind) -> str:
    """``heads``, or in grouped queries the key heads and the queries of each."""
    for member in kind.space.members:
        for axis in _products(traced.axes[member.name][member.dim]):
            heads = [
                f.space
                for f in axis.factors
                if f.space is not None and "heads" in traced.spaces[f.space].hints
            ]
            if len(heads) == 2 and heads[0] != heads[1]:
                return "kv_heads" if heads[0] in kind.ids else "group"
    return "heads"


def _products(axis: TracedAxis) -> Iterable[TracedAxis]:
    yield axis
    for factor in axis.factors:
        for part in factor.parts:
            yield from _products(part)


def _is_mlp(traced: Traced, space: TracedSpace, stream: str) -> bool:
    """Every weight that writes it reads the stream, and one that reads it writes the stream."""
    members = traced.spaces[stream].members
    readers = {member.name for member in members if "in" in member.roles}
    writers = {member.name for member in members if "out" in member.roles}
    written = set(_written(space))
    return bool(written) and written <= readers and bool(writers & set(_read(space)))


def _from_module(space: TracedSpace, *, whole: bool) -> str:
    """A name from where the space is written first."""
    written = _written(space) or [space.members[0].name]
    first = next((name for name in written if name.endswith("weight")), written[0])
    path = [part for part in first.split(".")[:-1] if not part.isdigit()]
    if any(part.startswith("lora_") for part in path):
        return "rank"
    path = path or [part for part in first.split(".") if part not in ("weight", "bias")]
    path = [part for part in path if not part.isdigit()] or ["hidden"]
    name = re.sub(r"\W", "_", "_".join(path[-2:]) if whole else path[-1])
    return name[-60:] if name[:1].isalpha() else f"space_{name}"[:60]
