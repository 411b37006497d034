"""How much the host's learning rate fell over a window."""

import math

import pytest

from stagegraph.engine.host_rates import fall, follow
from stagegraph.progress import Progress


def rates_of(rate, updates):
    rates = ()
    for update in range(updates):
        rates = follow(rates, Progress(step=update), rate(update))
    return rates


def test_a_decay_is_told_from_the_begin_of_the_window_to_its_end():
    seen = fall(rates_of(lambda update: 0.1 * 0.9**update, 31), "steps", 20.0)
    assert seen == pytest.approx({"from": 0.1 * 0.9**20, "to": 0.1 * 0.9**30, "fell": 1 - 0.9**10})


def test_a_decay_is_told_though_a_restart_ended_it_within_the_window():
    """The rate at the end of the window is higher than at its begin; it had fallen all the same."""
    rates = rates_of(lambda update: 0.05 * (1 + math.cos(math.pi * (update % 30) / 30)), 38)
    assert rates[-1].rate > 0.08
    seen = fall(rates, "steps", 22.0)
    assert seen is not None and seen["to"] < 0.001 and seen["fell"] > 0.9


def test_a_rate_that_only_rises_or_stays_has_not_fallen():
    assert fall(rates_of(lambda update: 0.01 * (1 + update), 30), "steps", 10.0) is None
    assert fall(rates_of(lambda update: 0.01, 30), "steps", 10.0) is None
