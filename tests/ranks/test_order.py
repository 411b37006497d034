"""A backward for nothing: three ranks come to the order of a run that goes on, and to no more."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stagegraph.actions.ranks.order import settle_order
from tests.ranks.processes import on_ranks

pytestmark = pytest.mark.xdist_group("ranks")

X = torch.linspace(-1, 1, 12).view(3, 4)


class Two(nn.Module):
    """Of what it puts out both parts are learnt from."""

    def __init__(self):
        super().__init__()
        self.body, self.drop = nn.Linear(4, 4), nn.Dropout(0.5)
        self.norm, self.head, self.aux = nn.BatchNorm1d(4), nn.Linear(4, 2), nn.Linear(4, 1)

    def encode(self, x):
        return self.norm(self.drop(self.body(x)))

    def forward(self, x):
        x = self.encode(x)
        return self.head(x), {"aux": self.aux(x)}


PROBES = {
    "a batch": X,
    "a function": lambda model: model(X)[0],
    "a part": lambda model: model.encode(X),
    "twice": lambda model: (model(X), model(X)),
    "no gradient": torch.no_grad()(lambda model: model(X)),
    "fails on rank 1": None,
}


def settled(rank, kind):
    torch.manual_seed(rank)
    model = Two()
    wrapper = DistributedDataParallel(model)
    wrapper.eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    random = torch.get_rng_state()
    probe = PROBES[kind]
    if kind == "fails on rank 1":
        probe = (lambda model: 1 / 0) if rank == 1 else X
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        settle_order(wrapper, probe)
    same = all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    ones = all(bool((parameter.grad == 1).all()) for parameter in model.parameters())
    left = (same, ones, torch.equal(random, torch.get_rng_state()), model.training)
    wrapper.train()
    wrapper.zero_grad()
    for _ in range(2):  # a wrapper that still waits would refuse the second
        logits, more = wrapper(X + rank)
        (logits.sum() + more["aux"].sum()).backward()
    return left, [str(one.message) for one in told if "last bits" in str(one.message)]


@pytest.mark.parametrize(
    ("kind", "reasons"),
    [
        ("a batch", [None] * 3),
        ("a function", [None] * 3),
        ("a part", ["probe= calls the model 0 times, and not once"] * 3),
        ("twice", ["probe= calls the model 2 times, and not once"] * 3),
        ("no gradient", ["nothing of what the model puts out has a gradient"] * 3),
        (
            "fails on rank 1",
            ["another rank cannot tell it", "division by zero", "another rank cannot tell it"],
        ),
    ],
)
def test_it_leaves_no_trace_and_says_where_it_cannot_be_had(tmp_path, kind, reasons):
    for (left, told), reason in zip(
        on_ranks(3, settled, kind, folder=tmp_path), reasons, strict=True
    ):
        assert left == (True, True, True, False)
        assert len(told) == (reason is not None)
        assert reason is None or reason in told[0]
