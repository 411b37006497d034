import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.swa_utils import AveragedModel

from stagegraph.actions.growth.operations import costs, rebuild, unwind
from stagegraph.actions.lineage import Lineage
from stagegraph.errors import ActionError
from stagegraph.schema.spaces import Spaces
from tests.actions.growth.attention import Rotary, act, rotary_spaces
from tests.actions.growth.wide import GPT, Gpt, actor, grow, ids
from tests.actions.models import digest

EXACT = ("exact", "exact up to rounding")
X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def rotary(*, dtype=torch.float64, **fields):
    model = Rotary(**fields).to(dtype)
    optimizer = AdamW(model.parameters(), lr=0.01)
    spaces = rotary_spaces(neighbours=fields.get("neighbours", False))
    return model, optimizer, actor(model, optimizer, spaces, X.to(dtype))


def widen(**fields):
    return act("widen_head_dim", space="half", **fields)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 5e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("to", [4, 6, 9])
def test_heads_without_rotary_positions(dtype, atol, to):
    model = Gpt().to(dtype)
    expected = model(ids()).detach()
    certificate = grow(
        actor(model, SGD(model.parameters()), GPT, ids()),
        act("widen_head_dim", space="dim", to=to),
    )
    assert certificate["exactness"] in EXACT
    torch.testing.assert_close(model(ids()), expected, rtol=0, atol=atol)
    assert model.blocks[0]["att"].dim == to
    assert certificate["queries_times"]["blocks.0.att.q.weight"] == (to / 3) ** 0.5


@pytest.mark.parametrize("neighbours", [True, False])
@pytest.mark.parametrize("to", [4, 5, 6, 9])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 5e-6), (torch.float64, 1e-12)])
def test_rotary_halves_and_rotary_neighbours(neighbours, to, dtype, atol):
    model, _, standing = rotary(neighbours=neighbours, dtype=dtype)
    expected = model(X.to(dtype)).detach()
    certificate = grow(standing, widen(to=to))
    torch.testing.assert_close(model(X.to(dtype)), expected, rtol=0, atol=atol)
    assert certificate["citizen"] == (to % 3 == 0)


def test_a_multiple_of_the_size_has_the_frequencies_its_class_computes():
    model, _, standing = rotary(dtype=torch.float32)
    grow(standing, widen(factor=3))
    own = Rotary(half=9)
    assert torch.equal(model.inv_freq, own.inv_freq)
    own.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(own(X.float()), model(X.float()))


def test_any_other_size_keeps_the_old_frequencies_first():
    model, _, standing = rotary()
    old = model.inv_freq.clone()
    grow(standing, widen(add=2))
    assert torch.equal(model.inv_freq[:3], old)
    torch.testing.assert_close(model.inv_freq[3:], old[2] * (old[2] / old[1]) ** torch.arange(1, 3))


@pytest.mark.parametrize(
    ("scaling", "attribute", "after"),
    [
        ("size", None, None),
        ("kept", "scaling", 12**-0.5),
        ("divisor", "norm_factor", 12**0.5),
        ("constant", "scaling", 0.3),
    ],
)
def test_scores_keep_their_scale_however_a_model_has_it(scaling, attribute, after):
    model, _, standing = rotary(scaling=scaling)
    expected = model(X).detach()
    certificate = grow(standing, widen(factor=2))
    torch.testing.assert_close(model(X), expected, rtol=0, atol=1e-12)
    if attribute is not None:
        assert getattr(model, attribute) == pytest.approx(after)
        assert certificate["scales"] == ([] if scaling == "constant" else [attribute])


def test_what_a_scale_is_can_be_told():
    model, _, standing = rotary()
    model.logit_scale = 2.0  # nothing to do with attention, and looks as if it had
    with pytest.raises(ActionError, match=r"was to keep the function.*scale: by_size"):
        grow(standing, widen(factor=2))
    assert grow(standing, widen(factor=2, scale="by_size"))["exactness"] in EXACT


@pytest.mark.parametrize("to", [4, 6])
def test_queries_keys_values_and_outputs_all_learn(to):
    model, optimizer, standing = rotary()
    grow(standing, widen(to=to))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        model(X).pow(2).sum().backward()
        optimizer.step()
    moved = (model.qkv.weight - before["qkv.weight"]).detach().abs().view(3, 2, 2, to, 6)
    assert (moved.amax((1, 2, 4)) > 1e-3).all()
    assert ((model.o.weight - before["o.weight"]).detach().abs().view(6, 2, 2, to) > 0).all()


@pytest.mark.parametrize("to", [5, 6])
def test_a_growth_is_made_again_and_taken_back(to):
    model, _, standing = rotary()
    fresh, first = copy.deepcopy(model), copy.deepcopy(model)
    grow(standing, widen(to=to))
    change = standing._standing.lineage.changes[-1]
    again = type(change).from_fields(change.as_json())
    rebuild(fresh, again, optimizers=(), lineage=Lineage())
    fresh.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(fresh(X), model(X))
    unwind(fresh, (), Lineage([again]))
    fresh.load_state_dict(first.state_dict(), strict=True)
    assert torch.equal(fresh(X), first(X))


