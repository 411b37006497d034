"""A sharded model grows in depth as the same model in one process does."""

import pytest

from tests.sharded.ranks import Checks

pytestmark = pytest.mark.xdist_group("ranks")

checks = Checks("tests.sharded.checks_growing")
CLOSE = 1e-6


def slow(*arguments):
    return pytest.param(*arguments, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("fields", "optimizer"),
    [
        ({"how": "identity"}, "adamw"),
        slow({"how": "stack", "state": "copy"}, "adamw"),
        slow({"how": "interleave", "state": "fill_v"}, "adamw"),
        slow({"how": "stack", "state": "copy"}, "sgd"),
        slow({"how": "stack", "state": "fresh"}, "adagrad"),
        slow({"how": "stack", "state": "fill_v"}, "adagrad"),
    ],
)
def test_it_grows_as_in_one_process(two, fields, optimizer):
    assert max(two.run(checks.grown_as_in_one_process, fields, {}, optimizer)) <= CLOSE


@pytest.mark.slow
def test_blocks_that_stay_gathered_after_the_forward_pass_grow_too(two):
    policy = {"reshard_after_forward": False}
    found = two.run(checks.grown_as_in_one_process, {"how": "stack"}, policy, "adamw")
    assert max(found) <= CLOSE


@pytest.mark.slow
def test_it_grows_twice(two):
    assert max(two.run(checks.grown_twice_and_in_the_middle)) <= CLOSE


@pytest.mark.slow
def test_gates_factors_and_freezes_hold_as_in_one_process(two):
    assert max(two.run(checks.held_as_in_one_process)) <= CLOSE


def test_what_was_frozen_from_the_beginning_learns_in_full_precision_later(two):
    two.run(checks.frozen_from_the_first_update)


@pytest.mark.parametrize("how", ["identity", slow("stack")])
def test_it_grows_under_a_policy_of_mixed_precision(two, how):
    first, second = two.run(checks.grown_in_low_precision, how)
    assert first == second


def test_new_blocks_have_the_policies_of_their_siblings(two):
    two.run(checks.policies_are_read_from_the_sibling)


@pytest.mark.slow
def test_new_blocks_are_cut_along_the_axes_that_their_siblings_are_cut_along(two):
    assert max(two.run(checks.shards_lie_where_the_siblings_lie)) <= CLOSE


@pytest.mark.slow
def test_it_grows_without_a_root_and_without_units(two):
    assert max(two.run(checks.without_a_root_or_without_units)) <= CLOSE


@pytest.mark.parametrize(
    "kind", ["vote", slow("tolerance"), slow("zero"), slow("build"), slow("forward")]
)
def test_what_fails_is_undone(two, kind):
    two.run(checks.what_fails_is_undone, kind)


@pytest.mark.slow
def test_it_returns_to_before_a_growth(two):
    two.run(checks.returned_to_before_the_growth)


@pytest.mark.slow
def test_parameters_are_counted_whole_and_an_evaluation_changes_nothing(two):
    block = 6 * 4 + 36 + 42 + 35 + 36 + 1
    params = 2 * block + 11 * 6 + 12
    found = two.run(checks.after_an_evaluation_the_same)
    assert found == [(params, {"main:grow": block})] * 2


@pytest.mark.slow
def test_an_update_is_rehearsed_and_taken_back(two):
    two.run(checks.an_update_is_rehearsed)


@pytest.mark.slow
def test_who_steps_in_the_backward_pass_does_not_step_in_a_look(two):
    two.run(checks.who_steps_in_the_backward_pass_does_not_step_in_a_look)


@pytest.mark.slow
def test_random_numbers_go_on(two):
    two.run(checks.dropout_differs_and_ranks_stay_in_step)


@pytest.mark.slow
def test_new_blocks_begin_alike_on_all_ranks(two):
    assert max(two.run(checks.begun_anew_and_noisy)) <= CLOSE


def test_a_parameter_shared_with_the_rest_is_refused(two):
    two.run(checks.shared_over_blocks_is_refused)
