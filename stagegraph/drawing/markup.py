"""XML and HTML built from values: what is not markup already is escaped, always."""

from __future__ import annotations

import html
from collections.abc import Iterable

from stagegraph.drawing.clean import printable

__all__ = ["Content", "Markup", "element", "escaped", "joined", "number"]


class Markup(str):
    """Text that is markup already; every other string is user text and is escaped."""

    __slots__ = ()


Content = Markup | str | None

_VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})


def escaped(text: str) -> Markup:
    """User text as markup."""
    return text if isinstance(text, Markup) else Markup(html.escape(printable(text), quote=True))


def joined(parts: Iterable[Content], between: str = "") -> Markup:
    """Several pieces as one; ``between`` is markup."""
    return Markup(between.join(escaped(part) for part in parts if part is not None))


def element(
    tag: str, *content: Content, attributes: dict[str, str | float | None] | None = None
) -> Markup:
    """One element.

    >>> element("text", "a < b", attributes={"x": 1.5, "class": None})
    '<text x="1.5">a &lt; b</text>'

    Args:
        tag: Its name.
        content: What is inside, in order.
        attributes: By name; those that are ``None`` are left out.
    """
    written = "".join(
        f' {name}="{number(value) if isinstance(value, int | float) else escaped(value)}"'
        for name, value in (attributes or {}).items()
        if value is not None
    )
    inside = joined(content)
    if inside:
        return Markup(f"<{tag}{written}>{inside}</{tag}>")
    return Markup(f"<{tag}{written}>" if tag in _VOID else f"<{tag}{written}></{tag}>")


def number(value: float) -> str:
    """A coordinate, with at most two decimals.

    >>> number(3.0), number(-0.001), number(2.346)
    ('3', '0', '2.35')
    """
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
