"""Levels: numbers of an activity that stand still, or move along a curve while it is held."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Tag, model_validator

from stagegraph.progress import Duration
from stagegraph.schema.amounts import Count, Factor, Number
from stagegraph.schema.base import Model

__all__ = [
    "CountLevel",
    "Curve",
    "Level",
    "MovingCount",
    "MovingLevel",
    "MovingNumber",
    "Setting",
    "bounds_of",
]

Curve = Literal["linear", "cosine", "exponential"]
"""The shape of a ramp; each begins at ``start`` and reaches ``end`` exactly."""


class MovingLevel(Model):
    """A number that moves from ``start`` to ``end``."""

    start: Factor
    """The number at the first update."""
    end: Factor
    """The number when complete, held until the stage is left."""
    over: Duration
    """How long it takes."""
    curve: Curve = "linear"
    """The shape."""

    @model_validator(mode="after")
    def _moves(self) -> MovingLevel:
        if self.start == self.end:
            raise ValueError(
                f"this level goes from {self.start:g} to {self.end:g}; write the number alone"
            )
        return self


def _level_tag(value: object) -> str:
    return "moving" if isinstance(value, dict | MovingLevel) else "level"


Level = Annotated[
    Annotated[Factor, Tag("level")] | Annotated[MovingLevel, Tag("moving")],
    Discriminator(_level_tag),
]
"""A number, or ``{start, end, over, curve}``."""


def bounds_of(level: float | MovingLevel) -> tuple[float, float]:
    """Where a level begins and where it ends; every curve lies strictly between the two.

    >>> bounds_of(2.0)
    (2.0, 2.0)
    """
    return (level.start, level.end) if isinstance(level, MovingLevel) else (level, level)


class MovingNumber(MovingLevel):
    """Any number that moves from ``start`` to ``end``."""

    start: Number
    """The number at the first update."""
    end: Number
    """The number when complete, held until the stage is left."""


class MovingCount(MovingLevel):
    """A whole number that moves from ``start`` to ``end``."""

    start: Count
    """The number at the first update."""
    end: Count
    """The number when complete, held until the stage is left."""


Setting = Annotated[
    Annotated[Number, Tag("level")] | Annotated[MovingNumber, Tag("moving")],
    Discriminator(_level_tag),
]
"""Any number, or ``{start, end, over, curve}``."""

CountLevel = Annotated[
    Annotated[Count, Tag("level")] | Annotated[MovingCount, Tag("moving")],
    Discriminator(_level_tag),
]
"""A whole number from 1, or ``{start, end, over, curve}``."""
