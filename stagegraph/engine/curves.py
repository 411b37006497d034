"""Curves: how a ramp goes from its start to its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction

from stagegraph.schema.activities import Curve

__all__ = ["curve_value"]

_EXPONENT = 5.0


def _linear(share: float) -> float:
    return share


def _cosine(share: float) -> float:
    return 0.5 * (1.0 - math.cos(math.pi * share))


def _exponential(share: float) -> float:
    """``1 - exp(-5 share)``, normalised so that it ends at 1 without a jump."""
    return math.expm1(-_EXPONENT * share) / math.expm1(-_EXPONENT)


_SHAPES: Mapping[Curve, Callable[[float], float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "exponential": _exponential,
}


def curve_value(curve: Curve, start: float, end: float, share: float | Fraction) -> float:
    """The value of a ramp.

    Args:
        curve: Its shape.
        start: The value at share 0.
        end: The value at share 1 and after it, exactly.
        share: Which part of it is over.

    >>> [round(curve_value("cosine", 0.0, 1.0, n / 4), 3) for n in range(5)]
    [0.0, 0.146, 0.5, 0.854, 1.0]
    """
    if share >= 1:
        return end
    if share <= 0:
        return start
    return start + (end - start) * _SHAPES[curve](float(share))
