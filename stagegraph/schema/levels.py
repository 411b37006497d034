"""Levels: numbers of an activity that stand still, or move along a curve while it is held."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    model_validator,
)

from stagegraph.progress import Duration
from stagegraph.schema.amounts import NUMBER_TEXT, Count, Factor, Number
from stagegraph.schema.base import Model, Seq

__all__ = [
    "CountLevel",
    "Curve",
    "Level",
    "MovingCount",
    "MovingLevel",
    "MovingNumber",
    "Points",
    "Setting",
    "Shape",
    "bounds_of",
    "rests_at_zero",
]

Shape = Literal["linear", "cosine", "exponential"]
"""A curve by its name."""


def _pair(value: Any) -> Any:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(
            "a point of a curve is [share of 'over', share of the way], such as [0.3, 0.1]"
        )
    return tuple(value)


def _within(point: tuple[float, float]) -> tuple[float, float]:
    for number in point:
        if not 0 <= number <= 1:
            raise ValueError(f"both numbers of a point lie between 0 and 1, got {number:g}")
    return point


Point = Annotated[
    tuple[Number, Number],
    AfterValidator(_within),
    BeforeValidator(_pair),
    WithJsonSchema(
        {
            "type": "array",
            "items": {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, NUMBER_TEXT]},
            "minItems": 2,
            "maxItems": 2,
        }
    ),
]
"""Which share of ``over`` has passed, and which share of the way from start to end is then gone."""


def _joined(points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    if points[0] != (0.0, 0.0) or points[-1] != (1.0, 1.0):
        first, last = (f"[{x:g}, {y:g}]" for x, y in (points[0], points[-1]))
        raise ValueError(
            "a curve of points goes from [0, 0] to [1, 1], so that a ramp begins at its start and "
            f"reaches its end; this one goes from {first} to {last}"
        )
    for (before, _), (after, _) in pairwise(points):
        if after <= before:
            raise ValueError(
                "the shares of 'over' in a curve of points rise from point to point, but "
                f"{after:g} follows {before:g}"
            )
    return points


Points = Annotated[Seq[Point], Field(min_length=2, max_length=100), AfterValidator(_joined)]
"""A curve by its points, straight between two of them; from [0, 0] to [1, 1]."""


def _curve_tag(value: object) -> str:
    return "points" if isinstance(value, list | tuple) else "shape"


Curve = Annotated[
    Annotated[Shape, Tag("shape")] | Annotated[Points, Tag("points")], Discriminator(_curve_tag)
]
"""How a ramp goes from ``start`` to ``end``; each begins at the one and reaches the other
exactly."""


class MovingLevel(Model):
    """A number that moves from ``start`` to ``end``."""

    start: Factor
    """The number at the first update."""
    end: Factor
    """The number when complete, held until the stage is left."""
    over: Duration
    """How long it takes."""
    curve: Curve = "linear"
    """The shape: ``linear``, ``cosine``, ``exponential``, or points."""

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
    """Where a level begins and where it ends; no curve leaves what lies between the two.

    >>> bounds_of(2.0)
    (2.0, 2.0)
    """
    return (level.start, level.end) if isinstance(level, MovingLevel) else (level, level)


def rests_at_zero(level: float | MovingLevel) -> bool:
    """Whether a level is 0 anywhere but at one end of its way."""
    if not isinstance(level, MovingLevel):
        return level == 0
    if isinstance(level.curve, str):
        return False
    return any(level.start + (level.end - level.start) * way == 0 for _, way in level.curve[1:-1])


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
