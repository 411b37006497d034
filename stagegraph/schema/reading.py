"""Reading: what a reader of text found: plain data, the place of everything, and defects."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from stagegraph.errors import Defect
from stagegraph.schema.limits import (
    MAX_DEPTH,
    MAX_GUARD_TOKENS,
    MAX_GUARDS,
    MAX_INTEGER,
    MAX_NODES,
)
from stagegraph.schema.source import Position

__all__ = ["Reading", "Unreadable", "child", "shown"]


_MARKS = re.compile(r"[(<>=]")
_TOKENS = re.compile(r"\w+|[-+*/(,=<>]")
_GUARD_PLACES = re.compile(r"/(?:when|left|right|of|of/\d+)\Z")


class Unreadable(Exception):
    """Nothing after this point can be read; the defect is in the reading already."""


@dataclass(slots=True)
class Reading:
    """What was read from one text.

    Attributes:
        text: The text.
        data: Mappings, lists, strings, numbers, booleans and nulls.
        positions: Where each value stands, by JSON pointer: of a mapping or list in a mapping
            its key, of all else the value.
        keys: Where each key stands, by the pointer of its value.
        defects: What was wrong with the text itself.
        muted: Pointers below which the data is known to be wrong, so that nothing more is to be
            said about them.
        empty: Pointers of values that were left out, as in ``when:`` with nothing behind it.
        nodes: How many keys and values there were so far.
        guards: How many strings that may be guards.
        guard_tokens: How many names, numbers and marks in them.
        complete: Whether all of the text was read; if not, the data is not to be used.
    """

    text: str = ""
    data: Any = None
    positions: dict[str, Position] = field(default_factory=dict)
    keys: dict[str, Position] = field(default_factory=dict)
    defects: list[Defect] = field(default_factory=list)
    muted: set[str] = field(default_factory=set)
    empty: set[str] = field(default_factory=set)
    nodes: int = 0
    guards: int = 0
    guard_tokens: int = 0
    complete: bool = True
    _lines: list[str] | None = None

    @property
    def lines(self) -> list[str]:
        """The lines of the text."""
        if self._lines is None:
            self._lines = self.text.split("\n")
        return self._lines

    def refuse(
        self, message: str, pointer: str, position: Position | None, *, mute: bool = True
    ) -> None:
        """Note a defect of the value at ``pointer`` and go on."""
        line, column = position or (None, None)
        self.defects.append(Defect(message, pointer, line, column))
        if mute:
            self.muted.add(pointer)

    def stop(self, message: str, pointer: str, position: Position | None) -> Unreadable:
        """Note a defect after which nothing can be read; to be raised."""
        self.refuse(message, pointer, position)
        self.complete = False
        return Unreadable()

    def count(self, pointer: str, depth: int, position: Position | None) -> None:
        """Count one more node, ``depth`` mappings and lists deep.

        Raises:
            Unreadable: One more, or one deeper, than is read.
        """
        self.nodes += 1
        if depth > MAX_DEPTH:
            raise self.stop(
                f"nested deeper than {MAX_DEPTH} mappings and lists",
                "/".join(pointer.split("/")[:9]),
                position,
            )
        if self.nodes > MAX_NODES:
            raise self.stop(
                f"more than {MAX_NODES:,} keys and values in one document", "", position
            )

    def weigh(self, text: str, pointer: str, position: Position | None) -> None:
        """Count a string by what it would cost to read it as a guard.

        Raises:
            Unreadable: More than are read.
        """
        if not _MARKS.search(text) and not _GUARD_PLACES.search(pointer):
            return
        self.guards += 1
        self.guard_tokens += len(_TOKENS.findall(text))
        if self.guards > MAX_GUARDS or self.guard_tokens > MAX_GUARD_TOKENS:
            raise self.stop(
                f"more than {MAX_GUARDS:,} guards, or {MAX_GUARD_TOKENS:,} names and numbers in "
                "them, in one document",
                pointer,
                position,
            )

    def integer(self, digits: str, base: int, pointer: str, position: Position) -> int:
        """A whole number within bounds."""
        value = int(digits, base) if len(digits) <= 64 else MAX_INTEGER + 1
        if abs(value) <= MAX_INTEGER:
            return value
        self.refuse(f"the number {shown(digits)} is out of bounds (1e18)", pointer, position)
        return 0

    def real(self, digits: str, pointer: str, position: Position) -> float:
        """A finite number."""
        value = float(digits)
        if value - value == 0.0:
            return value
        self.refuse(f"the number {shown(digits)} is too large", pointer, position)
        return 0.0


def child(pointer: str, key: str | int) -> str:
    """The JSON pointer one step further down (RFC 6901).

    >>> child("/stages", "a/b")
    '/stages/a~1b'
    """
    if isinstance(key, int):
        return f"{pointer}/{key}"
    return f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"


def shown(value: Any, width: int = 60) -> str:
    """A value as a message quotes it: short, and with everything unprintable escaped.

    >>> shown("x" * 100, 12)
    "'xxxxxxxx…'"
    >>> shown([1, 2]), shown({"a": 1}), shown(None), shown(True)
    ('a list', 'a mapping', 'null', 'true')
    """
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            text = ascii(value) if not value.isprintable() else repr(value)
            return text if len(text) <= width else f"{text[: width - 3]}…{text[0]}"
        case list() | tuple():
            return "a list" if value else "an empty list"
        case dict():
            return "a mapping" if value else "an empty mapping"
        case int() | float():
            return repr(value) if abs(value) <= MAX_INTEGER else "a huge number"
        case _:
            return f"a Python {type(value).__name__}"
