"""Real models of `transformers`, tiny: grown, run, trained, saved, read back and adapted."""

import copy
import os
import warnings

import pytest
import torch
from torch import nn

import stagegraph as sg
from stagegraph.actions import TorchActor
from stagegraph.actions.growth.citizen import why_no_citizen
from stagegraph.actions.growth.depth.deepen import plan
from stagegraph.actions.growth.operation import Site
from stagegraph.errors import ActionError, UnsupportedError
from tests.actions.models import accept, boundary, deepen, growth

os.environ.setdefault("HF_HUB_OFFLINE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    hf = pytest.importorskip("transformers", minversion="5")
hf.logging.set_verbosity_error()

PLACE = "main:grow.actions[0]"
SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GROUPED = {**SIZES, "num_key_value_heads": 1}
HEADS = {**GROUPED, "head_dim": 8}


def gpt2():
    sizes = {"vocab_size": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    return hf.GPT2LMHeadModel(hf.GPT2Config(**sizes, bos_token_id=0, eos_token_id=1))


def vit():
    sizes = {key: SIZES[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    config = hf.ViTConfig(**sizes, num_attention_heads=2, image_size=4, patch_size=2)
    return hf.ViTForImageClassification(config)


def sliding(**more):
    sizes = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    return hf.Qwen2ForCausalLM(hf.Qwen2Config(**GROUPED, **sizes, **more))


def gemma3():
    config = hf.Gemma3TextConfig(**HEADS, layer_types=["sliding_attention", "full_attention"])
    return hf.Gemma3ForCausalLM(config)


PROJECTIONS = {"mlp.down_proj.weight", "self_attn.o_proj.weight"}
NORMS = {"post_feedforward_layernorm.weight", "post_attention_layernorm.weight"}
MODELS = {
    "gpt2": (
        gpt2,
        "transformer.h",
        {f"{part}.c_proj.{kind}" for part in ("mlp", "attn") for kind in ("weight", "bias")},
    ),
    "llama": (lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED)), "model.layers", PROJECTIONS),
    "qwen2": (sliding, "model.layers", PROJECTIONS),
    "qwen3": (lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**HEADS)), "model.layers", PROJECTIONS),
    "olmo2": (lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**GROUPED)), "model.layers", NORMS),
    "gemma2": (lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**HEADS)), "model.layers", NORMS),
    "gemma3": (gemma3, "model.layers", NORMS),
    "mixtral": (
        lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**GROUPED, num_local_experts=4)),
        "model.layers",
        {"mlp.experts.down_proj", "self_attn.o_proj.weight"},
    ),
    "neox": (
        lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SIZES)),
        "gpt_neox.layers",
        {
            f"{part}.{kind}"
            for part in ("mlp.dense_4h_to_h", "attention.dense")
            for kind in ("weight", "bias")
        },
    ),
    "bert": (lambda: hf.BertForMaskedLM(hf.BertConfig(**SIZES)), "bert.encoder.layer", set()),
    "vit": (
        vit,
        "vit.layers",
        {
            f"{part}.{kind}"
            for part in ("mlp.fc2", "attention.o_proj")
            for kind in ("weight", "bias")
        },
    ),
}
GENERATING = [name for name in MODELS if name not in ("bert", "vit")]


def made(name):
    torch.manual_seed(0)
    model = MODELS[name][0]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model.eval()


def inputs(name):
    generator = torch.Generator().manual_seed(1)
    if name == "vit":
        return {"pixel_values": torch.randn(2, 3, 4, 4, generator=generator)}
    return {"input_ids": torch.randint(3, 32, (2, 9), generator=generator)}


def grow(model, name, *, alpha=1.0, optimizer=None, cohort="c", **fields):
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-4)
    actor = TorchActor(model, optimizer, probe=inputs(name))
    action = deepen(**{"stack": MODELS[name][1], "add": 1, **fields})
    outcome = actor.transact(
        boundary(deeds=[growth(action, cohort=cohort)], alphas={cohort: alpha}), accept
    )
    return actor, outcome.evidence[PLACE]


