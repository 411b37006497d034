"""Conforming: whether a value is what the annotations of its dataclass say.

What is read back from a file may be damaged or made up. A value of the wrong type would not be
missed here but much later, in the middle of a run; so everything is looked at once, when it is
read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from fractions import Fraction
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["MOST", "check_conforms"]

MOST = 10**30
"""More than anything that is counted comes to; operations are the most."""

_MAX_DEPTH = 40


def check_conforms(value: Any, kind: Any = None, *, place: str = "") -> None:
    """Refuse a value that is not what its annotations say.

    Integers and floats are finite and of a size that can be counted to.

    >>> from stagegraph.progress import Progress
    >>> check_conforms(Progress(step=3))
    >>> check_conforms(Progress(step="3"))
    Traceback (most recent call last):
        ...
    ValueError: 'step' is an int, got a str

    Args:
        value: The value; a dataclass if ``kind`` is not given.
        kind: The annotation.
        place: Where it stands, for the message.

    Raises:
        ValueError: It is not.
    """
    _check(value, type(value) if kind is None else kind, place, 0)


def _check(value: Any, kind: Any, place: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError(f"{place!r} is nested too deeply")
    if is_dataclass(kind):
        _dataclass(value, kind, place, depth)
        return
    origin = get_origin(kind)
    if origin is tuple:
        _tuple(value, get_args(kind), place, depth)
    elif origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        _mapping(value, get_args(kind), place, depth)
    elif origin in (Union, UnionType):
        _union(value, get_args(kind), place, depth)
    elif origin is Literal:
        if not isinstance(value, str) or value not in get_args(kind):
            raise _wrong(place, f"one of {', '.join(map(repr, get_args(kind)))}", value)
    elif kind is Any:
        _json(value, place, depth)
    else:
        _plain(value, kind, place)


def _dataclass(value: Any, kind: Any, place: str, depth: int) -> None:
    if not isinstance(value, kind):
        raise _wrong(place, _called(kind), value)
    hints = _hints(kind)
    for field in fields(value):
        if not field.compare:
            continue  # what two equal values may differ in is none of the data
        below = f"{place}.{field.name}".lstrip(".")
        _check(getattr(value, field.name), hints[field.name], below, depth + 1)


@cache
def _hints(kind: Any) -> Mapping[str, Any]:
    return {n: h for n, h in get_type_hints(kind).items() if get_origin(h) is not ClassVar}


def _tuple(value: Any, kinds: tuple[Any, ...], place: str, depth: int) -> None:
    if not isinstance(value, tuple):
        raise _wrong(place, "a list", value)
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"{place!r} has {len(kinds)} entries, got {len(value)}")
    for index, (one, kind) in enumerate(zip(value, kinds, strict=True)):
        _check(one, kind, f"{place}[{index}]", depth + 1)


def _mapping(value: Any, kinds: tuple[Any, ...], place: str, depth: int) -> None:
    if not isinstance(value, Mapping):
        raise _wrong(place, "a mapping", value)
    for key, one in value.items():
        _check(key, kinds[0], f"{place} (a key)", depth + 1)
        _check(one, kinds[1], f"{place}[{key!r:.40}]", depth + 1)


def _union(value: Any, kinds: tuple[Any, ...], place: str, depth: int) -> None:
    if value is None and NoneType in kinds:
        return
    first: ValueError | None = None
    for kind in kinds:
        if kind is NoneType:
            continue
        try:
            _check(value, kind, place, depth)
        except ValueError as error:
            first = first or error
        else:
            return
    assert first is not None
    raise first


def _json(value: Any, place: str, depth: int) -> None:
    match value:
        case None | bool() | str():
            return
        case int() | float():
            _plain(value, type(value), place)
        case list() | tuple():
            for index, one in enumerate(value):
                _check(one, Any, f"{place}[{index}]", depth + 1)
        case Mapping():
            _mapping(value, (str, Any), place, depth)
        case _:
            raise _wrong(place, "JSON data", value)


def _plain(value: Any, kind: Any, place: str) -> None:
    if kind is float:
        good = type(value) in (int, float) and math.isfinite(value)
    elif kind is int:
        good = type(value) is int
    elif isinstance(kind, type) and issubclass(kind, str | bool | Fraction | Enum):
        good = isinstance(value, kind)
    else:
        raise AssertionError(f"nobody said what a {kind!r} is")
    if not good:
        raise _wrong(place, _called(kind), value)
    if kind in (int, Fraction) and abs(value) > MOST:
        raise ValueError(f"{place!r} is larger than anything that is counted")


def _wrong(place: str, wanted: str, value: Any) -> ValueError:
    got = _called(type(value))
    if type(value) is float and not math.isfinite(value):
        got = str(value)
    return ValueError(f"{place!r} is {wanted}, got {got}")


def _called(kind: Any) -> str:
    name = kind.__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
