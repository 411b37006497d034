"""A growth that fails on a device leaves no trace: contents, identities, random numbers."""

import pytest
import torch
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel

from stagegraph.actions import TorchActor
from tests.actions.growth import injection
from tests.actions.growth.test_injection import OPERATIONS, SPACES
from tests.actions.models import (
    Model,
    alpha_ramp,
    batch,
    boundary,
    digest,
    freeze,
    growth,
    lr_factor,
    snapshot,
)
from tests.cuda.placing import cases

CASES = cases(OPERATIONS, on_cpu=["widen, split"], slow=True)


def training_on(device):
    def train(model, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(5, 3, 4, device=device)).pow(2).sum().backward()
            optimizer.step()

    return train


def test_what_is_compared_knows_the_devices_random_numbers(device):
    model = Model().to(device)
    before = digest(model)
    assert digest(model) == before
    torch.rand(1, device=device)
    assert digest(model) != before


@pytest.mark.parametrize(("device", "name"), CASES)
def test_it_is_as_if_it_had_not_been_at_any_call(device, name):
    _fail(device, name, injection.calls, points=12)


@pytest.mark.parametrize(("device", "name"), CASES)
def test_it_is_as_if_it_had_not_been_at_any_operation(device, name):
    _fail(device, name, injection.operations, points=8)


def _fail(device, name, failing, *, points):
    make, action = OPERATIONS[name]
    train, model = training_on(device), make().to(device)
    optimizer = AdamW(model.parameters(), lr=0.01, fused=True)
    actor = TorchActor(
        model,
        optimizer,
        probe=batch().to(device),
        ema=AveragedModel(model),
        spaces=SPACES,
    )
    train(model, optimizer, 2)
    blended = action.blends
    growing = boundary(
        deeds=[snapshot(), growth(action)],
        held=[
            *([alpha_ramp()] if blended else []),
            freeze("inp", "bn", norms="eval"),
            lr_factor(0.5, "blocks.*"),
        ],
        alphas={"main:grow#1": 0.0} if blended else {},
    )
    injection.check(model, optimizer, actor, growing, failing, points=points, train=train)