def logits(model, name, **options):
    with torch.no_grad():
        return model(**inputs(name), **options).logits


def read_back(model, folder):
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder).eval()


@pytest.mark.parametrize("name", MODELS)
def test_it_grows_with_nothing_declared_and_stays_a_citizen(name, tmp_path):
    model, stack = made(name), MODELS[name][1]
    before, length = logits(model, name), len(model.get_submodule(stack))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    alpha = 0.0 if name == "bert" else 1.0
    actor, evidence = grow(model, name, add=2, at="spread", alpha=alpha, optimizer=optimizer)
    assert torch.equal(logits(model, name), before)
    assert set(evidence["zeroed"]) == MODELS[name][2] and evidence["notes"] == []
    assert evidence["gated"] == (name == "bert") and evidence["exactness"] == "exact"
    assert model.config.num_hidden_layers == len(model.get_submodule(stack)) == length + 2
    if name == "bert":
        assert "BertLayer into the identity" in evidence["gated_because"][f"{stack}.0"]
        actor.close()  # without its gate it is what its class is
    new = [model.get_submodule(f"{stack}.{block['at']}") for block in evidence["inserted"]]
    old = [[p.detach().clone() for p in block.parameters()] for block in new]
    model.train()
    model(**inputs(name)).logits.square().sum().backward()
    optimizer.step()
    for block, kept in zip(new, old, strict=True):
        changed = [not torch.equal(p, k) for p, k in zip(block.parameters(), kept, strict=True)]
        assert any(changed)
    model.eval()
    own = type(model)(copy.deepcopy(model.config)).eval()
    own.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(logits(own, name), logits(model, name))
    assert torch.equal(logits(read_back(model, tmp_path), name), logits(model, name))


@pytest.mark.parametrize("name", GENERATING)
def test_it_generates_with_its_cache_once_the_new_blocks_have_learned(name):
    model = made(name)
    grow(model, name, at="end")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    cached = logits(model, name)
    assert torch.equal(cached, logits(model, name, use_cache=False))
    ids = inputs(name)["input_ids"]
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 2, "eos_token_id": None}
    with_cache = model.generate(ids, use_cache=True, **options)
    assert torch.equal(with_cache, model.generate(ids, use_cache=False, **options))
    layers = model(ids, use_cache=True).past_key_values
    assert len(layers) == len(model.get_submodule(MODELS[name][1]))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_adapters_by_name_reach_the_new_blocks(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = pytest.importorskip("peft")
    model = made(name)
    grow(model, name, at="spread", add=2)
    before = logits(model, name)
    config = peft.LoraConfig(r=2, target_modules=r".*layers\.\d+\.self_attn\.[qv]_proj")
    adapted = peft.get_peft_model(model, config)
    hit = {path.split(".")[4] for path, _ in adapted.named_modules() if path.endswith("lora_A")}
    assert hit == {"0", "1", "2", "3"}
    assert torch.equal(logits(adapted, name), before)


@pytest.mark.parametrize("name", ["olmo2", "gemma3"])
def test_a_norm_may_be_declared_by_its_name(name):
    model = made(name)
    _, evidence = grow(model, name, zero=("post_*_layernorm",))
    fill = -1.0 if name == "gemma3" else 0.0
    assert evidence["exactness"] == "exact"
    assert bool((model.model.layers[2].post_attention_layernorm.weight == fill).all())


@pytest.mark.parametrize("name", ["olmo2", "gemma2"])
def test_a_zeroed_gain_moves_the_stream_less_than_a_zeroed_projection(name):
    """Measured where a norm follows the branch: one AdamW step at 1e-4 after the growth."""
    share = {}
    for what, zero in (("gain", ()), ("projection", ("self_attn.o_proj", "mlp.down_proj"))):
        model = made(name)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        grow(model, name, zero=zero, optimizer=optimizer)
        model(**inputs(name)).logits.square().mean().backward()
        optimizer.step()
        seen = []
        model.model.layers[2].register_forward_hook(
            lambda _m, args, out, seen=seen: seen.append(
                (out[0] if type(out) is tuple else out) - args[0]
            )
        )
        model.model.layers[2].register_forward_pre_hook(
            lambda _m, args, seen=seen: seen.append(args[0])
        )
        logits(model, name)
        stream, added = seen
        share[what] = float(added.norm() / stream.norm())
    assert share["gain"] < 0.01, share
    assert share["projection"] > 0.05, share


def test_the_second_growth_stands_on_the_first_and_ties_stay_ties():
    model = made("gpt2")
    assert model.lm_head.weight is model.transformer.wte.weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    before = logits(model, "gpt2")
    actor = TorchActor(model, optimizer, probe=inputs("gpt2"))
    for cohort in ("first", "second"):
        action = deepen(stack="transformer.h", add=None, factor=2, at="spread")
        actor.transact(boundary(deeds=[growth(action, cohort=cohort)]), accept)
    assert torch.equal(logits(model, "gpt2"), before)
    assert model.config.n_layer == len(model.transformer.h) == 8
    assert [block.attn.layer_idx for block in model.transformer.h] == list(range(8))
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.transformer.h[4] is modules["transformer.h.1"]
    assert model.transformer.h[4].ln_1.weight is parameters["transformer.h.1.ln_1.weight"]
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))


