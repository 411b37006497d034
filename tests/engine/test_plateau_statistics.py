"""The trend and its error, against numbers by hand and by simulation."""

from __future__ import annotations

import math
import random

import pytest

from stagegraph.engine.statistics import fit_trend, student_quantile


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),
    [
        (0.5, 4, 0.0),
        (0.95, 1, 6.3138),
        (0.95, 2, 2.9200),
        (0.95, 3, 2.3534),
        (0.975, 5, 2.5706),
        (0.99, 10, 2.7638),
        (0.999, 7, 4.7853),
        (0.95, 30, 1.6973),
    ],
)
def test_student_quantile_agrees_with_the_printed_tables(
    probability: float, freedom: int, quantile: float
) -> None:
    assert student_quantile(probability, freedom) == pytest.approx(quantile, abs=1e-4)


def test_trend_by_hand() -> None:
    # Residuals of the line 3 + 2x are 1 -1 -1 1 1 -1 -1 1 minus what a line can take of them: none.
    signs = (1, -1, -1, 1, 1, -1, -1, 1)
    trend = fit_trend([(x, 3 + 2 * x + s) for x, s in zip(range(-7, 1), signs, strict=True)])
    assert trend.slope == pytest.approx(2)
    assert trend.level == pytest.approx(3)
    assert trend.rho == pytest.approx(-1 / 8 + 2 / 8)
    inflation = (1 + 1 / 8) / (1 - 1 / 8)
    assert trend.slope_error == pytest.approx(math.sqrt(8 / 6 / 42 * inflation))
    assert trend.freedom == math.floor(8 / inflation) - 2


def test_bend_is_the_slope_of_the_parabola_beyond_the_line() -> None:
    trend = fit_trend([(x / 8, (x / 8) ** 2) for x in range(-8, 1)])
    assert trend.slope == pytest.approx(-1)  # of x² over [-1, 0]
    assert trend.slope + trend.bend == pytest.approx(0, abs=1e-12)  # of x² at 0
    assert trend.bend_error == pytest.approx(0, abs=1e-12)


def test_zero_throughout_has_no_trend() -> None:
    trend = fit_trend([(float(x), 0.0) for x in range(8)])
    assert (trend.slope, trend.slope_error, trend.level) == (0, 0, 0)


@pytest.mark.parametrize(
    ("n", "rho", "at_most"),
    [(8, 0.0, 0.05), (8, 0.3, 0.08), (16, 0.0, 0.05), (16, 0.3, 0.08), (16, 0.5, 0.10)],
)
def test_the_bound_is_missed_about_as_rarely_as_claimed(n: int, rho: float, at_most: float) -> None:
    rng = random.Random(n)
    missed = 0
    for _ in range(2000):
        noise = rng.gauss(0, 1)
        points = []
        for i in range(n):
            points.append((float(i), noise))
            noise = rho * noise + math.sqrt(1 - rho * rho) * rng.gauss(0, 1)
        trend = fit_trend(points)
        missed += trend.slope + student_quantile(0.95, trend.freedom) * trend.slope_error < 0
    assert missed / 2000 <= at_most
