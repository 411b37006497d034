"""Places: from where pydantic found something to the JSON pointer and the model around it.

Pydantic's location also names the members of unions (``train``, ``activity``, ``[key]``), and
such a name may be a key of the document as well. The types tell which is which, so the walk
goes through types and data side by side.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Tag

from stagegraph.schema.base import FrozenMap, Model
from stagegraph.schema.reading import child

__all__ = ["Place", "find_place", "keys_of", "same_union", "tags_of"]


@dataclass(frozen=True, slots=True)
class Place:
    """A spot in a document.

    Attributes:
        pointer: JSON pointer of the value; for an unknown key that key's, for a missing one that
            of the mapping it is missing in.
        model: The model whose key this is, if it is one's.
        key: The last key or index on the way.
        is_key: Whether it is the key that is meant, not its value.
        expected: The type that was expected there, as far as it could be followed.
    """

    pointer: str
    model: type[Model] | None
    key: str | int | None
    is_key: bool
    expected: Any


def find_place(root: type[Model], data: Any, location: Sequence[str | int]) -> Place:
    """Follow a location of pydantic's through the types and the data.

    >>> from stagegraph.schema.stagegraph import StageGraph
    >>> data = {"stages": {"end": {"kind": "final", "final": 1}}}
    >>> find_place(StageGraph, data, ("stages", "end", "final", "final")).pointer
    '/stages/end/final'
    """
    expected: Any = root
    model: type[Model] | None = None
    pointer, key = "", None
    for part in location:
        expected = _bare(expected)
        members = _members(expected)
        if part == "[key]":
            return Place(pointer, model, key, True, expected)
        if members and part in members:
            expected = members[str(part)]
            continue
        model = expected if _is_model(expected) else None
        key = part
        expected = _below(expected, part)
        if isinstance(data, Mapping) and isinstance(part, str):
            if part not in data:
                data = None
                continue
            data = data[part]
        elif isinstance(data, list | tuple) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:  # one value that stands for a list of one
            continue
        pointer = child(pointer, part)
    return Place(pointer, model, key, False, _bare(expected))


def keys_of(model: type[Model]) -> list[str]:
    """The keys a model knows, as they are written."""
    return [field.alias or name for name, field in model.model_fields.items()]


def tags_of(expected: Any) -> list[str]:
    """What ``kind`` or ``type`` may say where this type is expected."""
    return list(_tags(_bare(expected)))


def _is_model(expected: Any) -> bool:
    return isinstance(expected, type) and issubclass(expected, Model)


def _bare(expected: Any) -> Any:
    """A type without its annotations and its ``None``."""
    while True:
        if get_origin(expected) is Annotated:
            expected = get_args(expected)[0]
        elif get_origin(expected) in (Union, types.UnionType):
            some = [one for one in get_args(expected) if one is not type(None)]
            if len(some) == len(get_args(expected)) or len(some) > 1:
                return expected
            expected = some[0]
        else:
            return expected


@cache
def _members(expected: Any) -> dict[str, Any]:
    """The members of a tagged union by tag."""
    if get_origin(expected) not in (Union, types.UnionType):
        return {}
    members: dict[str, Any] = {}
    for member in get_args(expected):
        tag = _written_tag(member) or _own_tag(_bare(member))
        if tag is not None:
            members[tag] = member
    return members


@cache
def _tags(expected: Any) -> tuple[str, ...]:
    tags: list[str] = []
    for tag, member in _members(expected).items():
        inner = _tags(_bare(member))
        if inner:
            tags.extend(inner)
        elif _own_tag(_bare(member)) is not None:
            tags.append(tag)
    return tuple(tags)


def _written_tag(member: Any) -> str | None:
    marks = get_args(member)[1:] if get_origin(member) is Annotated else ()
    return next((mark.tag for mark in marks if isinstance(mark, Tag)), None)


def _own_tag(member: Any) -> str | None:
    if not _is_model(member):
        return None
    for name in ("type", "kind"):
        field = member.model_fields.get(name)
        if field is not None and get_origin(field.annotation) is Literal:
            return str(get_args(field.annotation)[0])
    return None


def _below(expected: Any, part: str | int) -> Any:
    if _is_model(expected):
        for name, field in expected.model_fields.items():
            if part in (name, field.alias):
                return field.annotation
        return None
    arguments = get_args(expected)
    if get_origin(expected) is FrozenMap and len(arguments) == 2:
        return arguments[1]
    return arguments[0] if get_origin(expected) is tuple and arguments else None


def same_union(expected: Any, other: Any) -> bool:
    """Whether a type is this tagged union."""
    members = _members(_bare(expected))
    return bool(members) and members == _members(_bare(other))