def test_each_layer_type_goes_with_its_block(tmp_path):
    model = made("qwen2")
    assert model.config.layer_types == ["full_attention", "sliding_attention"]
    grow(model, "qwen2", at="spread", add=2)
    assert model.config.layer_types == ["full_attention"] * 2 + ["sliding_attention"] * 2
    assert [b.self_attn.sliding_window for b in read_back(model, tmp_path).model.layers] == [
        None,
        None,
        4,
        4,
    ]


def test_encoder_and_decoder_are_told_apart():
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 2}
    config = hf.T5Config(**sizes, num_heads=2, decoder_start_token_id=0)
    model = hf.T5ForConditionalGeneration(config)
    paths = {}
    for side in ("encoder", "decoder"):
        planned = plan(Site(model), deepen(stack=f"{side}.block", how="interleave"), place="p")
        paths[side] = {count.path for count in planned.counts}
        assert [place.copy_of for place in planned.places] == [1, 1]  # 0 has the position bias
        assert planned.notes(Site(model)) == ()
    assert paths["encoder"] == {"config.num_layers", "encoder.config.num_layers"}
    assert {"config.num_decoder_layers", "decoder.config.num_layers"} < paths["decoder"]


def test_what_the_class_cannot_express_is_noted():
    torch.manual_seed(0)
    sizes = {**GROUPED, "num_hidden_layers": 3, "num_experts": 4, "mlp_only_layers": [1]}
    config = hf.Qwen2MoeConfig(**sizes, moe_intermediate_size=8, shared_expert_intermediate_size=8)
    site = Site(hf.Qwen2MoeForCausalLM(config))
    (said,) = plan(site, deepen(stack="model.layers", add=3, at="spread"), place="p").notes(site)
    assert said.startswith(
        "the model will no longer be what Qwen2MoeForCausalLM builds from its config, so that "
        "Qwen2MoeForCausalLM.from_pretrained would not give it back: it has model.layers.1.mlp."
    )
    assert plan(site, deepen(stack="model.layers", at="end"), place="p").notes(site) == ()
    site = Site(made("qwen2"))
    action = deepen(stack="model.layers", leave=("config.layer_types",))
    (said,) = plan(site, action, place="p").notes(site)
    assert "it refuses the config (" in said


