import copy

import pytest
import torch
from torch.optim import SGD

from stagegraph.actions.growth.operations import costs, rebuild
from stagegraph.actions.lineage import Lineage
from stagegraph.errors import ActionError
from stagegraph.schema.spaces import Spaces
from tests.actions.growth.attention import READER, Reader, Rotary, RotaryOnly, act
from tests.actions.growth.wide import actor, grow, ids
from tests.actions.models import digest

EXACT = ("exact", "exact up to rounding")
ROTARY = Spaces(sizes={"max_len": "context"})
X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(4))


def long():
    return torch.randint(0, 11, (2, 10), generator=torch.Generator().manual_seed(5))


def made(**fields):
    model = Reader(**fields).double()
    optimizer = SGD(model.parameters(), lr=0.1)
    return model, optimizer, actor(model, optimizer, READER, ids())


def extend(**fields):
    return act("extend_context", space="context", **fields)


@pytest.mark.parametrize("init", ["last", "mean", "interpolate", "zero"])
@pytest.mark.parametrize("float_mask", [True, False])
def test_short_sequences_are_read_as_before_and_longer_ones_can_be(init, float_mask):
    model, _, standing = made(float_mask=float_mask)
    expected = model(ids()).detach()
    certificate = grow(standing, extend(to=12, init=init))
    assert certificate["exactness"] == "exact"
    assert torch.equal(model(ids()), expected)
    assert model(long()).shape == (2, 10, 11)
    assert model.longest == 12
    assert certificate["continued"] == {"mask": "mask", "ids": "numbers"}


def test_masks_and_numbers_go_on_as_a_longer_model_would_have_them():
    model, _, standing = made(float_mask=True)
    grow(standing, extend(add=4))
    allowed = torch.ones(11, 11, dtype=torch.bool).tril()
    wanted = torch.zeros(1, 1, 11, 11).masked_fill(~allowed, -1e9).double()
    assert torch.equal(model.mask, wanted)
    assert torch.equal(model.ids, torch.arange(11).view(1, 11))


def test_what_new_positions_hold():
    rows = {}
    for init in ("last", "mean", "interpolate", "zero"):
        torch.manual_seed(0)
        model, _, standing = made()
        old = model.pos.weight.detach().clone()
        grow(standing, extend(add=3, init=init))
        assert torch.equal(model.pos.weight[:7], old)
        rows[init] = model.pos.weight[7:].detach()
    assert torch.equal(rows["last"], old[6:].expand(3, -1))
    torch.testing.assert_close(rows["mean"], old.mean(0).expand(3, -1))
    torch.testing.assert_close(rows["interpolate"], old[[0, 3, 6]])
    assert not rows["zero"].any()


def test_a_resumed_model_has_the_buffers_that_no_checkpoint_holds():
    model, _, standing = made()
    fresh = copy.deepcopy(model)
    grow(standing, extend(add=4))
    change = standing._standing.lineage.changes[-1]
    again = type(change).from_fields(change.as_json())
    rebuild(fresh, again, optimizers=(), lineage=Lineage())
    assert torch.equal(fresh.mask, model.mask)
    assert torch.equal(fresh.ids, model.ids)
    fresh.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(fresh(long()), model(long()))


@pytest.mark.parametrize(
    "extra",
    [torch.randn(7, 7), torch.randn(7, 7).tril(), torch.ones(7, 7)],
    ids=["random", "weights", "no mask"],
)
def test_a_buffer_that_nobody_can_continue_is_named(extra):
    model = Reader(extra=extra)
    spaces = Spaces(
        tensors={**READER.tensors, "extra": "context:out context:out"}, sizes=READER.sizes
    )
    optimizer = SGD(model.parameters())
    before = digest(model, optimizer)
    with pytest.raises(ActionError, match=r"the buffer 'extra', of shape \(7, 7\).*let the model"):
        grow(actor(model, optimizer, spaces, ids()), extend(add=1))
    assert digest(model, optimizer) == before


def test_what_it_costs_is_told_of_a_model_without_memory():
    _, _, standing = made()
    actions = [extend(add=1), extend(factor=2), act("extend_vocab", space="vocab", add=2)]
    # 9 more rows of 6; 2 more of 6 twice, and 2 more biases
    assert costs(standing._standing.site(), actions, place="p") == 9 * 6 + 2 * 6 * 2 + 2


def test_a_window_goes_on_as_a_window():
    band = torch.ones(7, 7, dtype=torch.bool).tril().triu(-2)
    model = Reader(extra=band)
    spaces = Spaces(
        tensors={**READER.tensors, "extra": "context:out context:out"}, sizes=READER.sizes
    )
    grow(actor(model, SGD(model.parameters()), spaces, ids()), extend(add=5))
    assert torch.equal(model.extra, torch.ones(12, 12, dtype=torch.bool).tril().triu(-2))


def test_rotary_positions_need_no_tensor():
    model = RotaryOnly().double()
    standing = actor(model, SGD(model.parameters()), ROTARY, X.double())
    expected = model(X.double()).detach()
    certificate = grow(standing, extend(factor=2))
    assert certificate["exactness"] == "exact"
    assert model.max_len == 18
    assert torch.equal(model(X.double()), expected)


def test_another_base_is_told_measured_and_made_again():
    model = RotaryOnly().double()
    fresh = copy.deepcopy(model)
    standing = actor(model, SGD(model.parameters()), ROTARY, X.double())
    certificate = grow(standing, extend(factor=2, rope_base=4))
    assert certificate["exactness"] == "approximate"
    assert certificate["rope"] == {"buffers": ["att.inv_freq"], "base": [10000.0, 40000.0]}
    wanted = 1 / 40000.0 ** (torch.arange(3) / 3)
    torch.testing.assert_close(model.att.inv_freq, wanted.double())
    assert model.rope_theta == 40000.0
    change = standing._standing.lineage.changes[-1]
    rebuild(fresh, change, optimizers=(), lineage=Lineage())
    assert torch.equal(fresh.att.inv_freq, model.att.inv_freq)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: m.att.inv_freq.mul_(0.5), r"'att.inv_freq' does not hold base\^\(-2i/d\)"),
        (lambda m: m.att.register_buffer("inv_freq", None), "no buffer of the model is called"),
    ],
)
def test_a_base_that_is_not_there_cannot_be_changed(spoil, message):
    class Plain(RotaryOnly):
        def forward(self, x):
            return x @ self.att.o.weight[:, :6]

    model = Plain()
    spoil(model)
    optimizer = SGD(model.parameters())
    before = digest(model, optimizer)
    with pytest.raises(ActionError, match=message):
        grow(actor(model, optimizer, ROTARY, X), extend(add=1, rope_base=2))
    assert digest(model, optimizer) == before


def test_a_space_that_nothing_names_is_refused():
    model = Rotary()
    with pytest.raises(ActionError, match="no layout names a space 'context'"):
        grow(actor(model, SGD(model.parameters()), Spaces(), X), extend(add=1))
