"""The spaces of some architectures of transformers, all that have a name in them."""

from __future__ import annotations

from stagegraph.schema.spaces import Spaces

GPT2 = Spaces(
    tensors={
        "transformer.wte.weight": "vocab stream",
        "lm_head.weight": "vocab stream",
        "transformer.wpe.weight": "context stream",
        "*.ln_?.*": "stream",
        "*.attn.c_attn.weight": "stream (3 heads head_dim)",
        "*.attn.c_attn.bias": "(3 heads head_dim)",
        "*.attn.c_proj.weight": "(heads head_dim) stream",
        "*.attn.c_proj.bias": "stream",
        "*.mlp.c_fc.weight": "stream mlp",
        "*.mlp.c_fc.bias": "mlp",
        "*.mlp.c_proj.weight": "mlp stream",
        "*.mlp.c_proj.bias": "stream",
    },
    sizes={
        "config.vocab_size": "vocab",
        "config.n_positions": "context",
        "config.n_embd": "stream",
        "config.n_head": "heads",
        "config.n_inner": "mlp",
        "*.attn.num_heads": "heads",
        "*.attn.head_dim": "head_dim",
        "*.attn.split_size": "(heads head_dim)",
        "*.embed_dim": "stream",
    },
)
"""``config.n_inner`` may be ``None``, for four times the stream: a growth writes the number."""

_LLAMA_TENSORS = {
    "model.embed_tokens.weight": "vocab stream",
    "lm_head.weight": "vocab stream",
    "*.q_proj.weight": "(groups per_group 2 half) stream",
    "*.[kv]_proj.weight": "(groups 2 half) stream",
    "*.o_proj.weight": "stream (groups per_group 2 half)",
    "*.gate_proj.weight": "mlp stream",
    "*.up_proj.weight": "mlp stream",
    "*.down_proj.weight": "stream mlp",
    "*norm.weight": "stream",
    "*inv_freq": "half",
}

_LLAMA_SIZES = {
    "*.vocab_size": "vocab",
    "config.hidden_size": "stream",
    "model.layers.*.hidden_size": "stream",
    "config.intermediate_size": "mlp",
    "model.layers.*.intermediate_size": "mlp",
    "config.num_attention_heads": "(groups per_group)",
    "config.num_key_value_heads": "groups",
    "*.self_attn.num_key_value_groups": "per_group",
    "config.head_dim": "(2 half)",
    "*.self_attn.head_dim": "(2 half)",
    "config.max_position_embeddings": "context",
    "model.rotary_emb.max_seq_len_cached": "context",
    "model.rotary_emb.original_max_seq_len": "context",
}

LLAMA = Spaces(tensors=_LLAMA_TENSORS, sizes=_LLAMA_SIZES)
"""``config.head_dim`` must be a number, as it is in every Llama since it has that name."""

QWEN2 = Spaces(
    tensors={
        **_LLAMA_TENSORS,
        "*.q_proj.bias": "(groups per_group 2 half)",
        "*.[kv]_proj.bias": "(groups 2 half)",
    },
    sizes=_LLAMA_SIZES,
)
"""The config must be made with ``head_dim=``, which the class reads and does not need."""
