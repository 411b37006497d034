"""Types of sixteen bits on a device: gates blend with their alpha, and growths train on."""

import pytest
import torch
from torch import nn

from stagegraph.actions.gates import Gates
from tests.contracts import test_growth as contract
from tests.cuda.placing import cases, placed

HALVES = [torch.float16, torch.bfloat16]


class Doubling(nn.Module):
    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize("dtype", HALVES, ids=["float16", "bfloat16"])
def test_alpha_is_not_rounded_to_the_streams_type(device, dtype):
    """In bfloat16 5/6 would be 0.83203; over many values the outputs' own rounding cancels."""
    block, gates = Doubling(), Gates()
    gates.set({"b": 5 / 6}, lambda _block: block)
    x = torch.linspace(1, 2, 4096, dtype=torch.float64).to(device, dtype)
    share = (block(x).double() / x.double() - 1).mean().item()
    assert share == pytest.approx(5 / 6, abs=5e-4)
    gates.set({"b": 0.0}, lambda _block: block)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(("device", "name"), cases(contract.FIRSTS, on_cpu=["deepen, identity"]))
def test_a_growth_in_bfloat16_trains_on(device, name):
    contract.test_a_growth_in_bfloat16_trains_on(placed(name, device))
