"""Python data as a document: bounded in depth and size, and made of what JSON has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from stagegraph.progress import Duration
from stagegraph.schema.base import Model
from stagegraph.schema.reading import Reading, Unreadable, child, shown

__all__ = ["pointers", "read_plain"]


def read_plain(data: Mapping[str, Any]) -> Reading:
    """Look through a dict before it is validated; it may hold models as well.

    >>> read_plain({"a": [{1, 2}]}).defects[0].message
    'a Python set cannot stand in a stage graph'
    """
    reading = Reading(data=data)
    with suppress(Unreadable):
        _look_through(reading)
    return reading


def pointers(data: Any, pointer: str = "") -> Iterator[str]:
    """The JSON pointers of everything in plain data, in document order."""
    yield pointer
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from pointers(value, child(pointer, str(key)))
    elif isinstance(data, list | tuple):
        for at, value in enumerate(data):
            yield from pointers(value, child(pointer, at))


def _look_through(reading: Reading) -> None:
    waiting: list[tuple[str, int, Any]] = [("", 0, reading.data)]
    while waiting:
        pointer, depth, value = waiting.pop()
        reading.count(pointer, depth, None)
        if isinstance(value, Mapping):
            for key, item in value.items():
                if isinstance(key, str):
                    _look_at_text(reading, key, pointer)
                    waiting.append((child(pointer, key), depth + 1, item))
                else:
                    reading.refuse(f"a key is a text, got {shown(key)}", pointer, None)
        elif isinstance(value, list | tuple):
            waiting.extend((child(pointer, at), depth + 1, item) for at, item in enumerate(value))
        elif isinstance(value, str):
            reading.weigh(value, pointer, None)
            _look_at_text(reading, value, pointer)
        elif not isinstance(value, int | float | None | Model | Duration):
            reading.refuse(f"{shown(value)} cannot stand in a stage graph", pointer, None)


def _look_at_text(reading: Reading, text: str, pointer: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        reading.refuse(f"half of a surrogate pair in {shown(text)}", pointer, None)
