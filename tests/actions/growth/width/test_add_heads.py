import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from stagegraph.errors import ActionError
from stagegraph.schema.spaces import Spaces
from tests.actions.growth.attention import DIVIDING_TENSORS, Dividing, Rotary, act, rotary_spaces
from tests.actions.growth.wide import GPT, Gpt, actor, grow, ids
from tests.actions.models import digest

EXACT = ("exact", "exact up to rounding")
X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
X8 = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
DIVIDING = Spaces(tensors=DIVIDING_TENSORS, sizes={"heads": "heads"})

GROWTHS = [
    ("groups", "zero_out", 3),
    ("groups", "split", 4),
    ("groups", "uneven", 5),
    ("groups", "zero_in", 3),
    ("per_group", "zero_out", 3),
    ("per_group", "split", 4),
    ("per_group", "uneven", 3),
]


@pytest.mark.parametrize(("space", "how", "to"), GROWTHS)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 5e-6), (torch.float64, 1e-12)])
def test_whole_groups_and_heads_inside_of_each(space, how, to, dtype, atol):
    model = Gpt().to(dtype)
    expected = model(ids()).detach()
    certificate = grow(
        actor(model, SGD(model.parameters()), GPT, ids()),
        act("add_heads", space=space, to=to, how=how),
    )
    assert certificate["exactness"] in EXACT
    torch.testing.assert_close(model(ids()), expected, rtol=0, atol=atol)
    assert getattr(model.blocks[1]["att"], space) == to


@pytest.mark.parametrize("how", ["zero_out", "zero_in", "split"])
def test_heads_packed_in_thirds(how):
    model = Rotary().double()
    old = model.qkv.weight.detach().clone().view(3, 2, 6, 6)
    expected = model(X).detach()
    grow(
        actor(model, SGD(model.parameters()), rotary_spaces(), X),
        act("add_heads", space="heads", add=1, how=how),
    )
    torch.testing.assert_close(model(X), expected, rtol=0, atol=1e-12)
    new = model.qkv.weight.detach().view(3, 3, 6, 6)
    assert torch.equal(new[:, :2], old)
    assert [bool(third.any()) for third in new[:, 2]] == [True, True, how != "zero_in"]


def test_the_order_in_which_they_are_packed_can_be_told():
    model = Rotary().double()
    standing = actor(model, SGD(model.parameters()), rotary_spaces(), X)
    with pytest.raises(ActionError, match="was to keep the function"):
        grow(standing, act("add_heads", space="heads", add=1, how="zero_in", order="vkq"))


@pytest.mark.parametrize("how", ["zero_out", "zero_in"])
def test_every_part_of_a_new_head_learns(how):
    model = Rotary().double()
    optimizer = AdamW(model.parameters(), lr=0.01)
    grow(
        actor(model, optimizer, rotary_spaces(), X),
        act("add_heads", space="heads", add=1, how=how),
    )
    before = model.qkv.weight.detach().clone().view(3, 3, 6, 6)
    for _ in range(3):
        optimizer.zero_grad()
        model(X).pow(2).sum().backward()
        optimizer.step()
    after = model.qkv.weight.detach().view(3, 3, 6, 6)
    assert ((after - before)[:, 2].abs().amax((-1, -2)) > 1e-3).all()


def test_names_tell_values_and_what_they_do_not_tell_is_asked_for():
    class Named(Dividing):
        def forward(self, x):
            b, t, _ = x.shape
            q, k, v = (
                f(x).view(b, t, self.heads, self.dim).transpose(1, 2)
                for f in (self.q, self.k, self.worth)
            )
            out = nn.functional.scaled_dot_product_attention(q, k, v)
            return self.o(out.transpose(1, 2).reshape(b, t, -1))

    model = Named().double()
    model.worth, model.dim = model.v, 4
    del model.v
    tensors = {
        "[qk].weight": "(heads dim) _",
        "[qk].bias": "(heads dim)",
        "worth.weight": "(heads dim) _",
        "worth.bias": "(heads dim)",
        "o.weight": "_ (heads dim)",
    }
    spaces = Spaces(tensors=tensors, sizes={"heads": "heads", "dim": "dim"})
    optimizer = SGD(model.parameters())
    standing, before = actor(model, optimizer, spaces, X8), digest(model, optimizer)
    with pytest.raises(ActionError, match=r"axis 0 of 'worth.weight' .* name it in q:, k: or v:"):
        grow(standing, act("add_heads", space="heads", add=1, how="zero_in"))
    with pytest.raises(ActionError, match=r"v: 'wroth.\*' matches no parameter"):
        grow(standing, act("add_heads", space="heads", add=1, how="zero_in", v=["wroth.*"]))
    assert digest(model, optimizer) == before
    expected = model(X8).detach()
    grow(standing, act("add_heads", space="heads", add=1, how="zero_in", v=["worth.*"]))
    torch.testing.assert_close(model(X8), expected, rtol=0, atol=1e-12)