def test_a_second_growth_on_top_of_the_first():
    model, _, standing = rotary()
    expected = model(X).detach()
    grow(standing, widen(factor=2), cohort="a")
    grow(standing, act("add_heads", space="heads", add=1), cohort="b")
    grow(standing, widen(add=1), cohort="c")
    torch.testing.assert_close(model(X), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("to", [5, 6])
def test_moments_follow_and_an_averaged_copy_grows_along(to):
    model, optimizer, _ = rotary()
    averaged = AveragedModel(model, use_buffers=True)
    model(X).pow(2).sum().backward()
    optimizer.step()
    averaged.update_parameters(model)
    expected = averaged(X).detach()
    old = optimizer.state[model.qkv.weight]["exp_avg"].clone().view(3, 2, 2, 3, 6)
    standing = actor(model, optimizer, rotary_spaces(), X, ema=averaged)
    grow(standing, widen(to=to))
    torch.testing.assert_close(averaged(X), expected, rtol=0, atol=1e-12)
    new = optimizer.state[model.qkv.weight]["exp_avg"].view(3, 2, 2, to, 6)
    at = [0, 2, 4] if to == 6 else [0, 1, 2]
    torch.testing.assert_close(new[0][:, :, at], old[0] / (to / 3) ** 0.5)
    torch.testing.assert_close(new[1:][:, :, :, at], old[1:])


def test_what_several_growths_cost_is_told_without_making_them():
    model, optimizer, standing = rotary()
    actions = [
        act("add_heads", space="heads", add=1),
        widen(factor=2),
        widen(add=1),
        act("add_heads", space="heads", factor=2, how="zero_in"),
    ]
    before = digest(model, optimizer)
    told = costs(standing._standing.site(), actions, place="p")
    assert digest(model, optimizer) == before
    num = sum(p.numel() for p in model.parameters())
    for step, action in enumerate(actions):
        grow(standing, action, cohort=f"c{step}")
    assert told == sum(p.numel() for p in model.parameters()) - num


# What cannot be


class Normed(nn.Module):
    """Attention whose queries and keys are normalised per head."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(6, 8) for _ in range(3))
        self.q_norm, self.k_norm, self.o = nn.RMSNorm(4), nn.RMSNorm(4), nn.Linear(8, 6)

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (2, -1)) for f in (self.q_proj, self.k_proj, self.v_proj))
        scores = torch.einsum("bthd,bshd->bhts", self.q_norm(q), self.k_norm(k)).softmax(-1)
        return self.o(torch.einsum("bhts,bshd->bthd", scores, v).flatten(2))


NORMED = Spaces(
    tensors={
        "?_proj.weight": "(heads dim) _",
        "?_proj.bias": "(heads dim)",
        "?_norm.weight": "dim",
        "o.weight": "_ (heads dim)",
    }
)


class Unturned(Rotary):
    """Its angles are in a table."""

    def __init__(self):
        super().__init__()
        self.register_buffer("inv_freq", torch.outer(torch.arange(5.0), self.inv_freq))


def flat(spaces):
    return Spaces(tensors={k: v.replace("2 half", "dim") for k, v in spaces.tensors.items()})


@pytest.mark.parametrize(
    ("make", "spaces", "fields", "message"),
    [
        (Normed, NORMED, {"space": "dim", "add": 4}, r"'q_norm.weight', 'k_norm.weight': a norm"),
        (
            Unturned,
            Spaces(tensors={**rotary_spaces().tensors, "inv_freq": "_ half:out"}),
            {"space": "half", "add": 1},
            r"the buffer 'inv_freq', of shape \(5, 3\), .*holds no frequencies",
        ),
        (
            Rotary,
            Spaces(
                tensors={
                    "qkv.weight": "(3 heads dim) _",
                    "qkv.bias": "(3 heads dim)",
                    "o.weight": "_ (heads dim)",
                },
                sizes={"heads": "heads"},
            ),
            {"space": "dim", "factor": 2},
            "axis 0 of 'inv_freq' is tied to the space 'dim' and is not declared",
        ),
        (Rotary, rotary_spaces(), {"space": "hafl", "add": 1}, "did you mean 'half'"),
        (Rotary, rotary_spaces(), {"space": "half", "to": 3}, "3 is no growth"),
        (
            Rotary,
            Spaces(
                tensors={**rotary_spaces().tensors, "qkv.weight": "(6 half) _"},
                sizes={"heads": "heads"},
            ),
            {"space": "half", "add": 1},
            r"axis 0 of 'qkv.bias' has 36 entries, which is not 3 × heads \(2\) × 2 × half \(6\)",
        ),
    ],
)
def test_what_cannot_be_is_said_and_changes_nothing(make, spaces, fields, message):
    model = make().double()
    optimizer = SGD(model.parameters())
    before = digest(model, optimizer)
    with pytest.raises(ActionError, match=message):
        grow(actor(model, optimizer, spaces, X), act("widen_head_dim", **fields))
    assert digest(model, optimizer) == before
