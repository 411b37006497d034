"""``stagegraph diff A B``: what differs in meaning; spelling, notes and order of keys do not."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stagegraph.cli.output import paint, say, say_json
from stagegraph.cli.reading import GRAPH_HELP, read_graph
from stagegraph.drawing.clean import for_terminal
from stagegraph.progress import Duration
from stagegraph.schema.base import Model
from stagegraph.schema.guard_text import format_guard
from stagegraph.schema.guards import GUARD_CALLS, All, Any_, Compare, Not

__all__ = ["Difference", "add_arguments", "differences", "run"]

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("a", metavar="A", help=GRAPH_HELP)
    parser.add_argument("b", metavar="B", help="the graph to compare it with")
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="how to write the differences"
    )
    parser.add_argument("--exit-code", action="store_true", help="exit with 1 if they differ")


def run(arguments: argparse.Namespace) -> int:
    """Compare two graphs and write what differs.

    Returns:
        0; with ``--exit-code`` 1 if they differ.
    """
    found = list(differences(read_graph(arguments.a), read_graph(arguments.b)))
    if arguments.format == "json":
        say_json([{key: getattr(d, key) for key in Difference.__slots__} for d in found])
    else:
        for difference in found:
            say(paint(for_terminal(str(difference)), difference.kind))
        say(f"{len(found)} difference{'' if len(found) == 1 else 's'} in meaning")
    return 1 if found and arguments.exit_code else 0


def differences(before: Any, after: Any, pointer: str = "") -> Iterator[Difference]:
    """What differs between two graphs, or two parts of them, in the order of the document."""
    if before == after:
        return
    if _opens(before) and _opens(after):
        yield from _inside(_parts(before), _parts(after), pointer)
    elif isinstance(before, tuple) and isinstance(after, tuple):
        yield from _inside(_keyed(before), _keyed(after), pointer)
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
    parts = {name: getattr(value, name) for name in fields if name not in _NO_MEANING}
    return {name: part for name, part in parts.items() if part is not None}


def _keyed(items: tuple[Any, ...]) -> dict[str, Any]:
    return {str(index): item for index, item in enumerate(items)}


def _one(kind: Literal["added", "removed", "changed"], at: str, was: Any, now: Any) -> Difference:
    before = None if was is None else _text(was)
    return Difference(kind, at, before, None if now is None else _text(now))


def _text(value: Any) -> str:
    if _is_guard(value):
        return format_guard(value)
    if isinstance(value, Model):
        fields = type(value).model_fields
        value = {k: part for k, part in _parts(value).items() if part != fields[k].default}
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_text(part)}" for key, part in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_text(part) for part in value) + "]"
    if isinstance(value, Duration | str):
        return str(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
