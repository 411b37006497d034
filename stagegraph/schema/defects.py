"""All defects of a document: each mistake once, in the order of the document."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from pydantic import ValidationError

from stagegraph.errors import Defect, did_you_mean
from stagegraph.schema.guard_text import GuardTextError
from stagegraph.schema.limits import MAX_DEFECTS
from stagegraph.schema.places import Place, find_place, keys_of
from stagegraph.schema.plain import pointers
from stagegraph.schema.reading import Reading
from stagegraph.schema.source import Position, Source
from stagegraph.schema.stagegraph import StageGraph
from stagegraph.schema.wording import aim, word

__all__ = ["all_defects"]

_MOST_LOOKED_AT = 1000
"""Errors of pydantic's that are looked at; a broken megabyte may have a hundred thousand."""


def all_defects(reading: Reading, error: ValidationError | None) -> list[Defect]:
    """What the reader and the validation found, in order, and no more than is of use."""
    defects = list(reading.defects)
    left_out = 0
    if error is not None:
        defects += _from_validation(reading, error)
        left_out = max(0, error.error_count() - _MOST_LOOKED_AT)
    ordered = _in_order(reading, dict.fromkeys(defects))
    left_out += max(0, len(ordered) - MAX_DEFECTS)
    if left_out:
        return [*ordered[:MAX_DEFECTS], Defect(f"… and {left_out:,} more like these")]
    return ordered


def _from_validation(reading: Reading, error: ValidationError) -> Iterator[Defect]:
    found = [
        (item, find_place(StageGraph, reading.data, item["loc"]))
        for item in islice(error.errors(include_url=False), _MOST_LOOKED_AT)
    ]
    misspelt = _misspelt(found)
    for item, place in found:
        if _is_muted(reading, place.pointer):
            continue
        if item["type"] == "missing" and (place.pointer, place.key) in misspelt:
            continue
        yield _defect(reading, item, place)


def _misspelt(found: list[tuple[Any, Place]]) -> set[tuple[str, str | int | None]]:
    """Missing keys that stand there, misspelt: one mistake, and the unknown key says it."""
    missing: dict[str, set[str]] = {}
    for item, place in found:
        if item["type"] == "missing":
            missing.setdefault(place.pointer, set()).add(str(place.key))
    explained: set[tuple[str, str | int | None]] = set()
    for item, place in found:
        around = place.pointer.rpartition("/")[0]
        if item["type"] == "extra_forbidden" and around in missing and place.model is not None:
            hint = did_you_mean(str(place.key), keys_of(place.model))
            explained |= {(around, key) for key in missing[around] if repr(key) in hint}
    return explained


def _is_muted(reading: Reading, pointer: str) -> bool:
    while pointer:
        if pointer in reading.muted:
            return True
        pointer = pointer.rpartition("/")[0]
    return "" in reading.muted


def _defect(reading: Reading, item: Any, place: Place) -> Defect:
    message = word(item, place)
    pointer = aim(item, place)
    position: Position | None = None
    if place.is_key or item["type"] == "extra_forbidden":
        position = reading.keys.get(pointer)
    refusal = item.get("ctx", {}).get("error")
    if isinstance(refusal, GuardTextError) and isinstance(item["input"], str):
        position = _inside(reading, pointer, item["input"], refusal.column - 1)
        if position is not None:
            message = message.removeprefix(f"column {refusal.column}: ")
        else:
            message = f"in the text, {message}"
    if position is None:
        position = Source(positions=reading.positions).position(pointer)
    line, column = position or (None, None)
    return Defect(message, pointer, line, column)


def _inside(reading: Reading, pointer: str, text: str, offset: int) -> Position | None:
    """Where a character of a string stands in the file, if the string stands there as it is."""
    position = reading.positions.get(pointer)
    if position is None:
        return None
    line, column = position
    raw = reading.lines[line - 1][column - 1 :] if line <= len(reading.lines) else ""
    quote = 1 if raw[:1] in ("'", '"') else 0
    if not raw[quote:].startswith(text[:offset] if offset else text[:1]):
        return None
    return line, column + quote + offset


def _in_order(reading: Reading, defects: dict[Defect, None]) -> list[Defect]:
    if len(defects) < 2:
        return list(defects)
    if reading.positions:
        return sorted(defects, key=lambda defect: (defect.line or 0, defect.column or 0))
    order = {pointer: at for at, pointer in enumerate(pointers(reading.data))}
    return sorted(defects, key=lambda defect: order.get(defect.pointer, 0))
