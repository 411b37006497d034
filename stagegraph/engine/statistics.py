"""The statistics of a trend in few, noisy, autocorrelated observations, on plain floats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

__all__ = ["Trend", "fit_trend", "student_quantile"]

_MAX_RHO = 0.95


@dataclass(frozen=True, slots=True)
class Trend:
    """A straight line through observations, and how well it is known.

    Attributes:
        slope: Change of y per unit of x.
        slope_error: Standard error of the slope, autocorrelation included.
        level: The line at ``x = 0``.
        level_error: Standard error of the level, autocorrelation included.
        rho: Lag-1 autocorrelation of the residuals, corrected for small-sample bias; 0 to 0.95.
        freedom: Degrees of freedom, from the effective number of observations; at least 1.
        bend: How much the slope at ``x = 0`` differs from ``slope`` if a parabola is fitted.
        bend_error: Standard error of the bend, autocorrelation included.
    """

    slope: float
    slope_error: float
    level: float
    level_error: float
    rho: float
    freedom: int
    bend: float
    bend_error: float


def fit_trend(points: Sequence[tuple[float, float]]) -> Trend:
    r"""Least squares through ``(x, y)`` points, in order of x.

    With residuals :math:`e_i` and their lag-1 autocorrelation :math:`r`, whose bias under a fitted
    line is about :math:`-2/n` for noise that is nearly white,

    .. math::
        \rho = r + \frac{2}{n}, \quad
        n_\text{eff} = n \frac{1 - \rho}{1 + \rho}, \quad
        \mathrm{SE}^2 = \frac{\sum e_i^2}{(n - 2) \sum (x_i - \bar x)^2} \frac{1 + \rho}{1 - \rho},

    to be read with Student's t of :math:`n_\text{eff} - 2` degrees of freedom. The bend comes from
    the component of y along the parabola orthogonal to the line, with the same correction.

    >>> trend = fit_trend([(x / 4, 1 - x / 2) for x in range(-8, 1)])
    >>> round(trend.slope, 9), round(trend.level, 9), round(trend.slope_error, 9)
    (-2.0, 1.0, 0.0)

    Args:
        points: At least six points, not all at one x; y finite, of any size.

    Returns:
        The trend.

    References:
        Effective sample size: Bayley and Hammersley, J. R. Stat. Soc. Suppl. 8 (1946) 184-197.
        Bias of r: Kendall, Biometrika 41 (1954) 403-404; Marriott and Pope, ibid. 390-402.
    """
    n = len(points)
    assert n >= 6, "a trend needs six points"
    scale = max(abs(y) for _, y in points)
    if scale == 0.0:
        return Trend(0.0, 0.0, 0.0, 0.0, 0.0, n - 2, 0.0, 0.0)
    mean_x = math.fsum(x for x, _ in points) / n
    xs = [x - mean_x for x, _ in points]
    ys = [y / scale for _, y in points]
    mean_y = math.fsum(ys) / n
    sxx = sum(x * x for x in xs)
    slope = sum(x * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / sxx
    rests = [y - mean_y - slope * x for x, y in zip(xs, ys, strict=True)]
    squares, rho = _noise(rests, lost=2)
    inflation = (1 + rho) / (1 - rho)
    variance = squares / (n - 2) * inflation

    # The parabola x² - skew·x - sxx/n is orthogonal to 1 and to x.
    skew = sum(x * x * x for x in xs) / sxx
    arc = [x * x - skew * x - sxx / n for x in xs]
    norm = sum(a * a for a in arc)
    bend = bend_error = 0.0
    if norm > 1e-9 * sxx * sxx / n:
        amount = sum(a * e for a, e in zip(arc, rests, strict=True)) / norm
        lean = -2 * mean_x - skew
        left, rho_left = _noise([e - amount * a for e, a in zip(rests, arc, strict=True)], lost=3)
        bend = amount * lean
        bend_error = abs(lean) * math.sqrt(left / (n - 3) / norm * (1 + rho_left) / (1 - rho_left))
    return Trend(
        slope=slope * scale,
        slope_error=math.sqrt(variance / sxx) * scale,
        level=(mean_y - slope * mean_x) * scale,
        level_error=math.sqrt(variance * (1 / n + mean_x * mean_x / sxx)) * scale,
        rho=rho,
        freedom=max(1, int(n / inflation) - 2),
        bend=bend * scale,
        bend_error=bend_error * scale,
    )


def _noise(rests: Sequence[float], *, lost: int) -> tuple[float, float]:
    """Sum of squares of residuals, and their autocorrelation freed of its bias.

    Args:
        rests: The residuals.
        lost: How many coefficients were fitted; the bias is about ``-lost / n``.
    """
    n = len(rests)
    squares = sum(e * e for e in rests)
    if squares <= 1e-28 * n:  # rounding alone
        return squares, 0.0
    r = sum(a * b for a, b in pairwise(rests)) / squares
    return squares, min(max(r + lost / n, 0.0), _MAX_RHO)


@lru_cache(maxsize=1024)
def student_quantile(probability: float, freedom: int) -> float:
    """Where Student's t distribution reaches a probability.

    The distribution function has a closed form for whole degrees of freedom (Abramowitz and Stegun,
    26.7.3 and 26.7.4); it is inverted by bisection.

    >>> round(student_quantile(0.95, 6), 4), round(student_quantile(0.95, 1), 4)
    (1.9432, 6.3138)

    Args:
        probability: At least 0.5, under 1.
        freedom: Degrees of freedom, at least 1.
    """
    assert 0.5 <= probability < 1
    assert freedom >= 1
    low, high = 0.0, 1.0
    while _student_probability(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        if _student_probability(middle, freedom) < probability:
            low = middle
        else:
            high = middle
    return high


def _student_probability(t: float, freedom: int) -> float:
    """The probability that Student's t is under ``t``, which is not negative."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(odd, freedom - 1, 2):
        total += term
        term *= cosine * cosine * (k + 1) / (k + 2)
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + inside / 2
