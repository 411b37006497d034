"""Text from documents and records, made safe for the place it is shown in."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

__all__ = ["cells", "clip", "for_terminal", "printable", "shown"]

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
"""What XML forbids, terminals obey, or turns the direction of the text around it."""


def shown(value: Any) -> str:
    """Any value of a record as text; what is missing is unknown."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def printable(text: str) -> str:
    """The text with every character that could do harm replaced by U+FFFD; lines end in LF."""
    return _UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def for_terminal(value: Any) -> str:
    r"""A value as one line that a terminal shows and does not obey.

    >>> for_terminal("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    text = _UNPRINTABLE.sub(_escaped, shown(value))
    return text.replace("\t", " ").replace("\r", " ").replace("\n", " ")


def _escaped(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def cells(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Me", "Mn"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def clip(text: str, width: int) -> str:
    """The text cut to a number of columns, with an ellipsis if something was cut.

    >>> clip("consolidate", 6)
    'conso…'
    """
    if cells(text) <= width:
        return text
    if width <= 0:
        return ""
    kept, used = [], 0
    for character in text:
        used += _cells(character)
        if used > width - 1:
            break
        kept.append(character)
    return "".join(kept) + "…"
