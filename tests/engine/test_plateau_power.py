"""How often a plateau is told wrongly, and how soon rightly, by simulation with fixed seeds.

Windows are one unit wide. Noise is given as a share of worth, per observation.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from statistics import median

import pytest

from stagegraph.engine.plateau import PlateauSpec, fresh, observe

WORTH = 0.04
RUNS = 100
SPEC = PlateauSpec("minimize", worth=WORTH, span=1.0)
Shape = Callable[[float], float]


def fired(
    shape: Shape, *, per_window: int, noise: float, rho: float, seed: int, windows: int
) -> float | None:
    """When the plateau was told, in windows; ``rho`` is from observation to observation."""
    rng = random.Random(seed)
    memory = fresh(SPEC)
    error = rng.gauss(0, 1)
    for i in range(1, windows * per_window + 1):
        at = i / per_window
        memory = observe(memory, SPEC, at, shape(at) * (1 + noise * WORTH * error))
        if memory.truth:
            return at
        error = rho * error + math.sqrt(1 - rho * rho) * rng.gauss(0, 1)
    return None


def constant_rate(rate: float) -> Shape:
    """A loss that improves by the share ``rate`` of worth in each window, for ever."""
    return lambda t: 2 * math.exp(-rate * WORTH * t)


def share(rate: float, *, per_window: int, noise: float, rho: float) -> tuple[float, float]:
    """The share of runs that fire within ten windows, and the median of when (``inf``: never)."""
    ends = [
        fired(
            constant_rate(rate), per_window=per_window, noise=noise, rho=rho, seed=seed, windows=10
        )
        for seed in range(RUNS)
    ]
    times = [math.inf if end is None else end for end in ends]
    return sum(map(math.isfinite, times)) / RUNS, median(times)


LOGGINGS = [
    pytest.param(8, 0.0, id="8 white"),
    pytest.param(16, 0.3, id="16 correlated"),
    pytest.param(40, 0.45, id="40 correlated"),
]


@pytest.mark.parametrize(("per_window", "rho"), LOGGINGS)
@pytest.mark.parametrize("noise", [0.05, 0.1, 0.2, 0.3])
def test_it_rarely_fires_while_a_quarter_more_than_worth_is_gained(
    per_window: int, rho: float, noise: float
) -> None:
    assert share(1.5, per_window=per_window, noise=noise, rho=rho)[0] <= 0.01
    assert share(1.25, per_window=per_window, noise=noise, rho=rho)[0] <= 0.03


@pytest.mark.parametrize(("per_window", "rho"), LOGGINGS)
@pytest.mark.parametrize(
    ("noise", "half", "still"),
    [(0.05, 1.25, 1.25), (0.1, 1.5, 1.25), (0.2, 2.0, 1.25), (0.3, 3.0, 1.5)],
)
def test_it_fires_soon_on_a_plateau(
    per_window: int, rho: float, noise: float, half: float, still: float
) -> None:
    power, when = share(0.0, per_window=per_window, noise=noise, rho=rho)
    assert power == 1.0
    assert when <= still
    power, when = share(0.5, per_window=per_window, noise=noise, rho=rho)
    assert power >= 0.98
    assert when <= half


@pytest.mark.parametrize(
    ("shape", "crossing"),
    [
        pytest.param(lambda t: 1.2 * (t + 0.5) ** -0.3, 6.37, id="power law"),
        pytest.param(lambda t: 1 + 1.5 * (t + 1) ** -0.8, 3.98, id="power law over a floor"),
        pytest.param(lambda t: 1 + math.exp(-t / 3), 5.42, id="exponential"),
    ],
)
@pytest.mark.parametrize(("per_window", "rho"), [(8, 0.0), (40, 0.45)])
@pytest.mark.parametrize("noise", [0.05, 0.12, 0.3])
def test_it_is_never_early_and_always_comes_on_a_law_of_decay(
    shape: Shape, crossing: float, per_window: int, rho: float, noise: float
) -> None:
    # At the crossing the next window gains just worth.
    assert 1 - shape(crossing + 1) / shape(crossing) == pytest.approx(WORTH, rel=0.01)
    ends = [
        fired(shape, per_window=per_window, noise=noise, rho=rho, seed=seed, windows=30)
        for seed in range(30)
    ]
    times = [end for end in ends if end is not None]
    assert len(times) == len(ends)
    assert min(times) > crossing
    assert median(times) - crossing <= 6.5
