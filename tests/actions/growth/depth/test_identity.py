from types import SimpleNamespace

import pytest
import torch
from torch import nn

from stagegraph.actions.growth.depth.identity import (
    Call,
    apply_zeroing,
    declared_zeroing,
    find_zeroing,
    why_not,
)
from stagegraph.actions.growth.depth.stacks import copy_block
from stagegraph.errors import SelectorError, UnsupportedError
from tests.actions.models import Block, D


class RMSNorm(nn.Module):
    def __init__(self, *, plus_one=False):
        super().__init__()
        self.plus_one = plus_one
        self.weight = nn.Parameter(torch.zeros(D) if plus_one else torch.ones(D))

    def forward(self, x):
        gain = 1 + self.weight if self.plus_one else self.weight
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * gain


class Llama(nn.Module):
    """Pre-norm, gated, no biases; defined in another order than it runs."""

    def __init__(self):
        super().__init__()
        self.down = nn.Linear(2 * D, D, bias=False)
        self.up, self.gate = nn.Linear(D, 2 * D, bias=False), nn.Linear(D, 2 * D, bias=False)
        self.o, self.v = nn.Linear(D, D, bias=False), nn.Linear(D, D, bias=False)
        self.norm1, self.norm2 = RMSNorm(), RMSNorm()

    def forward(self, hidden_states, scale=1.0):
        x = hidden_states
        x = x + self.o(self.v(self.norm1(x)) * scale)
        h = self.norm2(x)
        return (x + self.down(torch.nn.functional.silu(self.gate(h)) * self.up(h)), None)


class NormAfterBranch(nn.Module):
    """A norm at the end of each branch, with gain 1 + weight, as in Gemma 2."""

    def __init__(self, *, plus_one=True):
        super().__init__()
        self.mix, self.after_mix = nn.Linear(D, D), RMSNorm(plus_one=plus_one)
        self.mlp, self.after_mlp = nn.Linear(D, D), RMSNorm(plus_one=plus_one)

    def forward(self, x):
        x = x + self.after_mix(self.mix(x))
        return x + self.after_mlp(self.mlp(x))


class Experts(nn.Module):
    """Packed experts: parameters of the module itself."""

    def __init__(self):
        super().__init__()
        self.gate_up = nn.Parameter(torch.randn(2, D, D) / 3)
        self.down = nn.Parameter(torch.randn(2, D, D) / 3)

    def forward(self, x):
        return torch.einsum("btd,edk,eko->bto", x, self.gate_up, self.down)


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.experts = RMSNorm(), Experts()

    def forward(self, x):
        return x + self.experts(self.norm(x))


class Residual(nn.Module):
    """A ResNet block: the sum goes through a ReLU."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(3, 3, 3, padding=1, bias=False), nn.BatchNorm1d(3)
        self.conv2, self.bn2 = nn.Conv1d(3, 3, 3, padding=1, bias=False), nn.BatchNorm1d(3)

    def forward(self, x):
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + x)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(D, D)

    def forward(self, x):
        return 0.5 * x + self.f(x)


class InPlace(nn.Module):
    """Adds to its input in place, so that input and output are always the same tensor."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(D, D)

    def forward(self, x):
        x += self.f(x.clone())
        return x


