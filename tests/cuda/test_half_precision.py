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
    """2x blended with x at alpha 1/1000 is 1.001 x; in bfloat16 alpha 0.999 would be 1."""
    block, gates = Doubling(), Gates()
    gates.set({"b": 0.999}, lambda _block: block)
    x = torch.linspace(1, 2, 4096, dtype=torch.float64).to(device, dtype)
    share = (block(x).double() / x.double() - 1).mean().item()
    assert share == pytest.approx(0.999, abs=3e-4)
    gates.set({"b": 0.0}, lambda _block: block)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(("device", "name"), cases(contract.FIRSTS, on_cpu=["deepen, identity"]))
def test_a_growth_in_bfloat16_trains_on(device, name):
    contract.test_a_growth_in_bfloat16_trains_on(placed(name, device))