GRAPH = """
stagegraph: 1
name: deeper
metrics: {val_loss: {goal: minimize, every: 5 steps}}
budget: {steps: 200}
initial: train
stages:
  train: {kind: train, duration: 10 steps, next: grow}
  grow:
    kind: grow
    actions: [{type: deepen, stack: model.layers, add: 1, leave: [config.layer_types]}]
    next: settle
  settle: {kind: settle, duration: 10 steps, lr_factor: 0.5, next: done}
  done: {kind: final}
"""


def test_a_check_warns_of_it_and_refuses_nothing():
    model = made("qwen2")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    found = sg.check(sg.load(GRAPH), model=model, optimizer=optimizer, probe=inputs("qwen2"))
    (finding,) = [finding for finding in found if finding.code == "model-mismatch"]
    assert finding.severity == "warning" and finding.pointer == "/stages/grow/actions/0"
    assert finding.message.startswith("main:grow.actions[0]: the model will no longer be what Qwen")
    assert "nothing, if the run is to be read back through its own folder" in finding.remedy
    sg.Engine(sg.load(GRAPH), model=model, optimizer=optimizer, probe=inputs("qwen2")).close()


def test_numbers_that_the_config_would_not_give_back_are_noted():
    model = made("qwen2")
    model.model.layers[1].self_attn.sliding_window = 3
    assert "self_attn.sliding_window is 3 and would be 4" in why_no_citizen(model)[0]
    assert why_no_citizen(model, before=model) == []
    del model.model.layers[1].mlp.up_proj
    assert "it lacks model.layers.1.mlp.up_proj.weight" in why_no_citizen(model)[0]


def test_a_stage_of_a_published_resnet_grows_by_its_place_in_depths(tmp_path):
    torch.manual_seed(0)
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [2, 2]}
    config = hf.ResNetConfig(num_channels=1, layer_type="basic", **sizes)
    model = hf.ResNetForImageClassification(config)
    probe = {"pixel_values": torch.randn(2, 1, 32, 32)}
    actor = TorchActor(model, torch.optim.SGD(model.parameters(), lr=0.1), probe=probe)
    action = deepen(stack="resnet.encoder.stages.1.layers", at="spread")
    evidence = actor.transact(boundary(deeds=[growth(action)]), accept).evidence[PLACE]
    assert model.config.depths == [2, 4] and evidence["exactness"] == "exact"
    assert [block["copy_of"] for block in evidence["inserted"]] == ["1", "1"]
    model.eval()
    assert torch.equal(read_back(model, tmp_path)(**probe).logits, model(**probe).logits)


def test_a_block_that_no_zeros_make_the_identity_needs_a_closed_gate():
    with pytest.raises(ActionError, match=r"BertLayer into the identity; .* alpha_ramp from 0"):
        grow(made("bert"), "bert")


def test_new_weights_begin_as_the_class_begins_them():
    model = made("llama")
    state = torch.get_rng_state()
    _, evidence = grow(model, "llama", init="fresh")
    assert torch.equal(state, torch.get_rng_state())
    assert evidence["init"] == "fresh" and evidence["exactness"] == "exact"
    block = model.model.layers[2]
    assert 0.01 < float(block.self_attn.q_proj.weight.detach().std()) < 0.03  # initializer_range
    assert torch.equal(block.input_layernorm.weight, torch.ones(16))
    assert not block.mlp.down_proj.weight.any()


def test_layers_that_use_each_other_by_number_are_refused():
    model = made("llama")
    model.config.num_kv_shared_layers = 1
    with pytest.raises(UnsupportedError, match=r"^p: config\.num_kv_shared_layers is 1: layers of"):
        plan(Site(model), deepen(stack="model.layers"), place="p")


def test_a_count_may_be_left_by_choice():
    model = made("qwen2")
    action = deepen(stack="model.layers", leave=("config.layer_types",))
    counts = plan(Site(model), action, place="p").counts
    assert [count.path for count in counts] == ["config.num_hidden_layers"]
    assert isinstance(model.model.layers, nn.ModuleList)
