"""Real models of transformers inherit from smaller ones of their own class."""

import copy

import pytest
import torch

import stagegraph as sg
from stagegraph.actions import TorchActor
from stagegraph.actions.growth.width.tracing.propose import propose
from stagegraph.actions.growth.width.tracing.reading import trace
from stagegraph.schema.actions import Regrow
from stagegraph.schema.spaces import Spaces
from tests.actions.growth.wide import grow

transformers = pytest.importorskip("transformers")

IDS = {"input_ids": torch.randint(0, 31, (2, 7), generator=torch.Generator().manual_seed(1))}
IDENTITY = "exact up to rounding"


def gpt2(width=16, layers=2, heads=2, positions=12):
    config = transformers.GPT2Config(
        vocab_size=31,
        n_positions=positions,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=0.0,  # a wider stream draws other random numbers
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config).double().eval()


def llama(width=16, layers=2, kv_heads=2, inner=24):
    config = transformers.LlamaConfig(
        vocab_size=31,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2 * kv_heads,
        num_key_value_heads=kv_heads,
        intermediate_size=inner,
        head_dim=4,
        max_position_embeddings=32,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.LlamaForCausalLM(config).double().eval()


def spaces_of(model, **sizes):
    return {"tensors": propose(trace(model, IDS), model), "sizes": sizes}


def logits(model):
    with torch.no_grad():
        return copy.deepcopy(model).eval()(**IDS).logits


@pytest.mark.parametrize("width", [32, 40])
def test_gpt2(width):
    torch.manual_seed(0)
    small, large = gpt2(), gpt2(width, layers=4, heads=width // 8, positions=20)
    spaces = spaces_of(large, **{"config.n_head": "heads"})
    report = sg.inherit(large, small, spaces=spaces, probe=IDS, strict=True)
    torch.testing.assert_close(logits(large), logits(small), rtol=0, atol=1e-12)
    assert report.exactness == IDENTITY
    assert report.promised
    assert large.lm_head.weight is large.transformer.wte.weight
    for _, value in report.written.values():
        assert value == pytest.approx(1e-5 * 32 / width)
    assert large.config.layer_norm_epsilon == pytest.approx(1e-5 * 32 / width)


def test_llama_from_a_file_alone(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    torch.manual_seed(0)
    small, large = llama(), llama(32, layers=4, kv_heads=4, inner=40)
    safetensors.save_file(small.state_dict(), tmp_path / "small.safetensors")
    report = sg.inherit(
        large,
        tmp_path / "small.safetensors",
        spaces=spaces_of(large, **{"config.num_key_value_heads": "kv_heads"}),
        sizes={"kv_heads": 2, "group": 2},
        probe=IDS,
        strict=True,
    )
    # its norms and its softmax compute in single precision, whatever the model's
    torch.testing.assert_close(logits(large), logits(small), rtol=0, atol=1e-6)
    assert report.exactness is None
    assert report.counts["left"] == report.counts["refused"] == report.counts["unused"] == 0


def test_gpt2_regrows_from_its_config():
    torch.manual_seed(0)
    model = gpt2()
    blocks, before = list(model.transformer.h), logits(model)
    spaces = Spaces.model_validate(spaces_of(model, **{"config.n_head": "heads"}))
    optimizer = torch.optim.AdamW(model.parameters())
    standing = TorchActor(model, optimizer, spaces=spaces, probe=IDS)
    fields = {"n_embd": 32, "n_layer": 4, "n_head": 4}
    action = Regrow(type="regrow", fields=fields, how="split", stacks="identity")
    certificate = grow(standing, action)
    assert certificate["promised"]
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-12)
    assert list(model.transformer.h)[:2] == blocks
    assert model.config.n_layer == 4
    assert model.transformer.h[3].attn.config is model.config
    again = transformers.GPT2LMHeadModel(model.config).double()
    again.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(logits(again), before, rtol=0, atol=1e-12)
    fresh = gpt2()
    other = TorchActor(fresh, torch.optim.AdamW(fresh.parameters()), spaces=spaces, probe=IDS)
    other.load_state_dict(standing.state_dict())
    fresh.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(logits(fresh), logits(model))
