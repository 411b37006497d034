"""Curves: how a ramp goes from its start to its end."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from stagegraph.schema.levels import Curve, Shape

__all__ = ["curve_value"]

_EXPONENT = 5.0


def _linear(share: float) -> float:
    return share


def _cosine(share: float) -> float:
    return 0.5 * (1.0 - math.cos(math.pi * share))


def _exponential(share: float) -> float:
    """``1 - exp(-5 share)``, normalised so that it ends at 1 without a jump."""
    return math.expm1(-_EXPONENT * share) / math.expm1(-_EXPONENT)


_SHAPES: Mapping[Shape, Callable[[float], float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "exponential": _exponential,
}


def _between(points: Sequence[tuple[float, float]], share: float) -> float:
    """Straight from point to point, and on a point exactly that."""
    right = bisect_right(points, share, key=lambda point: point[0])
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    way = y0 + (y1 - y0) * ((share - x0) / (x1 - x0))
    return min(max(way, min(y0, y1)), max(y0, y1))


def curve_value(curve: Curve, start: float, end: float, share: float | Fraction) -> float:
    """The value of a ramp.

    Args:
        curve: Its shape, or its points from (0, 0) to (1, 1).
        start: The value at share 0.
        end: The value at share 1 and after it, exactly.
        share: Which part of it is over.

    >>> [round(curve_value("cosine", 0.0, 1.0, n / 4), 3) for n in range(5)]
    [0.0, 0.146, 0.5, 0.854, 1.0]
    >>> bent = ((0.0, 0.0), (0.5, 0.1), (1.0, 1.0))
    >>> [round(curve_value(bent, 0.0, 1.0, n / 4), 3) for n in range(5)]
    [0.0, 0.05, 0.1, 0.55, 1.0]
    """
    if share >= 1:
        return end
    if share <= 0:
        return start
    passed = float(share)
    if passed >= 1:
        return end  # so near to 1 that no float lies between
    way = _SHAPES[curve](passed) if isinstance(curve, str) else _between(curve, passed)
    return start + (end - start) * way
