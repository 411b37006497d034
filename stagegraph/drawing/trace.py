"""A guard's trace: what it was made of, and what each part saw, as HTML or as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stagegraph.drawing.clean import for_terminal, shown
from stagegraph.drawing.history import mapping, sequence
from stagegraph.drawing.markup import Markup, element, joined

__all__ = ["trace_html", "trace_lines"]

DEEPEST = 40

_MARKS = {True: ("✓", "true"), False: ("✗", "false"), None: ("?", "unknown")}


def trace_html(trace: Any, *, depth: int = 0) -> Markup:
    """A trace as a nested list."""
    if depth > DEEPEST:
        return element("ul", element("li", "…"))
    node = mapping(trace)
    if not node:
        return element("ul", element("li", shown(trace)))
    mark, word = _verdict(node)
    sees = mapping(node.get("sees"))
    item = element(
        "li",
        element("span", mark, attributes={"class": f"mark {word}", "title": word}),
        " ",
        element("code", shown(node.get("guard"))),
        joined(
            element("span", f"{key} = {shown(value)}", attributes={"class": "sees"})
            for key, value in sees.items()
        ),
        joined(trace_html(part, depth=depth + 1) for part in sequence(node.get("of"))),
    )
    return element("ul", item)


def trace_lines(trace: Any, *, depth: int = 0) -> Iterator[str]:
    """A trace as indented lines, safe for a terminal."""
    if depth > DEEPEST:
        yield "  " * depth + "…"
        return
    node = mapping(trace)
    if not node:
        yield "  " * depth + for_terminal(trace)
        return
    mark, _ = _verdict(node)
    sees = ", ".join(f"{key} = {shown(value)}" for key, value in mapping(node.get("sees")).items())
    known = f"  [{for_terminal(sees)}]" if sees else ""
    yield f"{'  ' * depth}{mark} {for_terminal(node.get('guard'))}{known}"
    for part in sequence(node.get("of")):
        yield from trace_lines(part, depth=depth + 1)


def _verdict(node: Mapping[str, Any]) -> tuple[str, str]:
    value = node.get("value")
    return _MARKS[value if isinstance(value, bool) else None]
