"""Published models of tiny sizes, with the fused attention kernel and with plain softmax."""

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from stagegraph.actions.growth.width.tracing.reading import trace
from tests.actions.growth.width.tracing import zoo

IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
KERNELS = pytest.mark.parametrize("kernel", ["sdpa", "eager"])


def gpt2(kernel="sdpa", hidden=12, heads=3, inner=20):
    config = GPT2Config(n_layer=2, n_embd=hidden, n_head=heads, n_inner=inner, vocab_size=23,
                        n_positions=16, bos_token_id=1, eos_token_id=2,
                        attn_implementation=kernel)  # fmt: skip
    return GPT2LMHeadModel(config)


def llama(kernel="sdpa", hidden=24, inner=40, **more):
    config = LlamaConfig(num_hidden_layers=2, hidden_size=hidden, intermediate_size=inner,
                         num_attention_heads=4, num_key_value_heads=2, vocab_size=23,
                         attn_implementation=kernel, **more)  # fmt: skip
    return LlamaForCausalLM(config)


@KERNELS
@pytest.mark.parametrize("sizes", [(12, 3, 20), (16, 4, 16), (9, 3, 27)])
def test_gpt2(kernel, sizes):
    assert zoo.proposed(gpt2(kernel, *sizes), IDS) == {
        "transformer.wte.weight": "vocab stream",
        "transformer.wpe.weight": "positions stream",
        "transformer.h.*.ln_1.weight": "stream",
        "transformer.h.*.ln_1.bias": "stream",
        "transformer.h.*.attn.c_attn.weight": "stream (3 heads head_dim)",
        "transformer.h.*.attn.c_attn.bias": "(3 heads head_dim)",
        "transformer.h.*.attn.c_proj.weight": "(heads head_dim) stream",
        "transformer.h.*.attn.c_proj.bias": "stream",
        "transformer.h.*.ln_2.weight": "stream",
        "transformer.h.*.ln_2.bias": "stream",
        "transformer.h.*.mlp.c_fc.weight": "stream mlp",
        "transformer.h.*.mlp.c_fc.bias": "mlp",
        "transformer.h.*.mlp.c_proj.weight": "mlp stream",
        "transformer.h.*.mlp.c_proj.bias": "stream",
        "transformer.ln_f.weight": "stream",
        "transformer.ln_f.bias": "stream",
    }


LLAMA = {
    "model.embed_tokens.weight": "vocab stream",
    "model.layers.*.self_attn.q_proj.weight": "(kv_heads group head_dim) stream",
    "model.layers.*.self_attn.k_proj.weight": "(kv_heads head_dim) stream",
    "model.layers.*.self_attn.v_proj.weight": "(kv_heads value_dim) stream",
    "model.layers.*.self_attn.o_proj.weight": "stream (kv_heads group value_dim)",
    "model.layers.*.mlp.gate_proj.weight": "mlp stream",
    "model.layers.*.mlp.up_proj.weight": "mlp stream",
    "model.layers.*.mlp.down_proj.weight": "stream mlp",
    "model.layers.*.input_layernorm.weight": "stream",
    "model.layers.*.post_attention_layernorm.weight": "stream",
    "model.norm.weight": "stream",
}
"""What grouped-query models of the kind have, one line for all layers."""


@KERNELS
@pytest.mark.parametrize("sizes", [(24, 40), (24, 24), (16, 16)])
@pytest.mark.parametrize("more", [{}, {"head_dim": 8}])
def test_llama(kernel, sizes, more):
    layouts = zoo.proposed(llama(kernel, *sizes, **more), IDS)
    assert layouts == {**LLAMA, "lm_head.weight": "outputs stream"}


@KERNELS
def test_llama_with_heads_of_the_same_size_as_their_number(kernel):
    layouts = zoo.proposed(llama(kernel, 16, 16, head_dim=4), IDS)
    assert layouts == {**LLAMA, "lm_head.weight": "outputs stream"}


@KERNELS
def test_qwen2_with_a_tied_head(kernel):
    config = Qwen2Config(num_hidden_layers=2, hidden_size=24, intermediate_size=24,
                         num_attention_heads=4, num_key_value_heads=2, vocab_size=24,
                         tie_word_embeddings=True, attn_implementation=kernel)  # fmt: skip
    model = Qwen2ForCausalLM(config)
    biases = {
        "model.layers.*.self_attn.q_proj.bias": "(kv_heads group head_dim)",
        "model.layers.*.self_attn.k_proj.bias": "(kv_heads head_dim)",
        "model.layers.*.self_attn.v_proj.bias": "(kv_heads value_dim)",
    }
    assert zoo.proposed(model, {"input_ids": IDS}) == LLAMA | biases