class Caching(nn.Module):
    """Keeps what it has seen in a cache that it is given."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(D, D)

    def forward(self, x, cache):
        cache.seen.append(x)
        assert len(cache.seen) == 1
        return x + self.f(x)


class Layer(nn.TransformerEncoderLayer):
    def __init__(self, **options):
        super().__init__(D, 2, 2 * D, batch_first=True, **options)


def found(block, x=None, **kwargs):
    call = Call((), {"hidden_states": x_BTD(), **kwargs}) if x is None and kwargs else None
    call = call or Call((x_BTD() if x is None else x,), {})
    model = nn.ModuleDict({"stack": nn.ModuleList([block])})
    zeroing = find_zeroing(model, block, call, place="main:grow.actions[0]")
    trial = copy_block(model, block, path="stack.0")
    apply_zeroing(trial, zeroing)
    assert why_not(trial, call, zeroing) is None
    return dict(zeroing)


def x_BTD():
    return torch.randn(2, 3, D)


@pytest.mark.parametrize(
    ("block", "zeroed"),
    [
        (Block, {"fc2.weight", "fc2.bias", "o.weight", "o.bias"}),
        (Llama, {"down.weight", "o.weight"}),
        (NormAfterBranch, {"after_mix.weight", "after_mlp.weight"}),
        (Sparse, {"experts.down"}),
        (
            lambda: Layer(norm_first=True),
            {
                "linear2.weight",
                "linear2.bias",
                "self_attn.out_proj.weight",
                "self_attn.out_proj.bias",
            },
        ),
    ],
)
def test_the_ends_of_the_branches_are_found(block, zeroed):
    torch.manual_seed(0)
    assert set(found(block())) == zeroed


def test_the_stream_may_come_by_name():
    assert set(found(Llama(), scale=2.0)) == {"down.weight", "o.weight"}


def test_what_a_block_writes_into_its_inputs_is_not_seen_by_the_next_trial():
    assert set(found(InPlace())) == {"f.weight", "f.bias"}
    block, cache = InPlace(), Call((torch.ones(1, 1, D),), {})
    assert "in eval mode it still changes" in (why_not(block, cache, ()) or "")
    caching = Caching()
    model = nn.ModuleDict({"stack": nn.ModuleList([caching])})
    call = Call.of((x_BTD(),), {"cache": SimpleNamespace(seen=[])})
    assert set(dict(find_zeroing(model, caching, call, place="p"))) == {"f.weight", "f.bias"}


def test_a_gain_of_one_plus_weight_is_silenced_at_minus_one():
    assert set(found(NormAfterBranch()).values()) == {-1.0}
    assert set(found(NormAfterBranch(plus_one=False)).values()) == {0.0}


def test_a_resnet_block_on_what_it_really_sees():
    assert set(found(Residual(), torch.rand(4, 3, 5))) == {"bn2.weight", "bn2.bias"}


def test_the_search_leaves_block_and_random_numbers_alone():
    block = Residual()
    before = {key: value.clone() for key, value in block.state_dict().items()}
    x, state = torch.rand(4, 3, 5), torch.get_rng_state()
    found(block, x)
    assert all(torch.equal(before[key], value) for key, value in block.state_dict().items())
    assert torch.equal(state, torch.get_rng_state()) and not block._forward_pre_hooks


@pytest.mark.parametrize("block", [Layer, Scaled])
def test_blocks_that_cannot_be_the_identity_are_refused_with_a_way_out(block):
    with pytest.raises(
        UnsupportedError,
        match=r"main:grow\.actions\[0\]: no weights were found whose zeroing turns a copy of \w+ "
        r"into the identity; declare what to zero with zero: \[\.\.\.\], or let an alpha_ramp ",
    ):
        found(block())


def test_both_halves_of_a_branch_zeroed_would_never_learn():
    block = Block()
    zeroing = declared_zeroing(block, ["o", "fc1", "fc2"], place="p")
    apply_zeroing(block, zeroing)
    assert "the zeroed fc1, fc2 would get no gradient" in (
        why_not(block, Call((x_BTD(),), {}), zeroing) or ""
    )


def test_what_is_declared_is_proven_too():
    block = Block()
    zeroing = declared_zeroing(block, ["fc2"], place="p")
    apply_zeroing(block, zeroing)
    assert "in eval mode it still changes its input by" in (
        why_not(block, Call((x_BTD(),), {}), zeroing) or ""
    )


def test_a_block_that_changes_the_shape_is_no_identity():
    block = nn.Linear(D, 3)
    assert "its output has another shape than its input" in (
        why_not(block, Call((x_BTD(),), {}), ()) or ""
    )


def test_a_declared_name_that_matches_nothing_is_refused():
    with pytest.raises(
        SelectorError, match=r"p: zero 'fc3' matches no parameter of a block; did you mean 'fc"
    ):
        declared_zeroing(Block(), ["fc3"], place="p")
