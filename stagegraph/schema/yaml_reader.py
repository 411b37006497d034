"""YAML read as JSON with better manners.

The scalars are those of YAML 1.2's core schema: ``on`` and ``yes`` are strings, ``1e-3`` is a
number, ``012`` is twelve, a date is a string. Anchors, aliases, tags, merge keys and duplicate
keys are refused, and so is a second document. Keys are always strings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from stagegraph.schema.limits import MAX_BYTES_SLOW
from stagegraph.schema.reading import Reading, Unreadable, child, shown
from stagegraph.schema.source import Position

__all__ = ["CORE_NUMBER", "read_yaml"]

_LOADER: Any = getattr(yaml, "CSafeLoader", None)
_INTEGER = re.compile(r"[-+]?[0-9]+", re.ASCII)
_OCTAL = re.compile(r"0o[0-7]+", re.ASCII)
_HEX = re.compile(r"0x[0-9a-fA-F]+", re.ASCII)
_REAL = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
CORE_NUMBER = re.compile(
    rf"(?:{_REAL.pattern}|{_OCTAL.pattern}|{_HEX.pattern}|[-+]?\.(?:inf|nan))\Z", re.ASCII | re.I
)
"""What YAML 1.2 reads as a number; a string that looks so is written in quotes."""

_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", re.ASCII)
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}

_REMEDIES = (
    (
        "mapping values are not allowed",
        "a ':' followed by a space inside an unquoted text, or a key that is indented wrongly; put "
        "a text with ': ' in it in quotes",
    ),
    (
        "found a tab character",
        "a tab; YAML is indented with spaces",
    ),
    (
        "found character that cannot start any token",
        "a character no unquoted text can begin with (a tab, @, ` or %); indent with spaces, and "
        "put such a text in quotes",
    ),
    (
        "did not find expected ',' or ']'",
        "a list opened with '[' is not closed, or a comma is missing in it",
    ),
    (
        "did not find expected ',' or '}'",
        "a mapping opened with '{' is not closed, or a comma is missing in it; put a guard string "
        "inside braces in quotes",
    ),
    (
        "did not find expected key",
        "a key was expected; look for a wrong indentation or an unclosed quote just above",
    ),
    (
        "did not find expected '-' indicator",
        "a list item was expected; look for a wrong indentation just above",
    ),
    (
        "could not find expected ':'",
        "a key without its ':'; look for a wrong indentation or an unclosed quote just above",
    ),
    ("found unexpected end of stream", "a quote that was opened here is never closed"),
    ("found unexpected ':'", "a ':' inside an unquoted text; put the text in quotes"),
    ("found unknown escape character", "an unknown escape; write \\\\ for a backslash, or use '…'"),
)


def read_yaml(text: str) -> Reading:
    """Read a YAML text into plain data with the place of everything in it.

    >>> read_yaml("on: 1e-3").data
    {'on': 0.001}
    >>> read_yaml("a: [1, x]").positions["/a/1"]
    (1, 8)
    """
    reading = Reading(text)
    if _LOADER is None and len(text) > MAX_BYTES_SLOW:
        reading.stop(
            f"over {MAX_BYTES_SLOW:,} characters, and PyYAML is installed without libyaml; "
            "install a PyYAML wheel, or write the document as JSON",
            "",
            None,
        )
        return reading
    try:
        reading.data = _Reader(reading).document()
    except Unreadable:
        pass
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if error.problem == "found unexpected end of stream":
            mark = error.context_mark or mark
        position = (mark.line + 1, mark.column + 1) if mark else None
        reading.stop(_remedy(error), "", position)
    except yaml.reader.ReaderError as error:
        reading.stop(*_unprintable(text, error))
    return reading


def _remedy(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "it cannot be read"
    context = error.context_mark
    opened = ""
    if (
        context
        and error.problem_mark
        and "end of stream" not in problem
        and context.line != error.problem_mark.line
    ):
        opened = f" (it begins in line {context.line + 1})"
    for beginning, remedy in _REMEDIES:
        if problem.startswith(beginning):
            return f"not YAML: {remedy}{opened}"
    return f"not YAML: {problem}{opened}"


def _unprintable(text: str, error: yaml.reader.ReaderError) -> tuple[str, str, Position | None]:
    for at, letter in enumerate(text):
        if not letter.isprintable() and (letter in "\x7f\ufffe\uffff" or _is_control(letter)):
            line = text.count("\n", 0, at)
            column = at - (text.rfind("\n", 0, at) + 1)
            return (
                f"the character U+{ord(letter):04X} cannot stand in YAML",
                "",
                (line + 1, column + 1),
            )
    return f"not YAML: {error.reason}", "", None


def _is_control(letter: str) -> bool:
    return (
        (letter < " " and letter not in "\t\n\r")
        or "\x80" <= letter <= "\x9f"
        or ("\ud800" <= letter <= "\udfff")
    )


def _at(event: Any) -> Position:
    return event.start_mark.line + 1, event.start_mark.column + 1


class _Reader:
    """One pass over the events of one text."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._events: Iterator[Any] = iter(
            yaml.parse(reading.text, Loader=_LOADER or yaml.SafeLoader)
        )

    def document(self) -> Any:
        """The single document of the stream; ``None`` if there is none."""
        value = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._reading.stop(
                        "a second document begins here; a file holds one graph", "", _at(event)
                    )
                value = self._value(next(self._events), "", 0)
        return value

    def _value(self, event: Any, pointer: str, depth: int) -> Any:
        at = _at(event)
        self._reading.positions.setdefault(pointer, at)
        self._reading.count(pointer, depth, at)
        if isinstance(event, yaml.AliasEvent):
            self._reading.refuse(
                f"the alias *{event.anchor} is not read here; write the value out, or name an "
                "activity in 'activities:' and stages in 'graphs:' to use them twice",
                pointer,
                at,
            )
            return None
        if event.anchor is not None:
            self._reading.refuse(
                f"the anchor &{event.anchor} is not read here; leave it out", pointer, at
            )
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._reading.refuse(f"the tag {tag} is not read here; leave it out", pointer, at)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, pointer, at)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(pointer, depth + 1)
        return self._mapping(pointer, depth + 1)

    def _list(self, pointer: str, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, child(pointer, len(items)), depth))
        return items

    def _mapping(self, pointer: str, depth: int) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event, pointer, depth)
            following = next(self._events)
            if key is None:
                self._value(following, f"{pointer}/", depth)
                continue
            below = child(pointer, key)
            at = _at(event)
            if key in items:
                first = self._reading.keys[below]
                self._reading.refuse(
                    f"the key {shown(key)} stands twice here, first in line {first[0]}",
                    below,
                    at,
                    mute=False,
                )
                self._skip(following, below, depth)
                continue
            self._reading.keys[below] = at
            if not isinstance(following, yaml.ScalarEvent | yaml.AliasEvent):
                self._reading.positions[below] = at
            items[key] = self._value(following, below, depth)
        return items

    def _key(self, event: Any, pointer: str, depth: int) -> str | None:
        at = _at(event)
        self._reading.count(pointer, depth, at)
        if not isinstance(event, yaml.ScalarEvent):
            self._reading.refuse("a key is a text, not a list, mapping or alias", pointer, at)
            self._skip(event, pointer, depth)
            return None
        if event.anchor is not None or event.tag is not None:
            self._reading.refuse("a key has no anchor and no tag; leave it out", pointer, at)
            return None
        value: str = event.value
        if value == "<<" and event.implicit[0]:
            self._reading.refuse(
                "merge keys (<<) are not read; write the keys out, or use 'activities:' or "
                "'graphs:'",
                pointer,
                at,
            )
            return None
        return value

    def _skip(self, event: Any, pointer: str, depth: int) -> None:
        """Pass over a value that has no place in the data; what it holds is not judged."""
        level = 0
        while True:
            self._reading.count(pointer, depth + level, _at(event))
            if isinstance(event, yaml.CollectionStartEvent):
                level += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                level -= 1
            if level == 0:
                return
            event = next(self._events)

    def _scalar(self, event: Any, pointer: str, at: Position) -> Any:
        text: str = event.value
        self._reading.weigh(text, pointer, at)
        if not event.implicit[0]:
            return text
        if text in _WORDS:
            if text == "":
                self._reading.empty.add(pointer)
            return _WORDS[text]
        if not (text[0] in "+-." or "0" <= text[0] <= "9"):
            return text
        if _INTEGER.fullmatch(text):
            return self._reading.integer(text, 10, pointer, at)
        if _REAL.fullmatch(text):
            return self._reading.real(text, pointer, at)
        if _OCTAL.fullmatch(text):
            return self._reading.integer(text[2:], 8, pointer, at)
        if _HEX.fullmatch(text):
            return self._reading.integer(text[2:], 16, pointer, at)
        if _NOT_FINITE.fullmatch(text):
            self._reading.refuse(f"{text} is no value in a graph; numbers are finite", pointer, at)
            return 0.0
        return text
