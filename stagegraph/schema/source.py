"""Source: where a document came from, and where in it everything stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Position", "Source"]

Position = tuple[int, int]
"""Line and column, both from 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A document's file and the positions of its values.

    It says nothing about meaning: two graphs that differ in their source alone are equal, so all
    sources are equal and hash alike.

    Attributes:
        file: The file's name, ``"<text>"``, or ``"<python>"`` for a graph made in Python.
        text: The author's bytes as text; empty if it was made in Python.
        positions: JSON pointer to line and column.
    """

    file: str = "<python>"
    text: str = ""
    positions: Mapping[str, Position] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Source)

    def __hash__(self) -> int:
        return 0

    def position(self, pointer: str) -> Position | None:
        """Where a value stands, or the nearest value around it that has a place."""
        while pointer not in self.positions:
            if not pointer:
                return None
            pointer = pointer.rpartition("/")[0]
        return self.positions[pointer]
