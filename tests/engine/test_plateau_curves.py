"""Decisions on recorded loss curves: early, timely, late, silent, and compared with naive ones.

The truth at a step is what the smoothed curve (means over 205 steps) still gains in the window
that follows. A decision is early if that is at least ``worth``.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from stagegraph.engine.plateau import Goal, PlateauSpec, fresh, observe
from stagegraph.engine.statistics import fit_trend, student_quantile

CURVES = sorted((Path(__file__).parents[1] / "data" / "curves").glob("*.csv"))
EVERY = 5
Curve = list[tuple[float, float]]
Detector = Callable[[Curve], float | None]


@cache
def read(path: Path) -> tuple[tuple[float, float], ...]:
    """A recorded curve as (step, loss)."""
    with path.open() as file:
        rows = list(csv.reader(file))[1:]
    return tuple((float(step), float(loss)) for step, loss in rows)


def logged(path: Path, stride: int, phase: int | None = None) -> Curve:
    """The curve as it is when only each ``stride``-th value is logged."""
    return list(read(path)[stride - 1 if phase is None else phase :: stride])


@cache
def still_to_come(path: Path, span: float) -> dict[float, float]:
    """Per step, the relative improvement that the next window really brought."""
    points = read(path)
    half = 20
    smooth = [
        sum(v for _, v in points[max(0, i - half) : i + half + 1])
        / len(points[max(0, i - half) : i + half + 1])
        for i in range(len(points))
    ]
    ahead = int(span / EVERY)
    return {
        points[i][0]: 1 - smooth[i + ahead] / smooth[i]
        for i in range(half, len(points) - ahead - half)
    }


def classify(path: Path, step: float | None, *, worth: float, span: float) -> str:
    """Early, timely (within four windows of the crossing), late, or silent."""
    truth = still_to_come(path, span)
    crossing = next((at for at, gain in truth.items() if gain < worth), None)
    if step is None:
        return "silent"
    if crossing is None or step < crossing or truth.get(step, 0.0) >= worth:
        return "early"
    return "timely" if step <= crossing + 4 * span else "late"


def equivalence(
    *, worth: float, span: float, goal: Goal = "minimize", spacing: float = 0.0
) -> Detector:
    """The detector under test: the step of its first plateau."""
    spec = PlateauSpec(goal, worth=worth, span=span, spacing=spacing)

    def detect(curve: Curve) -> float | None:
        memory = fresh(spec)
        for at, value in curve:
            memory = observe(memory, spec, at, value)
            if memory.truth:
                return at
        return None

    return detect


def reduce_lr_on_plateau(curve: Curve) -> float | None:
    """When torch's ReduceLROnPlateau would act, with its defaults: patience 10, threshold 1e-4."""
    best, bad = float("inf"), 0
    for at, value in curve:
        best, bad = (value, 0) if value < best * (1 - 1e-4) else (best, bad + 1)
        if bad > 10:
            return at
    return None


def two_points(*, worth: float, span: float) -> Detector:
    """(first - last) of the window under worth."""

    def detect(curve: Curve) -> float | None:
        for at, value in curve:
            window = [v for a, v in curve if at - span < a <= at]
            if at > span and (window[0] - value) / value < worth:
                return at
        return None

    return detect


def no_trend(*, span: float) -> Detector:
    """The slope over the window is not significant at 5 %, autocorrelation ignored."""

    def detect(curve: Curve) -> float | None:
        for at, _ in curve:
            window = [(a, v) for a, v in curve if at - span < a <= at]
            if at >= 2 * span:
                trend = fit_trend(window)
                error = trend.slope_error * math.sqrt((1 - trend.rho) / (1 + trend.rho))
                if trend.slope + student_quantile(0.95, len(window) - 2) * error > 0:
                    return at
        return None

    return detect


def counts(detector: Detector, *, stride: int, worth: float, span: float) -> dict[str, int]:
    """How many curves are decided early, timely, late, or never."""
    return dict(
        Counter(
            classify(path, detector(logged(path, stride)), worth=worth, span=span)
            for path in CURVES
        )
    )