# Heads that do not divide


def test_queries_that_share_no_whole_number_of_keys_do_not_run():
    tensors = {**GPT.tensors}
    tensors["*.att.q.weight"] = "(heads dim) stream"
    tensors["*.att.q.bias"] = "(heads dim)"
    tensors["*.att.o.weight"] = "stream (heads dim)"
    sizes = {"*.att.groups": "groups", "*.att.dim": "dim"}
    model = Gpt().double()
    optimizer = SGD(model.parameters())
    before = digest(model, optimizer)
    action = act("add_heads", space="heads", add=1)
    for trace, message in (
        (True, r"axis 0 of 'blocks.0.att.kv.weight' is tied to the space 'heads'"),
        (False, r"would not run: in blocks.0.att: .* spaces: sizes:"),
    ):
        spaces = Spaces(tensors=tensors, sizes=sizes, trace=trace)
        with pytest.raises(ActionError, match=message):
            grow(actor(model, optimizer, spaces, ids()), action)
    assert digest(model, optimizer) == before


def test_channels_that_would_be_regrouped_are_found_out():
    """It runs: three heads' channels are shared out among two, as the number was not declared."""
    model = Dividing().double()
    optimizer = SGD(model.parameters())
    before = digest(model, optimizer)
    spaces = Spaces(tensors={k: v.replace("dim", "4") for k, v in DIVIDING_TENSORS.items()})
    with pytest.raises(ActionError, match=r"was to keep the function.*counted otherwise.*sizes:"):
        grow(actor(model, optimizer, spaces, X8), act("add_heads", space="heads", add=1))
    assert digest(model, optimizer) == before


def test_a_model_that_divides_by_a_declared_number_grows():
    model = Dividing().double()
    expected = model(X8).detach()
    standing = actor(model, SGD(model.parameters()), DIVIDING, X8)
    grow(standing, act("add_heads", space="heads", add=1))
    torch.testing.assert_close(model(X8), expected, rtol=0, atol=1e-12)
    assert model.heads == 3


@pytest.mark.parametrize(
    ("space", "how", "message"),
    [
        ("hedas", "zero_out", r"space 'hedas'; did you mean 'heads'"),
        ("heads", "zero_out", r"axis 0 of 'att.in_proj_weight' is of an nn.MultiheadAttention"),
    ],
)
def test_an_attention_as_wide_as_its_stream_is_named(space, how, message):
    class Torch(nn.Module):
        def __init__(self):
            super().__init__()
            self.att = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.att(x, x, x)[0]

    model = Torch().double()
    spaces = Spaces(
        tensors={
            "att.in_proj_weight": "(3 heads dim) _",
            "att.in_proj_bias": "(3 heads dim)",
            "att.out_proj.weight": "_ (heads dim)",
        },
        sizes={"att.num_heads": "heads"},
    )
    optimizer = SGD(model.parameters())
    before = digest(model, optimizer)
    with pytest.raises(ActionError, match=message):
        grow(actor(model, optimizer, spaces, X8), act("add_heads", space=space, add=1, how=how))
    assert digest(model, optimizer) == before


def test_heads_inside_a_group_have_no_values_to_begin_with_zero():
    model = Gpt().double()
    standing = actor(model, SGD(model.parameters()), GPT, ids())
    with pytest.raises(ActionError, match=r"nothing that makes values is in .*'per_group'"):
        grow(standing, act("add_heads", space="per_group", add=1, how="zero_in"))
