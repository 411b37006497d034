import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from stagegraph.actions.gates import Gates
from stagegraph.errors import UnsupportedError


class Times3(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(3.0))

    def forward(self, x, extra=None):
        return x * self.gain


def gated(block, alpha, **options):
    gates = Gates()
    gates.set({"b": alpha}, lambda _: block, **options)
    return gates


@pytest.mark.parametrize(("alpha", "out"), [(0.0, 2.0), (0.25, 3.0), (0.5, 4.0), (1.0, 6.0)])
@pytest.mark.parametrize("training", [True, False])
def test_the_blend_is_the_same_in_train_and_eval(alpha, out, training):
    block = Times3().train(training)
    gated(block, alpha)
    assert float(block(torch.tensor(2.0)).detach()) == out


def test_at_one_there_is_no_hook():
    block = Times3()
    gates = gated(block, 0.5)
    assert len(block._forward_hooks) == 1
    gates.set({"b": 1.0}, lambda _: block)
    assert not block._forward_hooks and gates.alphas() == {}


def test_a_block_under_a_ramp_keeps_its_gate_at_one():
    block = Times3()
    gates = gated(block, 1.0, moving={"b"})
    assert torch.equal(block(torch.tensor(2.0)), torch.tensor(6.0))
    gates.tune(["b"], 0.5)
    assert float(block(torch.tensor(2.0)).detach()) == 4.0


def test_at_zero_an_infinite_block_is_not_seen():
    block = Times3()
    block.gain.data.fill_(float("inf"))
    gated(block, 0.0)
    assert float(block(torch.tensor(2.0)).detach()) == 2.0


def test_names_of_the_state_dict_do_not_change():
    block = Times3()
    before = list(block.state_dict())
    gated(block, 0.5)
    assert list(block.state_dict()) == before


def test_half_precision_keeps_an_alpha_near_one():
    block = Times3().to(torch.bfloat16)
    block.gain.data.fill_(0.0)
    gated(block, 0.999)
    out = float(block(torch.tensor(256.0, dtype=torch.bfloat16)).detach())
    assert out == pytest.approx(0.256, rel=1e-2)  # in bfloat16, 0.999 would be 1 and this 0


def test_a_block_whose_output_has_another_type_blends_in_that_type():
    class Lower(nn.Module):
        def forward(self, x):
            return (x * 3).to(torch.bfloat16)

    for alpha, out in ((0.0, 2.0), (0.5, 4.0)):
        block = Lower()
        gated(block, alpha)
        y = block(torch.tensor(2.0))
        assert y.dtype == torch.bfloat16 and float(y) == out


def test_the_first_tensor_of_a_tuple_is_blended():
    class Pair(nn.Module):
        def forward(self, x):
            return (x * 3, x * 5)

    block = Pair()
    gated(block, 0.5)
    first, second = block(torch.tensor(2.0))
    assert (float(first), float(second)) == (4.0, 10.0)


def test_the_stream_may_come_by_name():
    class Named(nn.Module):
        def forward(self, mask, hidden_states):
            return hidden_states * 3

    block = Named()
    gated(block, 0.5)
    assert float(block(mask=torch.tensor(9), hidden_states=torch.tensor(2.0))) == 4.0


def test_a_block_that_changes_the_shape_cannot_be_blended():
    block = nn.Linear(2, 3)
    gated(block, 0.5)
    with pytest.raises(
        UnsupportedError, match=r"new block 'b' cannot be blended in: its input \(1, 2\)"
    ):
        block(torch.ones(1, 2))


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_sees_the_same_blend(reentrant):
    block = Times3()
    gated(block, 0.5)
    x = torch.tensor(2.0, requires_grad=True)
    block(x).backward()
    plain = (x.grad.clone(), block.gain.grad.clone())
    x.grad = block.gain.grad = None
    checkpoint(block, x, use_reentrant=reentrant).backward()
    assert (x.grad, block.gain.grad) == plain == (torch.tensor(2.0), torch.tensor(1.0))


def test_alpha_is_a_float32_number():
    gates = gated(Times3(), 0.1)
    assert gates.alphas() == {"b": 0.10000000149011612}


def test_gates_are_opened_for_a_measurement_only():
    block = Times3()
    gates = gated(block, 0.0)
    with gates.held_at(1.0, ["b"]):
        assert float(block(torch.tensor(2.0)).detach()) == 6.0
    assert float(block(torch.tensor(2.0)).detach()) == 2.0


def test_closing_removes_the_hooks():
    block = Times3()
    gated(block, 0.5).close()
    assert not block._forward_hooks
