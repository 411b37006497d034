"""Guard strings that YAML cut to pieces, because they stand in braces without quotes.

In ``{target: grow, when: plateau(val_loss, worth=1%), at_most: 2}`` the comma of the guard ends
the value, and ``worth=1%)`` becomes a key of its own with nothing behind it.
"""

from __future__ import annotations

from typing import Any

from stagegraph.schema.reading import Reading, child

__all__ = ["find_unquoted"]

_MOST_PIECES = 40


def find_unquoted(reading: Reading) -> None:
    """Note each text that lost its end at a comma, and mute its pieces."""
    if reading.empty or "(" in reading.text:
        _search(reading, reading.data, "")


def _search(reading: Reading, data: Any, pointer: str) -> None:
    if isinstance(data, dict):
        _in_mapping(reading, list(data.items()), pointer)
        for key, value in data.items():
            _search(reading, value, child(pointer, key))
    elif isinstance(data, list):
        _in_list(reading, data, pointer)
        for at, value in enumerate(data):
            _search(reading, value, child(pointer, at))


def _open(text: Any) -> int:
    return text.count("(") - text.count(")") if isinstance(text, str) else 0


def _is_quoted(reading: Reading, pointer: str) -> bool:
    """Whether a text is written in quotes, so that no comma can have cut it."""
    position = reading.positions.get(pointer)
    if position is None or not 0 < position[0] <= len(reading.lines):
        return False
    line, column = position
    return reading.lines[line - 1][column - 1 : column] in ('"', "'")


def _in_mapping(reading: Reading, items: list[tuple[str, Any]], pointer: str) -> None:
    for at, (key, value) in enumerate(items):
        missing = _open(value)
        if missing <= 0 or _is_quoted(reading, child(pointer, key)):
            continue
        pieces = [value]
        for piece, nothing in items[at + 1 : at + _MOST_PIECES]:
            if nothing is not None or child(pointer, piece) not in reading.empty:
                break
            pieces.append(piece)
            missing += _open(piece)
            if missing <= 0:
                break
        if len(pieces) > 1:
            _refuse(reading, child(pointer, key), f"{key}: ", pieces)
            reading.muted.update(child(pointer, piece) for piece in pieces[1:])


def _in_list(reading: Reading, items: list[Any], pointer: str) -> None:
    for at, value in enumerate(items):
        missing = _open(value)
        if missing <= 0 or _is_quoted(reading, child(pointer, at)):
            continue
        pieces = [value]
        for piece in items[at + 1 : at + _MOST_PIECES]:
            if not isinstance(piece, str):
                break
            pieces.append(piece)
            missing += _open(piece)
            if missing <= 0:
                _refuse(reading, child(pointer, at), "", pieces)
                places = range(at, at + len(pieces))
                reading.muted.update(child(pointer, place) for place in places)
                break


def _refuse(reading: Reading, pointer: str, key: str, pieces: list[str]) -> None:
    whole = ", ".join(pieces)
    reading.refuse(
        "a comma inside braces or brackets ended this text at "
        f'{pieces[0]!r}; put the whole of it in quotes: {key}"{whole}"',
        pointer,
        reading.positions.get(pointer),
    )
