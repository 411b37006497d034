"""A rollback brings a device's numbers back bit for bit, what dropout draws there included."""

import torch

from tests.actions.models import devices_numbers
from tests.session.test_returning import everything, numbers, rolled_back


def test_weights_moments_and_random_numbers_return(device, same_bits):
    training, (kept, drawn) = rolled_back("data: skip, lr_factor: 0.5", bad=7, device=device)
    assert everything(training) == kept
    assert numbers() == drawn
    assert len(training.model.blocks) == 2
    before = numbers()
    training.update()
    moved = numbers()
    if device.type == "cuda":
        assert devices_numbers(), "dropout drew nothing on the device"
        assert moved[2:] != before[2:] and moved[0] == before[0]
    else:
        assert moved[0] != before[0]


def test_a_fork_draws_other_masks_and_the_same_ones_each_time(device):
    seen = []
    for _ in range(2):
        training, (_, drawn) = rolled_back("data: skip, rng: fork", bad=7, device=device)
        assert numbers() != drawn
        seen.append(torch.rand(4, device=training.device).tolist())
    assert seen[0] == seen[1]
