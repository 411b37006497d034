"""Units of published architectures: grown in place, then loaded into their own classes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.optim import SGD

from stagegraph.actions.growth.width.bindings import bind
from stagegraph.actions.growth.width.resize import tensors_of
from stagegraph.errors import ActionError
from tests.actions.growth.attention import act
from tests.actions.growth.hf import GPT2, LLAMA, QWEN2
from tests.actions.growth.wide import actor, grow, ids
from tests.actions.models import digest

transformers = pytest.importorskip("transformers")

EXACT = ("exact", "exact up to rounding")
_MODERN = {
    "vocab_size": 11,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 16,
    "bos_token_id": 1,
    "eos_token_id": None,
    "initializer_range": 0.3,
}
_GPT2 = {
    "vocab_size": 11,
    "n_positions": 8,
    "n_embd": 8,
    "n_layer": 2,
    "n_head": 2,
    "attn_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "initializer_range": 0.3,
}
SPACES = {"gpt2": GPT2, "llama": LLAMA, "qwen2": QWEN2}

GROWTHS = [
    ("gpt2", "extend_vocab", {"space": "vocab", "add": 5}),
    ("gpt2", "extend_context", {"space": "context", "add": 4}),
    ("llama", "extend_vocab", {"space": "vocab", "add": 5}),
    ("llama", "extend_context", {"space": "context", "factor": 2}),
    ("llama", "add_heads", {"space": "groups", "add": 2}),
    ("llama", "add_heads", {"space": "groups", "add": 2, "how": "zero_in"}),
    ("llama", "add_heads", {"space": "per_group", "factor": 2, "how": "split"}),
    ("llama", "widen_head_dim", {"space": "half", "factor": 2}),
    ("qwen2", "extend_vocab", {"space": "vocab", "add": 5, "init": "mean_noise"}),
    ("qwen2", "add_heads", {"space": "per_group", "add": 1}),
    ("qwen2", "add_heads", {"space": "groups", "add": 1, "how": "uneven"}),
    ("qwen2", "widen_head_dim", {"space": "half", "factor": 3}),
]
every_growth = pytest.mark.parametrize(
    ("name", "type_", "fields"), GROWTHS, ids=[f"{n}-{t}-{f['space']}" for n, t, f in GROWTHS]
)


def made(name):
    torch.manual_seed(0)
    if name == "gpt2":
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**_GPT2))
    elif name == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**_MODERN))
    else:
        model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**_MODERN))
    optimizer = SGD(model.parameters(), lr=0.1)
    return model, optimizer, actor(model, optimizer, SPACES[name], {"input_ids": ids()})


def logits(model, x=None):
    with torch.no_grad():
        return model.eval()(ids() if x is None else x).logits


def written(model, x, *, use_cache):
    return model.generate(
        x, max_new_tokens=5, do_sample=False, use_cache=use_cache, pad_token_id=0
    ).tolist()


@every_growth
def test_a_grown_model_is_one_that_its_class_makes(name, type_, fields, tmp_path):
    model, _, standing = made(name)
    expected = logits(model)
    certificate = grow(standing, act(type_, **fields))
    out = logits(model)
    assert certificate["exactness"] in EXACT
    torch.testing.assert_close(out[..., :11], expected, rtol=0, atol=1e-5)
    own = type(model)(copy.deepcopy(model.config))
    own.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(logits(own), out)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(type(model).from_pretrained(tmp_path)), out)


@every_growth
def test_a_grown_model_writes_with_its_cache_what_it_writes_without(name, type_, fields):
    model, _, standing = made(name)
    grow(standing, act(type_, **fields))
    start = ids()[:1, :3]
    cached = written(model.eval(), start, use_cache=True)
    assert len(cached[0]) == 8
    assert cached == written(model, start, use_cache=False)


def test_longer_sequences_can_be_read_afterwards():
    model, _, standing = made("gpt2")
    x = torch.randint(0, 11, (1, 12), generator=torch.Generator().manual_seed(0))
    with pytest.raises(IndexError):
        logits(model, x)
    grow(standing, act("extend_context", space="context", to=12))
    assert logits(model, x).shape == (1, 12, 11)
    assert model.config.n_positions == 12


def test_a_loss_with_labels_knows_the_new_size():
    model, _, standing = made("llama")
    grow(standing, act("extend_vocab", space="vocab", add=5))
    assert model.config.vocab_size == model.vocab_size == model.model.vocab_size == 16
    assert model(ids(), labels=ids() + 4).loss.isfinite()


def test_heads_beside_the_stream_grow_in_place_and_their_class_would_not_make_them():
    """GPT-2 divides its width by the number of heads where it is made."""
    for action in (
        act("add_heads", space="heads", add=1),
        act("widen_head_dim", space="head_dim", add=2),
    ):
        model, _, standing = made("gpt2")
        expected = logits(model)
        assert grow(standing, action)["exactness"] in EXACT
        torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5)


def test_heads_and_the_stream_together_give_a_model_of_the_class():
    model, _, standing = made("gpt2")
    expected = logits(model)
    grow(standing, act("widen", space="stream", to=12), cohort="wide")
    grow(standing, act("add_heads", space="heads", add=1), cohort="more")
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5)
    assert (model.config.n_embd, model.config.n_head, model.config.n_inner) == (12, 3, 32)
    own = type(model)(copy.deepcopy(model.config))
    own.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(logits(own), logits(model))


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize(
    "fields",
    [
        {"space": "mlp", "how": "zero_out", "add": 4},
        {"space": "stream", "how": "zero_in", "add": 8},
        {"space": "stream", "to": 20},
    ],
)
def test_the_same_declarations_serve_to_widen(name, fields):
    model, _, standing = made(name)
    expected = logits(model)
    assert grow(standing, act("widen", **fields))["exactness"] in EXACT
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5)
    if name == "gpt2" and fields["space"] == "stream":
        return  # its heads are as wide together as its stream: they have to grow too, as above
    own = type(model)(copy.deepcopy(model.config))
    own.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(logits(own), logits(model))


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
def test_the_declarations_name_every_tensor(name):
    model, _, _ = made(name)
    bounds = bind(model, SPACES[name], place="here")
    named = {alias for bound in bounds.tensors for alias in bound.aliases}
    assert named == set(tensors_of(model))


def test_frequencies_that_a_class_would_not_compute_are_told():
    model, _, standing = made("llama")
    certificate = grow(standing, act("widen_head_dim", space="half", add=1))
    assert certificate["exactness"] in EXACT
    assert certificate["citizen"] is False
    own = type(model)(copy.deepcopy(model.config))
    own.load_state_dict(model.state_dict(), strict=True)
    assert not torch.allclose(logits(own), logits(model), atol=1e-3)


def test_another_base_is_written_into_the_config(tmp_path):
    model, _, standing = made("llama")
    grow(standing, act("extend_context", space="context", factor=4, rope_base=8))
    assert model.config.rope_parameters["rope_theta"] == 80000.0
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(type(model).from_pretrained(tmp_path)), logits(model))


@pytest.mark.parametrize(
    ("type_", "fields", "message"),
    [
        ("extend_vocab", {"space": "vocab", "add": 5, "quiet": True}, "no bias is in that space"),
        ("add_heads", {"space": "heads", "add": 1}, "no layout names a space 'heads'"),
        (
            "add_heads",
            {"space": "groups", "add": 1},
            r"'config', a LlamaConfig, does not accept .*size \(8\) is not a multiple of .*\(6\)",
        ),
        ("widen_head_dim", {"space": "half", "to": 1}, "there are 2 already, 1 is no growth"),
        ("extend_context", {"space": "context", "factor": 1.01}, "is not a whole number"),
    ],
)
def test_what_cannot_be_is_said_and_changes_nothing(type_, fields, message):
    model, optimizer, standing = made("llama")
    before = digest(model, optimizer)
    with pytest.raises(ActionError, match=message):
        grow(standing, act(type_, **fields))
    assert digest(model, optimizer) == before


def test_a_norm_over_a_heads_units_is_named():
    config = transformers.Qwen3Config(**_MODERN)
    model = transformers.Qwen3ForCausalLM(config)
    spaces = {**LLAMA.tensors}
    spaces = {"*.[qk]_norm.weight": "(2 half)", **spaces}
    declared = LLAMA.model_copy(update={"tensors": type(LLAMA.tensors)(spaces)})
    standing = actor(model, SGD(model.parameters()), declared, {"input_ids": ids()})
    with pytest.raises(ActionError, match=r"'model.layers.0.self_attn.q_norm.weight'.*a norm over"):
        grow(standing, act("widen_head_dim", space="half", factor=2))
