"""Differences: what two graphs, or two parts of them, say differently in meaning.

Spelling, notes and the order of keys do not count.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

from stagegraph.progress import Duration
from stagegraph.schema.base import Model
from stagegraph.schema.guard_text import format_guard
from stagegraph.schema.guards import GUARD_CALLS, All, Any_, Compare, Not

__all__ = ["Difference", "differences", "meaning", "shown"]

_GUARDS: tuple[type[Model], ...] = (All, Any_, Compare, Not, *GUARD_CALLS.values())
_NO_MEANING = frozenset({"note", "schema_"})
_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where two graphs differ.

    Attributes:
        kind: What happened on the way from the first to the second.
        pointer: JSON pointer; into the first graph for what was removed, else into the second.
        before: What the first says, as text.
        after: What the second says, as text.
    """

    kind: Literal["added", "removed", "changed"]
    pointer: str
    before: str | None = None
    after: str | None = None

    def __str__(self) -> str:
        head = f"{_SIGNS[self.kind]} {self.pointer}"
        if self.kind == "changed":
            return f"{head}: {self.before} -> {self.after}"
        return f"{head}: {self.after if self.kind == 'added' else self.before}"


def differences(before: Any, after: Any, pointer: str = "") -> Iterator[Difference]:
    """What differs between two graphs, or two parts of them, in the order of the document."""
    if before == after:
        return
    if _opens(before) and _opens(after):
        yield from _inside(_parts(before), _parts(after), pointer)
    elif isinstance(before, tuple) and isinstance(after, tuple):
        yield from _in_order(before, after, pointer)
    else:
        yield _one("changed", pointer, before, after)


def _inside(before: dict[str, Any], after: dict[str, Any], pointer: str) -> Iterator[Difference]:
    for key in dict.fromkeys((*before, *after)):
        here = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
        if key not in before:
            yield from () if after[key] == () else (_one("added", here, None, after[key]),)
        elif key not in after:
            yield from () if before[key] == () else (_one("removed", here, before[key], None),)
        else:
            yield from differences(before[key], after[key], here)


def _opens(value: Any) -> bool:
    """Whether a difference is told by what is inside, rather than by the whole."""
    return isinstance(value, Mapping) or (isinstance(value, Model) and not _is_guard(value))


def _is_guard(value: Any) -> bool:
    return isinstance(value, _GUARDS)


def _parts(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    fields = type(value).model_fields
    parts = {
        info.alias or name: getattr(value, name)
        for name, info in fields.items()
        if name not in _NO_MEANING
    }
    return {name: part for name, part in parts.items() if part is not None}


def _in_order(
    before: tuple[Any, ...], after: tuple[Any, ...], pointer: str
) -> Iterator[Difference]:
    """What differs between two lists; what only moved down because of an insertion does not."""
    was, now = [meaning(item) for item in before], [meaning(item) for item in after]
    for _, i, i_end, j, j_end in SequenceMatcher(None, was, now, autojunk=False).get_opcodes():
        pairs = min(i_end - i, j_end - j)
        for offset in range(pairs):
            here = f"{pointer}/{j + offset}"
            yield from differences(before[i + offset], after[j + offset], here)
        for index in range(i + pairs, i_end):
            yield _one("removed", f"{pointer}/{index}", before[index], None)
        for index in range(j + pairs, j_end):
            yield _one("added", f"{pointer}/{index}", None, after[index])


def _one(kind: Literal["added", "removed", "changed"], at: str, was: Any, now: Any) -> Difference:
    before = None if was is None else shown(was)
    return Difference(kind, at, before, None if now is None else shown(now))


def shown(value: Any) -> str:
    """A part of a graph as text on one line."""
    if _is_guard(value):
        return format_guard(value)
    if isinstance(value, Model):
        fields = type(value).model_fields
        plain = {info.alias or name: info.default for name, info in fields.items()}
        value = {key: part for key, part in _parts(value).items() if part != plain[key]}
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {shown(part)}" for key, part in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(shown(part) for part in value) + "]"
    if isinstance(value, Duration | str):
        return str(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def meaning(value: Any) -> Hashable:
    """What a part of a graph means; notes and spelling make no difference."""
    if isinstance(value, Model):
        parts = ((name, meaning(part)) for name, part in _parts(value).items())
        return (type(value).__name__, frozenset(parts))
    if isinstance(value, Mapping):
        return frozenset((key, meaning(part)) for key, part in value.items())
    if isinstance(value, tuple):
        return tuple(meaning(part) for part in value)
    kept: Hashable = value
    return kept