def test_there_are_eleven_curves() -> None:
    assert len(CURVES) == 11
    assert all(len(read(path)) == 400 for path in CURVES)


@pytest.mark.parametrize(
    ("worth", "span", "stride", "expected"),
    [
        (0.08, 400, 1, {"timely": 11}),
        (0.08, 400, 5, {"timely": 11}),
        (0.06, 200, 1, {"timely": 11}),
        (0.06, 200, 5, {"timely": 11}),
        (0.05, 200, 1, {"timely": 11}),
        (0.05, 200, 5, {"timely": 11}),
        (0.04, 200, 1, {"timely": 11}),
        (0.04, 200, 5, {"timely": 7, "late": 4}),
        (0.04, 100, 2, {"timely": 11}),
    ],
)
def test_plateau_on_real_curves_is_never_early(
    worth: float, span: float, stride: int, expected: dict[str, int]
) -> None:
    detector = equivalence(worth=worth, span=span)
    assert counts(detector, stride=stride, worth=worth, span=span) == expected


@pytest.mark.parametrize(
    ("detector", "per_density"),
    [
        pytest.param(equivalence(worth=0.01, span=200), (0, 0, 0), id="equivalence"),
        pytest.param(reduce_lr_on_plateau, (11, 3, 0), id="ReduceLROnPlateau"),
        pytest.param(two_points(worth=0.01, span=200), (11, 11, 11), id="two points"),
        pytest.param(no_trend(span=200), (2, 4, 9), id="no significant trend"),
    ],
)
def test_with_a_percent_still_to_come_only_equivalence_keeps_silent(
    detector: Detector, per_density: tuple[int, int, int]
) -> None:
    # On none of these curves does the gain of the next 200 steps fall under 1 %.
    for stride, early in zip((1, 2, 5), per_density, strict=True):
        got = counts(detector, stride=stride, worth=0.01, span=200)
        assert got.get("early", 0) == early


def moves(*, worth: float, span: float) -> list[float]:
    """How many windows a decision moves when every fifth value is logged, from each first one."""
    detect = equivalence(worth=worth, span=span)
    distances = []
    for path in CURVES:
        dense = detect(logged(path, 1))
        for phase in range(5):
            sparse = detect(logged(path, 5, phase))
            assert dense is not None
            assert sparse is not None
            distances.append(abs(dense - sparse) / span)
    return distances


def test_logging_five_times_as_often_moves_no_decision_by_more_than_a_window() -> None:
    assert max(moves(worth=0.08, span=400)) <= 1


@pytest.mark.parametrize(("worth", "span"), [(0.08, 400), (0.06, 200), (0.05, 200), (0.04, 200)])
def test_with_a_declared_rate_denser_logging_moves_no_decision(worth: float, span: float) -> None:
    detect = equivalence(worth=worth, span=span, spacing=25)
    for path in CURVES:
        for phase in range(5):
            sparse = detect(read(path)[phase::5])
            dense = detect(read(path)[phase:])
            assert sparse is not None
            assert dense == sparse


def test_with_eight_observations_and_more_noise_few_decisions_move_further() -> None:
    distances = moves(worth=0.06, span=200)
    assert sum(d > 1 for d in distances) <= 4
    assert max(distances) <= 1.3


def test_maximize_mirrors_every_decision() -> None:
    for path in CURVES:
        curve = logged(path, 1)
        mirrored = [(at, -value) for at, value in curve]
        there = equivalence(worth=0.06, span=200, goal="maximize")(mirrored)
        assert there == equivalence(worth=0.06, span=200)(curve)


def test_units_of_the_loss_and_of_progress_change_no_decision() -> None:
    for path in CURVES:
        curve = logged(path, 1)
        here = equivalence(worth=0.06, span=200)(curve)
        assert here is not None
        bits = [(at, value / math.log(2)) for at, value in curve]
        assert equivalence(worth=0.06, span=200)(bits) == here
        tokens = [(at * 1024, value) for at, value in curve]
        assert equivalence(worth=0.06, span=200 * 1024)(tokens) == here * 1024
