import pytest
import torch
from torch import nn

from stagegraph.actions.gates import Gates
from stagegraph.actions.growth.certificate import Measured, exactness, measure, read
from stagegraph.actions.growth.depth.stacks import insert
from stagegraph.actions.growth.operation import Committed
from tests.actions.models import Block, Model, batch, digest


def measured(**fields):
    return Measured(
        **{
            "eval": 0.0,
            "train": 0.0,
            "open": 0.0,
            "closed": 0.0,
            "scale": 1.0,
            "eps": torch.finfo(torch.float32).eps,
            **fields,
        }
    )


@pytest.mark.parametrize(
    ("change", "scale", "word"),
    [
        (0.0, 1.0, "exact"),
        (4.8e-07, 1.0, "exact up to rounding"),
        (4.8e-04, 1.0, "approximate"),
        (4.8e-04, 100.0, "exact up to rounding"),
        (float("nan"), 1.0, "approximate"),
    ],
)
def test_words_for_a_change(change, scale, word):
    assert exactness(change, measured(scale=scale)) == word


def test_reading_leaves_no_trace():
    model = Model()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    model.head.eval()
    before = digest(model)
    read(model, batch(), seed=3)
    assert digest(model) == before


def test_modes_are_read_apart_and_seeds_repeat():
    model = Model()
    one, two = read(model, batch(), seed=3), read(model, batch(), seed=3)
    assert torch.equal(one.eval, two.eval) and torch.equal(one.train, two.train)
    assert not torch.equal(one.eval, one.train)
    assert not torch.equal(one.train, read(model, batch(), seed=4).train)


class Dropping(nn.Module):
    """Draws random numbers and adds nothing."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(8, 8)
        nn.init.zeros_(self.f.weight)
        nn.init.zeros_(self.f.bias)

    def forward(self, x):
        return x + torch.dropout(self.f(x), 0.5, train=self.training)


def grown(block, at):
    model = Model()
    before = read(model, batch(), seed=3)
    insert(model.blocks, {at: block})
    untouched = digest(model)
    found = measure(
        model,
        batch(),
        before=before,
        blocks={"new": block},
        committed=Committed({p: p for p in block.parameters()}, {}, True, "", {}),
        gates=Gates(),
        seed=3,
    )
    assert digest(model) == untouched
    return found


def test_random_numbers_of_new_blocks_are_taken_aside():
    found = grown(Dropping(), 0)
    assert (found.eval, found.train) == (0.0, 0.0)
    assert found.idle == () and found.without_gradient == ()
    assert (found.num_with_gradient, found.trained) == (2, 2)


def test_a_change_is_measured_in_both_modes():
    found = grown(Block(dropout=0.0), 2)
    assert found.eval > 0.001 and found.train > 0.001 and found.open == found.eval


def test_blocks_that_are_frozen_want_no_gradient():
    found = grown(Dropping().requires_grad_(requires_grad=False), 2)
    assert found.without_gradient == () and found.trained == 0