def test_a_tied_weight_shows_that_it_is_read_and_written():
    traced = trace(gpt2(), IDS)
    rows, columns = traced.axes["lm_head.weight"]
    assert traced.axes["transformer.wte.weight"] == (rows, columns)
    assert rows.factors[0].roles == {"index", "out"}
    assert columns.factors[0].roles == {"out", "in"}
    assert [(use.module, use.roles) for use in traced.uses["lm_head.weight"]] == [
        ("transformer.wte", ("index", "out")),
        ("lm_head", ("out", "in")),
    ]
    vocabulary = traced.spaces["transformer.wte.weight:0"]
    assert vocabulary.is_output and vocabulary.size == 23
    assert [member.name for member in vocabulary.members] == [
        "transformer.wte.weight",
        "lm_head.weight",
    ]


def test_rms_norms_are_recognised_with_gain_and_eps():
    traced = trace(llama(rms_norm_eps=1e-4), IDS)
    norms = traced.spaces["model.embed_tokens.weight:1"].norms
    assert [(norm.kind, norm.module, norm.gain) for norm in norms] == [
        ("rms", path, f"{path}.weight")
        for path in (
            "model.layers.0.input_layernorm",
            "model.layers.0.post_attention_layernorm",
            "model.layers.1.input_layernorm",
            "model.layers.1.post_attention_layernorm",
            "model.norm",
        )
    ]
    assert {norm.eps for norm in norms} == {1e-4}


def test_a_rotated_head_dim_says_that_it_is_cut_in_halves():
    traced = trace(llama(), IDS)
    head_dim = traced.axes["model.layers.1.self_attn.q_proj.weight"][0].factors[2].space
    assert traced.spaces[head_dim].sliced == (
        "model.layers.0.self_attn",
        "model.layers.1.self_attn",
    )
    assert traced.axes["model.rotary_emb.inv_freq"][0].factors[0].space is None


def test_positions_looked_up_are_a_table_of_their_own():
    traced = trace(gpt2(), IDS)
    positions = traced.spaces["transformer.wpe.weight:0"]
    assert positions.hints == {"positions"} and positions.size == 16
    assert [member.roles for member in positions.members] == [{"index"}]


@KERNELS
@pytest.mark.parametrize("factor", [0, 1])
def test_llama_runs_with_a_key_head_or_a_query_of_each_more_where_the_trace_says(kernel, factor):
    torch.manual_seed(0)
    model = llama(kernel).eval()
    traced = trace(model, IDS)
    query = traced.axes["model.layers.1.self_attn.q_proj.weight"][0]
    space = query.factors[factor].space

    def fix(model):
        model.model.layers[1].self_attn.num_key_value_groups = 2 + factor

    larger = zoo.grown(model, traced, {space: 1}, fix)
    assert larger.model.layers[1].self_attn.q_proj.weight.shape == (6 * (6, 6)[factor], 24)
    assert larger.model.layers[1].self_attn.k_proj.weight.shape == (6 * (3, 2)[factor], 24)
    torch.testing.assert_close(larger(IDS).logits, model(IDS).logits)


def test_llama_runs_with_a_hidden_unit_more_where_the_trace_says():
    torch.manual_seed(0)
    model = llama().eval()
    traced = trace(model, IDS)
    space = traced.axes["model.layers.0.mlp.down_proj.weight"][1].factors[0].space
    larger = zoo.grown(model, traced, {space: 1})
    assert larger.model.layers[0].mlp.up_proj.weight.shape == (41, 24)
    torch.testing.assert_close(larger(IDS).logits, model(IDS).logits)


@KERNELS
def test_padding_labels_and_a_batch_of_one_change_nothing(kernel):
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    expected = {**LLAMA, "lm_head.weight": "outputs stream"}
    probe = {"input_ids": IDS, "attention_mask": mask, "labels": IDS}
    assert zoo.proposed(llama(kernel), probe) == expected
    assert zoo.proposed(llama(kernel), IDS[:1]) == expected


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_adapters_of_low_rank_share_the_spaces_of_what_they_adapt():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=3, target_modules=["q_proj", "down_proj"])
    layouts = zoo.proposed(peft.get_peft_model(llama(), config), IDS)
    prefix = "base_model.model.model.layers.*"
    assert layouts[f"{prefix}.self_attn.q_proj.lora_A.default.weight"] == "rank stream"
    query = "(kv_heads group head_dim)"
    assert layouts[f"{prefix}.self_attn.q_proj.lora_B.default.weight"] == f"{query} rank"
    assert layouts[f"{prefix}.mlp.down_proj.lora_A.default.weight"] == "rank2 mlp"
    assert layouts[f"{prefix}.mlp.down_proj.base_layer.weight"] == "stream mlp"
