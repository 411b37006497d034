"""What docs/kinds/unstable.md says was measured, in fewer runs and with room for chance."""

import pytest

from tests.engine.unstable_curves import NOISES, Hurt, detected, false_alarms, spec_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("spreads", "noise", "most"),
    [
        (1.5, "normal", 0.2),
        (1.5, "student", 0.2),
        (1.5, "lognormal", 0.5),
        (1.5, "autocorrelated", 0.2),
        (2.0, "normal", 0.1),
        (2.0, "student", 0.1),
        (2.0, "lognormal", 0.3),
        (2.0, "autocorrelated", 0.1),
        (3.0, "normal", 0.05),
        (3.0, "student", 0.05),
        (3.0, "lognormal", 0.2),
        (3.0, "autocorrelated", 0.05),
    ],
)
def test_false_alarms_per_ten_thousand_healthy_steps(spreads, noise, most):
    found = false_alarms(spec_of(spreads=spreads), NOISES[noise], runs=200, steps=1000, seed=7)
    assert found <= most


@pytest.mark.parametrize("noise", NOISES)
def test_what_lasts_is_told_and_a_single_step_is_not(noise):
    spec = spec_of()
    assert detected(spec, NOISES[noise], Hurt(0.3), runs=100, seed=8) >= 0.93
    assert detected(spec, NOISES[noise], Hurt(1.0, 1), runs=100, seed=9) <= 0.05
    assert detected(spec, NOISES[noise], Hurt(0.5, 10), runs=100, seed=10) <= 0.05


def test_fewer_spreads_find_more():
    shares = [
        detected(spec_of(spreads=spreads), NOISES["normal"], Hurt(0.3), runs=100, seed=11)
        for spreads in (1.5, 2.0, 3.0, 4.0)
    ]
    assert shares == sorted(shares, reverse=True) and shares[0] > 0.98 and shares[-1] < 0.5
