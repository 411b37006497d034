import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW

from stagegraph.errors import ActionError
from stagegraph.schema.spaces import Spaces
from tests.actions.growth.attention import READER, Reader, act
from tests.actions.growth.wide import GPT, Gpt, actor, grow, ids
from tests.actions.models import digest

EXACT = ("exact", "exact up to rounding")
TIED = Spaces(
    tensors={**GPT.tensors, "emb.weight": "vocab stream", "head.weight": "vocab stream"},
    sizes=GPT.sizes,
)


def made(*, dtype=torch.float64, **fields):
    model = Reader(**fields).to(dtype)
    optimizer = AdamW(model.parameters(), lr=0.01)
    spaces = READER
    if not fields.get("bias", True):
        kept = {k: v for k, v in READER.tensors.items() if k != "head.bias"}
        spaces = Spaces(tensors=kept, sizes=READER.sizes)
    return model, optimizer, actor(model, optimizer, spaces, ids())


@pytest.mark.parametrize("init", ["mean", "mean_noise", "random"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_old_logits_stay(init, dtype, atol):
    model, _, standing = made(dtype=dtype)
    expected = model.eval()(ids()).detach()
    certificate = grow(standing, act("extend_vocab", space="vocab", add=5, init=init))
    out = model.eval()(ids())
    assert certificate["exactness"] in EXACT
    assert out.shape[-1] == 16
    torch.testing.assert_close(out[..., :11], expected, rtol=0, atol=atol)
    assert (model.emb.num_embeddings, model.head.out_features) == (16, 16)
    assert model(torch.tensor([[12, 15]])).isfinite().all()


@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied_heads_grow_alike(tied):
    model = Gpt(tied=tied).double()
    expected = model(ids()).detach()
    grow(
        actor(model, SGD(model.parameters()), TIED, ids()),
        act("extend_vocab", space="vocab", to=13),
    )
    torch.testing.assert_close(model(ids())[..., :11], expected, rtol=0, atol=1e-12)
    assert (model.head.weight is model.emb.weight) == tied


def test_new_rows_hold_the_mean_and_the_padding_row_stays():
    model, _, standing = made()
    old = model.emb.weight.detach().clone()
    grow(standing, act("extend_vocab", space="vocab", add=2))
    assert torch.equal(model.emb.weight[:11], old)
    torch.testing.assert_close(model.emb.weight[11:], old.mean(0).expand(2, -1))
    assert model.emb.padding_idx == 2
    assert not model.emb.weight[2].any()


def test_noise_tells_new_rows_apart():
    model, _, standing = made()
    grow(standing, act("extend_vocab", space="vocab", add=2, init="mean_noise"))
    new = model.emb.weight[11:] - model.emb.weight[:11].mean(0)
    assert 0 < new.std() < 0.5 * model.emb.weight[:11].std()
    assert not torch.equal(new[0], new[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_quiet_entries_keep_the_loss_in_every_precision(dtype):
    model, _, standing = made(dtype=dtype)
    before = F.cross_entropy(model(ids()).flatten(0, 1).float(), ids().flatten()).detach()
    grow(standing, act("extend_vocab", space="vocab", add=5, quiet=True))
    out = model(ids())
    assert out.isfinite().all()
    assert torch.equal(out.argmax(-1), out[..., :11].argmax(-1))
    after = F.cross_entropy(out.flatten(0, 1).float(), ids().flatten())
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)


def test_entries_at_the_mean_change_the_loss_a_little():
    model, _, standing = made()
    before = F.cross_entropy(model(ids()).flatten(0, 1), ids().flatten()).detach()
    grow(standing, act("extend_vocab", space="vocab", add=5))
    after = F.cross_entropy(model(ids()).flatten(0, 1), ids().flatten())
    assert 1e-4 < float(after.detach() - before) < 1.0


def test_a_loss_as_output_is_kept_by_quiet_entries_alone():
    def loss(model):
        return F.cross_entropy(model(ids()).flatten(0, 1), ids().flatten())

    model = Reader().double()
    standing = actor(model, SGD(model.parameters()), READER, loss)
    certificate = grow(standing, act("extend_vocab", space="vocab", add=5), cohort="loud")
    assert certificate["exactness"] == "approximate"
    certificate = grow(standing, act("extend_vocab", space="vocab", add=5, quiet=True))
    assert certificate["exactness"] in EXACT


def test_an_attribute_called_vocab_size_is_written_without_being_named():
    model, _, standing = made()
    grow(standing, act("extend_vocab", space="vocab", add=5))
    assert model.vocab_size == 16


def test_new_rows_learn():
    model, optimizer, standing = made()
    grow(standing, act("extend_vocab", space="vocab", add=5))
    before = model.emb.weight.detach().clone(), model.head.weight.detach().clone()
    F.cross_entropy(model(ids() + 5).flatten(0, 1), ids().flatten() + 5).backward()
    optimizer.step()
    assert (model.emb.weight != before[0])[11:].any()
    assert (model.head.weight != before[1])[11:].all()


@pytest.mark.parametrize(
    ("make", "fields", "message"),
    [
        ({"bias": False}, {"space": "vocab", "add": 1, "quiet": True}, "no bias is in that space"),
        ({}, {"space": "vocap", "add": 1}, r"space 'vocap'; did you mean 'vocab'"),
        ({}, {"space": "vocab", "to": 11}, r"space 'vocab': there are 11 already, 11 is no growth"),
    ],
)
def test_what_cannot_be_is_said_and_changes_nothing(make, fields, message):
    model, optimizer, standing = made(**make)
    before = digest(model, optimizer)
    with pytest.raises(ActionError, match=message):
        grow(standing, act("extend_vocab", **fields))
    assert digest(model, optimizer) == before


def test_a_head_that_is_not_declared_is_found_out():
    model = nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 11), nn.Linear(11, 2)).double()
    spaces = Spaces(tensors={"0.weight": "vocab _", "1.weight": "vocab _", "1.bias": "vocab"})
    optimizer = SGD(model.parameters())
    before = digest(model, optimizer)
    with pytest.raises(ActionError, match=r"axis 1 of '2.weight' is tied to the space 'vocab'"):
        grow(actor(model, optimizer, spaces, ids()), act("extend_vocab", space="vocab", add=1))
    assert digest(model, optimizer) == before
