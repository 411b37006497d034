"""JSON read strictly, with the place of every value.

Duplicate keys, ``NaN``, ``Infinity``, numbers out of bounds and deep nesting are refused.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from json import JSONDecodeError, decoder
from typing import Any, NoReturn

from stagegraph.schema.reading import Reading, Unreadable, child, shown
from stagegraph.schema.source import Position

__all__ = ["read_json"]

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORD = re.compile(r"[-+]?[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_scan_string: Callable[[str, int, bool], tuple[str, int]] = vars(decoder)["scanstring"]
_CONSTANTS = {"true": True, "false": False, "null": None}
_OTHER_SPELLINGS = {"True": "true", "False": "false", "None": "null"}


def read_json(text: str) -> Reading:
    """Read a JSON text into plain data with the place of everything in it.

    >>> read_json('{"a": [1, "x"]}').positions["/a/1"]
    (1, 11)
    """
    reading = Reading(text)
    with suppress(Unreadable):
        reading.data = _Scanner(reading).document()
    return reading


class _Scanner:
    """A cursor over one text."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._text = reading.text
        self._lines = [0, *(found.end() for found in re.finditer("\n", reading.text))]
        self._at = 0

    def document(self) -> Any:
        self._space()
        value = self._value("", 0)
        self._space()
        if self._at < len(self._text):
            self._fail("the document is over, but the text goes on", "")
        return value

    def _position(self, at: int) -> Position:
        line = bisect_right(self._lines, at)
        return line, at - self._lines[line - 1] + 1

    def _space(self) -> str:
        found = _SPACE.match(self._text, self._at)
        assert found is not None
        self._at = found.end()
        return self._text[self._at : self._at + 1]

    def _fail(self, message: str, pointer: str, at: int | None = None) -> NoReturn:
        at = self._at if at is None else at
        raise self._reading.stop(f"not JSON: {message}", pointer, self._position(at))

    def _unexpected(self, wanted: str, pointer: str) -> NoReturn:
        rest = self._text[self._at : self._at + 2]
        if not rest:
            self._fail(f"the text ends where {wanted} was expected", pointer)
        if rest[0] == "#" or rest in ("//", "/*"):
            self._fail("there are no comments in JSON; use a 'note' key, or YAML", pointer)
        if rest[0] == "'":
            self._fail("strings stand in double quotes", pointer)
        self._fail(f"{wanted} was expected, got {shown(rest[0])}", pointer)

    def _value(self, pointer: str, depth: int) -> Any:
        start = self._at
        at = self._position(start)
        self._reading.positions.setdefault(pointer, at)
        self._reading.count(pointer, depth, at)
        letter = self._text[start : start + 1]
        if letter == "{":
            return self._mapping(pointer, depth + 1)
        if letter == "[":
            return self._list(pointer, depth + 1)
        if letter == '"':
            text = self._string(pointer)
            self._reading.weigh(text, pointer, at)
            return text
        if found := _NUMBER.match(self._text, start):
            self._at = found.end()
            whole, fraction, exponent = found.groups()
            if self._text[self._at : self._at + 1].isalnum():
                self._fail(
                    f"a number was expected, got {shown(found[0] + self._text[self._at])}; an "
                    "amount such as 20k stands in quotes",
                    pointer,
                    start,
                )
            if fraction or exponent:
                return self._reading.real(found[0], pointer, at)
            return self._reading.integer(whole, 10, pointer, at)
        return self._constant(pointer)

    def _constant(self, pointer: str) -> bool | None:
        found = _WORD.match(self._text, self._at)
        if found is None:
            self._unexpected("a value", pointer)
        word = found[0]
        if word in _CONSTANTS:
            self._at = found.end()
            return _CONSTANTS[word]
        if word.lstrip("+-") in ("NaN", "Infinity"):
            self._at = found.end()
            message = f"{word} is no value in a graph; numbers are finite"
            self._reading.refuse(message, pointer, self._position(found.start()))
            return None
        if word in _OTHER_SPELLINGS:
            self._fail(f"write {_OTHER_SPELLINGS[word]}, not {word}", pointer)
        self._fail(f"a value was expected, got {shown(word)}; strings stand in quotes", pointer)

    def _string(self, pointer: str) -> str:
        start = self._at
        try:
            value, self._at = _scan_string(self._text, start + 1, True)
        except JSONDecodeError as error:
            if error.msg.startswith("Unterminated"):
                self._fail("the string that begins here is not closed", pointer, start)
            if error.msg.startswith("Invalid control"):
                self._fail(
                    "a line break or control character in the string that begins here; is its "
                    "closing quote missing?",
                    pointer,
                    start,
                )
            self._fail(f"{error.msg.removesuffix(' at')} in a string", pointer, error.pos)
        try:
            value.encode()
        except UnicodeEncodeError:
            self._fail("half of a surrogate pair in a string", pointer, start)
        return value

    def _list(self, pointer: str, depth: int) -> list[Any]:
        opened = self._at
        items: list[Any] = []
        self._at += 1
        if self._space() == "]":
            self._at += 1
            return items
        while True:
            items.append(self._value(child(pointer, len(items)), depth))
            if self._closed("]", opened, pointer):
                return items

    def _mapping(self, pointer: str, depth: int) -> dict[str, Any]:
        opened = self._at
        items: dict[str, Any] = {}
        self._at += 1
        if self._space() == "}":
            self._at += 1
            return items
        while True:
            self._item(items, pointer, depth)
            if self._closed("}", opened, pointer):
                return items

    def _item(self, items: dict[str, Any], pointer: str, depth: int) -> None:
        at = self._position(self._at)
        self._reading.count(pointer, depth, at)
        if self._text[self._at : self._at + 1] != '"':
            self._unexpected("a key in double quotes", pointer)
        key = self._string(pointer)
        below = child(pointer, key)
        if self._space() != ":":
            self._unexpected(f"':' after the key {shown(key)}", pointer)
        self._at += 1
        twice = key in items
        if twice:
            first = self._reading.keys[below]
            self._reading.refuse(
                f"the key {shown(key)} stands twice here, first in line {first[0]}",
                below,
                at,
                mute=False,
            )
        else:
            self._reading.keys[below] = at
        if self._space() in ("{", "[") and not twice:
            self._reading.positions[below] = at
        value = self._value(below + " (again)" if twice else below, depth)
        if not twice:
            items[key] = value

    def _closed(self, mark: str, opened: int, pointer: str) -> bool:
        letter = self._space()
        if letter == mark:
            self._at += 1
            return True
        if letter == ",":
            comma = self._at
            self._at += 1
            if self._space() == mark:
                self._fail(f"a comma too many before {mark!r}", pointer, comma)
            return False
        if letter and letter in '"{[':
            self._fail("a comma is missing before this", pointer)
        line = self._position(opened)[0]
        self._unexpected(f"',' or the {mark!r} for line {line}", pointer)
