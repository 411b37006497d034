"""The optimizer's state of new blocks."""

import copy

import pytest
import torch
from torch.optim import SGD, Adagrad, AdamW

from stagegraph.actions import TorchActor
from tests.actions.growth.wide import grow
from tests.actions.models import Model, batch, deepen, train


def grown(state, make=AdamW, **options):
    model = Model()
    optimizer = make(model.parameters(), lr=0.01, **options)
    train(model, optimizer, 3)
    certificate = grow(TorchActor(model, optimizer, probe=batch()), deepen(add=1, state=state))
    assert certificate["state"] == state
    new, template = model.blocks[2].fc1.weight, model.blocks[1].fc1.weight
    begun, old = optimizer.state.get(new, {}), optimizer.state[template]
    assert not {id(value) for value in begun.values()} & {id(value) for value in old.values()}
    found = copy.deepcopy((dict(begun), dict(old)))
    train(model, optimizer, 2)
    return found


def test_fresh_is_none():
    new, _ = grown("fresh")
    assert new == {}


def test_a_copy_is_the_templates_and_its_own():
    new, old = grown("copy")
    assert torch.equal(new["exp_avg"], old["exp_avg"])
    assert int(new["step"]) == 3


def test_fill_v_has_no_direction_and_the_templates_size():
    new, _ = grown("fill_v", betas=(0.9, 0.999))
    assert not bool(new["exp_avg"].any())
    assert new["exp_avg_sq"].unique().numel() == 1
    assert float(new["exp_avg_sq"][0, 0]) > 0
    assert int(new["step"]) == 3


def test_old_step_is_zeros_at_the_templates_step():
    new, _ = grown("old_step")
    assert not bool(new["exp_avg_sq"].any()) and int(new["step"]) == 3


@pytest.mark.parametrize("state", ["fresh", "copy", "fill_v", "old_step"])
@pytest.mark.parametrize(
    ("make", "options"),
    [(SGD, {"momentum": 0.9}), (Adagrad, {}), (AdamW, {"fused": True}), (AdamW, {"foreach": True})],
)
def test_the_next_steps_work(state, make, options):
    new, old = grown(state, make, **options)
    assert all(not isinstance(v, torch.Tensor) or v.shape == old[k].shape for k, v in new.items())
