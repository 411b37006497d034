"""More of sharded models, each checked against the same in one process."""

import pytest

from tests.sharded.ranks import Checks, Ranks

checks = Checks("tests.sharded.checks_more")
CLOSE = 1e-6

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ranks")]


@pytest.fixture(scope="module")
def four():
    ranks = Ranks(4, timeout=180.0)
    yield ranks
    ranks.close()


def test_a_mesh_of_two_axes(four, tmp_path):
    assert max(four.run(checks.over_a_mesh_of_two_axes, tmp_path / "kept")) <= CLOSE


def test_a_smaller_mesh_after_the_forward_pass(four):
    assert max(four.run(checks.onto_a_smaller_mesh_after_the_forward_pass)) <= CLOSE


@pytest.mark.parametrize("how", ["identity", "stack"])
def test_a_published_model(two, how):
    assert max(two.run(checks.a_published_model_grows, how)) <= CLOSE


def test_accumulation_and_recomputation(two):
    assert max(two.run(checks.accumulated_and_recomputed)) <= CLOSE


def test_a_script_that_turned_the_reduction_off(two):
    two.run(checks.without_a_reduction_at_the_boundary)


def test_a_trial(two):
    assert max(two.run(checks.a_trial_is_held)) <= CLOSE


def test_many_growths_and_checkpoints(two, tmp_path):
    first, second = two.run(checks.trained_under_many_growths, tmp_path)
    assert first == second
