"""All that must grow has been found: the grown model runs, and hidden growth is exact."""

import copy

import pytest
import torch

from stagegraph.actions.growth.width.tracing.reading import trace
from tests.actions.growth.width.tracing import zoo
from tests.actions.models import Model, batch
from tests.session.training import PROBE, Net


def _depthwise(model):
    model.depthwise.groups = model.depthwise.weight.shape[0]
    model.grouped.groups = model.depthwise.weight.shape[0] // model.grouped.weight.shape[1]


MODELS = {
    "net": (Net, PROBE, None),
    "toy transformer": (Model, batch(), None),
    "mlp": (lambda: zoo.mlp(4, 6, 7, 3), torch.ones(2, 4), None),
    "even mlp": (lambda: zoo.mlp(5, 5, 5, 5), torch.ones(2, 5), None),
    "resnet": (zoo.ResNet, zoo.IMAGES, None),
    "even resnet": (lambda: zoo.ResNet(3, 3), zoo.IMAGES, None),
    "flat resnet": (lambda: zoo.ResNet(4, 4, pooled=False), zoo.IMAGES, None),
    "mobile": (zoo.Mobile, zoo.IMAGES, _depthwise),
    "dense": (zoo.Dense, zoo.IMAGES, None),
    "even dense": (lambda: zoo.Dense(3, 3), zoo.IMAGES, None),
    "odd": (zoo.Odd, torch.randn(2, 5, 4), None),
    "even odd": (lambda: zoo.Odd(6, 6), torch.randn(2, 5, 4), None),
    "fused vit": (lambda: zoo.ViT("fused"), zoo.IMAGES, None),
    "eager vit": (lambda: zoo.ViT("eager"), zoo.IMAGES, None),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_runs_when_a_space_has_one_more_unit_everywhere(name):
    build, probe, fix = MODELS[name]
    torch.manual_seed(1)
    model = _stirred(build())
    traced = trace(model, probe)
    before = model(probe)
    tried = 0
    for space, found in traced.spaces.items():
        if found.is_input or _is_counted(model, found):
            continue
        tried += 1
        grouped = [norm.groups for norm in found.norms if norm.kind == "group"]
        more = {space: grouped[0] if grouped else 1}
        after = zoo.grown(model, traced, more, fix)(probe)
        if found.is_output:
            assert after.shape[-1] == before.shape[-1] + 1
            continue
        assert after.shape == before.shape
        if not ({norm.kind for norm in found.norms} - {"batch"} or _is_contracted(found)):
            torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    assert tried


def _stirred(model):
    """In eval mode, with no weight that is zero or one by its initialisation."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) * 0.5 + 0.25)
    return model.eval()


def _is_contracted(space):
    """Scores are scaled by the size of a head."""
    return "head_dim" in space.hints


def _is_counted(model, space):
    """The number of heads is an attribute of these models: the test below adds one."""
    return "heads" in space.hints and isinstance(model, zoo.ViT)


@pytest.mark.parametrize("fused", [True, False])
def test_a_head_can_be_added_where_the_trace_says(fused):
    torch.manual_seed(1)
    model = _stirred(zoo.ViT("fused" if fused else "eager"))
    traced = trace(model, zoo.IMAGES)
    heads = [space for space, found in traced.spaces.items() if "heads" in found.hints]
    assert len(heads) == 2

    def fix(model):
        model.blocks[0].attn.heads += 1

    larger = zoo.grown(model, traced, {heads[0]: 1}, fix)
    assert larger.blocks[0].attn.qkv.weight.shape == (36, 8)
    assert larger.blocks[1].attn.qkv.weight.shape == (24, 8)
    torch.testing.assert_close(larger(zoo.IMAGES), model(zoo.IMAGES))


def test_a_unit_missed_anywhere_breaks_the_model():
    model = Net().eval()
    traced = trace(model, PROBE)
    larger = zoo.grown(model, traced, {"blocks.0.up.weight:0": 1})
    missed = copy.deepcopy(larger)
    missed.blocks[0].down.weight.data = model.blocks[0].down.weight.data
    larger(PROBE)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        missed(PROBE)


def test_the_library_s_attention_grows_by_heads_with_its_stream():
    """They are two spaces of the tracer's and one number of the constructor's."""
    torch.manual_seed(1)
    model = _stirred(zoo.ViT("library", 8, 2))
    traced = trace(model, zoo.IMAGES)
    heads = [space for space, found in traced.spaces.items() if "heads" in found.hints]

    def fix(model):
        for block in model.blocks:
            inner = block.attn.inner
            inner.embed_dim = inner.kdim = inner.vdim = 12
            inner.num_heads = 3

    more = {"cls:2": 4, **dict.fromkeys(heads, 1)}
    assert zoo.grown(model, traced, more, fix)(zoo.IMAGES).shape == (2, 5)
    del more["cls:2"]
    with pytest.raises(AssertionError, match="expecting embedding dimension of 12"):
        zoo.grown(model, traced, more, fix)(zoo.IMAGES)
