"""FSDP2 on a device: it deepens as one process does, and goes on from what it saved bit for bit."""

import shutil

import pytest

from tests.cuda.placing import CUDA
from tests.sharded.ranks import Checks, Ranks

growing = Checks("tests.sharded.checks_growing")
saving = Checks("tests.sharded.checks_saving")
script = Checks("tests.sharded.script")

CLOSE = 1e-5
"""Moments and weights after a few updates; the two add up in other orders."""


@pytest.fixture(
    scope="module",
    params=[pytest.param("gloo", marks=pytest.mark.slow), pytest.param("nccl", marks=CUDA)],
)
def one(request):
    ranks = Ranks(1, timeout=150, backend=request.param)
    yield ranks
    ranks.close()


def test_a_run_goes_on_from_what_fsdp2_has_saved(one, tmp_path):
    """It grows at 4 and at 11: from before, from inside of the ramp, and from after both."""
    (tmp_path / "whole").mkdir()
    (whole,) = one.run(script.main, tmp_path / "whole")
    assert (whole["steps"], whole["blocks"], whole["from"]) == (14, 4, 0)
    for at in (3, 6, 12):
        kept = tmp_path / f"from-{at}"
        shutil.copytree(tmp_path / f"whole/at-{at:03}", kept / f"at-{at:03}")
        assert one.run(script.main, kept) == [{**whole, "from": at}]


def test_snapshots_gates_and_random_numbers_are_saved_too(one, tmp_path):
    ((state, ends),) = one.run(saving.saved_in_mid_run, tmp_path / "kept", 0.2)
    assert one.run(saving.taken_up, tmp_path / "kept", state, 0.2) == [ends]


@pytest.mark.parametrize("fields", [{"how": "identity"}, {"how": "stack", "state": "copy"}])
def test_it_grows_as_in_one_process(one, fields):
    assert max(one.run(growing.grown_as_in_one_process, fields, {}, "adamw")) <= CLOSE


def test_gates_factors_and_freezes_hold_as_in_one_process(one):
    assert max(one.run(growing.held_as_in_one_process)) <= CLOSE


def test_it_grows_under_a_policy_of_mixed_precision(one):
    one.run(growing.grown_in_low_precision, "identity")


def test_it_returns_to_before_a_growth(one):
    one.run(growing.returned_to_before_the_growth)


@pytest.mark.parametrize("kind", ["vote", "forward"])
def test_what_fails_is_undone(one, kind):
    """Also in the middle of a pass, with blocks gathered."""
    one.run(growing.what_fails_is_undone, kind)
