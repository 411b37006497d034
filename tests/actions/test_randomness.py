import random

import torch

from stagegraph.actions.randomness import (
    RandomState,
    fixed_direction,
    preserved_randomness,
    seed_all,
)


def draw():
    return random.random(), float(torch.rand(1))


def test_a_state_brings_the_same_numbers_back():
    state = RandomState.capture()
    first = draw()
    assert draw() != first
    state.restore()
    assert draw() == first
    RandomState.unpack(state.pack()).restore()
    assert draw() == first


def test_what_is_drawn_inside_is_not_missed():
    seed_all(3)
    first = draw()
    seed_all(3)
    with preserved_randomness():
        draw()
    assert draw() == first


def test_forked_seeds_differ_per_attempt_and_state():
    seed_all(1)
    one = RandomState.capture()
    seed_all(2)
    two = RandomState.capture()
    seeds = [one.forked_seed(1), one.forked_seed(2), two.forked_seed(1)]
    assert len(set(seeds)) == 3 and one.forked_seed(1) == seeds[0]


def test_a_fixed_direction_is_nobodys_number():
    state = torch.get_rng_state()
    like = torch.zeros(2, 3, dtype=torch.bfloat16)
    direction = fixed_direction(like)
    assert torch.equal(direction, fixed_direction(like)) and direction.dtype == torch.bfloat16
    assert torch.equal(state, torch.get_rng_state())
