"""A sharded model is saved by all its ranks, and goes on at as many ranks or at another number."""

import logging

import pytest
import torch

from tests.actions.models import accept, back_to, boundary
from tests.sharded.ranks import Checks
from tests.sharded.small import HELD, everything, listed, made, plain, train

pytestmark = pytest.mark.xdist_group("ranks")

checks = Checks("tests.sharded.checks_saving")


def furthest(one, other):
    assert one.keys() == other.keys()
    return max(
        float((torch.tensor(one[key]) - torch.tensor(other[key])).abs().max()) for key in one
    )


def test_it_goes_on_bit_for_bit_at_as_many_ranks(two, tmp_path):
    saved = two.run(checks.saved_in_mid_run, tmp_path / "kept", 0.2)
    assert saved[0] == saved[1]
    assert two.run(checks.taken_up, tmp_path / "kept", saved[0][0], 0.2) == [
        ends for _, ends in saved
    ]


def test_it_goes_on_in_one_process_that_shards_nothing(two, tmp_path, caplog):
    (state, (end, returned)), _ = two.run(checks.saved_in_mid_run, tmp_path / "kept", 0.0)
    model, optimizer, actor = made(plain(seed=99))
    actor.load_state_dict(state)
    with caplog.at_level(logging.WARNING, "stagegraph"):
        actor.load_sharded(tmp_path / "kept")
    assert "was saved at 2 ranks, and here are 1" in caplog.text
    actor.hold(HELD, {"main:grow#1": 0.5})
    train(model, optimizer, range(5, 9), part=everything)
    assert furthest(listed(model, optimizer), end) <= 1e-6
    actor.transact(boundary(9, restore=back_to()), accept)
    train(model, optimizer, range(3, 5), part=everything)
    assert furthest(listed(model, optimizer), returned) <= 1e-6


@pytest.mark.slow
def test_it_goes_on_sharded_over_one_rank(two, one, tmp_path):
    (state, ends), _ = two.run(checks.saved_in_mid_run, tmp_path / "kept", 0.0)
    (found,) = one.run(checks.taken_up, tmp_path / "kept", state, 0.0)
    assert max(map(furthest, found, ends)) <= 1e-6


def test_what_is_not_whole_or_not_alike_is_refused_on_all_ranks(two, tmp_path):
    two.run(checks.ranks_that_differ, tmp_path / "kept")


@pytest.mark.slow
def test_another_optimizer_is_refused(two, tmp_path):
    two.run(checks.another_optimizer_is_refused, tmp_path / "kept")


def test_a_checkpoint_of_one_process_cannot_hold_shards(two):
    two.run(checks.a_plain_checkpoint_is_refused)
