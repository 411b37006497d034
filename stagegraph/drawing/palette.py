"""Colours: one per kind of stage, for light and for dark surroundings, told apart by anybody."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CURVES", "KINDS", "OTHER", "Ink", "ink_of", "kind_class"]


class Ink(NamedTuple):
    """The colours of one kind.

    Attributes:
        line: Border, edge and band; readable on white and on near-black.
        fill: Inside of a box on a light page.
        dark: Inside of a box on a dark page.
        name: Text in this colour on a light page.
        pale: Text in this colour on a dark page.
    """

    line: str
    fill: str
    dark: str
    name: str
    pale: str


KINDS: dict[str, Ink] = {
    "train": Ink("#3b7fc4", "#eef5fc", "#16283b", "#1f5c99", "#8fc1f2"),
    "grow": Ink("#1f9d6b", "#e9f8f1", "#11301f", "#0e7048", "#6fd9ac"),
    "trial": Ink("#12a3b4", "#e6f7f9", "#0f2d32", "#0b727e", "#6fd5e0"),
    "warmup": Ink("#e08a1e", "#fdf4e6", "#35260f", "#9a5a06", "#f4bd73"),
    "settle": Ink("#c75d9b", "#fcf0f7", "#361a2a", "#97326d", "#eca3cd"),
    "consolidate": Ink("#7f65cc", "#f3f0fc", "#251d3d", "#5a3fae", "#bcabf5"),
    "final": Ink("#6b7686", "#f1f3f6", "#22272f", "#48515e", "#b4bdca"),
    "interrupt": Ink("#cf3f4f", "#fdf0f1", "#3a171b", "#a92434", "#f39aa4"),
}
"""By kind; interrupts have theirs."""

OTHER = Ink("#8a8f98", "#f5f5f6", "#26282c", "#55595f", "#b9bdc4")
"""For a kind that came in later."""

CURVES = ("#2f6fb5", "#d9771a", "#178a5d", "#a94d84", "#6a51b8", "#0f8a99", "#8c6d1f", "#c0392b")
"""For curves, in order."""


def ink_of(kind: str) -> Ink:
    """The colours of a kind."""
    return KINDS.get(kind, OTHER)


def kind_class(kind: str) -> str:
    """The CSS class of a kind."""
    return f"k-{kind}" if kind in KINDS else "k-other"
