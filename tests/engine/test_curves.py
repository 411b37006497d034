"""Curves begin at their start, end at their end, and jump nowhere; numbers by hand."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagegraph.engine.curves import curve_value
from tests.engine.driving import Run

BENT = ((0.0, 0.0), (0.25, 0.1), (0.5, 0.1), (0.75, 0.9), (1.0, 1.0))
CURVES = ["linear", "cosine", "exponential", BENT]


@pytest.mark.parametrize("curve", CURVES, ids=str)
def test_every_curve_begins_and_ends_exactly_and_without_a_jump(curve):
    """A sketch's exponential ramp reached 0.993 and then jumped to 1."""
    assert curve_value(curve, 0.1, 0.7, 0) == 0.1
    assert curve_value(curve, 0.1, 0.7, 1) == 0.7
    assert curve_value(curve, 0.1, 0.7, Fraction(10**30 - 1, 10**30)) == 0.7
    values = [curve_value(curve, 0.0, 1.0, Fraction(n, 1000)) for n in range(1001)]
    assert max(b - a for a, b in pairwise(values)) < 0.006
    assert values == sorted(values)


def test_points_are_met_exactly_and_joined_by_straight_lines():
    shares = [0.0, 0.125, 0.25, 0.4, 0.5, 0.625, 0.75, 0.875, 1.0]
    ways = [0.0, 0.05, 0.1, 0.1, 0.1, 0.5, 0.9, 0.95, 1.0]
    found = [curve_value(BENT, 0.0, 1.0, share) for share in shares]
    assert found == pytest.approx(ways, abs=1e-15)
    assert [found[n] for n in (2, 4, 6)] == [0.1, 0.1, 0.9]
    assert curve_value(BENT, 4.0, 2.0, 0.5) == 3.8


def test_points_may_go_back_on_the_way():
    dip = ((0.0, 0.0), (0.5, 0.8), (0.6, 0.4), (1.0, 1.0))
    assert curve_value(dip, 0.0, 1.0, 0.55) == pytest.approx(0.6)


@st.composite
def points(draw):
    inner = sorted(draw(st.sets(st.floats(1e-9, 1 - 1e-9), max_size=6)))
    ways = [draw(st.floats(0, 1)) for _ in inner]
    return ((0.0, 0.0), *zip(inner, ways, strict=True), (1.0, 1.0))


@given(points(), st.floats(0, 1))
def test_points_never_leave_what_lies_between_start_and_end(curve, share):
    assert 0.0 <= curve_value(curve, 0.0, 1.0, share) <= 1.0


def test_a_ramp_of_points_is_read_at_elapsed_updates():
    run = Run("""
initial: w
stages:
  w:
    kind: warmup
    during: [{type: lr_ramp, start: 0, end: 1, over: 4 steps, curve: [[0,0],[0.5,0.1],[1,1]]}]
    next: done
  done: {kind: final}
""").step(5)
    assert run.actor.boundaries[0].held[0].value == 0.0
    assert [v["main:w.during[0]"] for v in run.actor.tuned] == [0.05, 0.1, 0.55]
    assert run.moves == [(4, "main:w.next")]
