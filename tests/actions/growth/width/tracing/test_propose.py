import pytest
import torch
from torch import nn

from tests.actions.growth.width.tracing import zoo
from tests.actions.models import Model, batch
from tests.session.training import PROBE, Net


def test_residual_mlp_blocks_share_one_stream_and_have_a_hidden_each():
    assert zoo.proposed(Net(), PROBE) == {
        "inp.weight": "stream inputs",
        "inp.bias": "stream",
        "blocks.*.norm.weight": "stream",
        "blocks.*.norm.bias": "stream",
        "blocks.*.up.weight": "mlp stream",
        "blocks.*.up.bias": "mlp",
        "blocks.*.down.weight": "stream mlp",
        "blocks.*.down.bias": "stream",
        "head.weight": "_ stream",
        "head.bias": "_",
    }


def test_queries_that_meet_the_stream_itself_are_of_the_stream():
    assert zoo.proposed(Model(), batch()) == {
        "inp.weight": "stream inputs",
        "inp.bias": "stream",
        "blocks.*.ln1.weight": "stream",
        "blocks.*.ln1.bias": "stream",
        "blocks.*.q.weight": "stream stream",
        "blocks.*.q.bias": "stream",
        "blocks.*.v.weight": "value_dim stream",
        "blocks.*.v.bias": "value_dim",
        "blocks.*.o.weight": "stream value_dim",
        "blocks.*.o.bias": "stream",
        "blocks.*.ln2.weight": "stream",
        "blocks.*.ln2.bias": "stream",
        "blocks.*.fc1.weight": "mlp stream",
        "blocks.*.fc1.bias": "mlp",
        "blocks.*.fc2.weight": "stream mlp",
        "blocks.*.fc2.bias": "stream",
        "bn.weight": "stream",
        "bn.bias": "stream",
        "bn.running_mean": "stream",
        "bn.running_var": "stream",
        "head.weight": "outputs stream",
        "head.bias": "outputs",
    }


@pytest.mark.parametrize("sizes", [(4, 6, 7, 3), (5, 5, 5, 5)])
def test_layers_of_an_mlp_are_spaces_of_their_own_whatever_their_sizes(sizes):
    assert zoo.proposed(zoo.mlp(*sizes), torch.ones(2, sizes[0])) == {
        "0.weight": "hidden inputs",
        "0.bias": "hidden",
        "2.weight": "hidden2 hidden",
        "2.bias": "hidden2",
        "4.weight": "outputs hidden2",
        "4.bias": "outputs",
    }


@pytest.mark.parametrize("widths", [(4, 6), (4, 4), (3, 3)])
def test_resnet_stages_are_spaces_that_a_shortcut_ties(widths):
    layouts = zoo.proposed(zoo.ResNet(*widths), zoo.IMAGES)
    second = "layer2_conv2"
    assert {name: text for name, text in layouts.items() if not name.endswith("bias")} == {
        "stem.weight": "stem inputs _ _",
        "layer1.conv1.weight": "layer1_conv1 stem _ _",
        **dict.fromkeys(_norm("layer1.bn1"), "layer1_conv1"),
        "layer1.conv2.weight": "stem layer1_conv1 _ _",
        **dict.fromkeys(_norm("layer1.bn2"), "stem"),
        "layer2.conv1.weight": "layer2_conv1 stem _ _",
        **dict.fromkeys(_norm("layer2.bn1"), "layer2_conv1"),
        "layer2.conv2.weight": f"{second} layer2_conv1 _ _",
        **dict.fromkeys(_norm("layer2.bn2"), second),
        "layer2.down.0.weight": f"{second} stem _ _",
        **dict.fromkeys(_norm("layer2.down.1"), second),
        "head.weight": f"outputs {second}",
    }


def _norm(name):
    return [f"{name}.{end}" for end in ("weight", "running_mean", "running_var")]


@pytest.mark.parametrize("widths", [(4, 6), (4, 4)])
def test_a_head_on_a_flattened_image_reads_each_channel_once_per_place(widths):
    layouts = zoo.proposed(zoo.ResNet(*widths, pooled=False), zoo.IMAGES)
    assert layouts["head.weight"] == "outputs (layer2_conv2 16)"


def test_depthwise_and_grouped_convolutions():
    assert zoo.proposed(zoo.Mobile(), zoo.IMAGES) == {
        "stem.weight": "stem inputs _ _",
        "stem.bias": "stem",
        "expand.weight": "(expand expand2) stem _ _",
        "expand.bias": "(expand expand2)",
        "depthwise.weight": "(expand expand2) _ _ _",
        "depthwise.bias": "(expand expand2)",
        "norm.weight": "(expand expand2)",
        "norm.bias": "(expand expand2)",
        "grouped.weight": "(expand grouped) expand2 _ _",
        "grouped.bias": "(expand grouped)",
        "project.weight": "stem (expand grouped) _ _",
        "project.bias": "stem",
        "head.weight": "outputs stem",
        "head.bias": "outputs",
    }


def _vit(attention):
    return {
        "cls": "_ _ stream",
        "pos": "_ _ stream",
        "patch.weight": "stream inputs _ _",
        "patch.bias": "stream",
        "blocks.*.ln1.weight": "stream",
        "blocks.*.ln1.bias": "stream",
        **attention,
        "blocks.*.ln2.weight": "stream",
        "blocks.*.ln2.bias": "stream",
        "blocks.*.up.weight": "mlp stream",
        "blocks.*.up.bias": "mlp",
        "blocks.*.down.weight": "stream mlp",
        "blocks.*.down.bias": "stream",
        "norm.weight": "stream",
        "norm.bias": "stream",
        "head.weight": "outputs stream",
        "head.bias": "outputs",
    }


@pytest.mark.parametrize("attention", ["fused", "eager"])
@pytest.mark.parametrize("sizes", [(8, 2, 12), (4, 2, 4), (9, 3, 9)])
def test_a_vision_transformer_by_hand(attention, sizes):
    assert zoo.proposed(zoo.ViT(attention, *sizes), zoo.IMAGES) == _vit(
        {
            "blocks.*.attn.qkv.weight": "(3 heads head_dim) stream",
            "blocks.*.attn.qkv.bias": "(3 heads head_dim)",
            "blocks.*.attn.out.weight": "stream (heads head_dim)",
            "blocks.*.attn.out.bias": "stream",
        }
    )


@pytest.mark.parametrize("sizes", [(8, 2, 12), (4, 2, 4), (9, 3, 9)])
def test_a_vision_transformer_with_the_library_s_attention(sizes):
    assert zoo.proposed(zoo.ViT("library", *sizes), zoo.IMAGES) == _vit(
        {
            "blocks.*.attn.inner.in_proj_weight": "(3 heads head_dim) stream",
            "blocks.*.attn.inner.in_proj_bias": "(3 heads head_dim)",
            "blocks.*.attn.inner.out_proj.weight": "stream (heads head_dim)",
            "blocks.*.attn.inner.out_proj.bias": "stream",
        }
    )


@pytest.mark.parametrize(("width", "growth"), [(4, 3), (3, 3)])
def test_dense_blocks_read_a_concatenation(width, growth):
    a, b, c = "stem", "convs", "convs2"
    assert zoo.proposed(zoo.Dense(width, growth), zoo.IMAGES) == {
        "stem.weight": f"{a} inputs _ _",
        "stem.bias": a,
        **dict.fromkeys(("norms.0.weight", "norms.0.bias"), a),
        **dict.fromkeys(("norms.1.weight", "norms.1.bias"), f"({a} + {b})"),
        "convs.0.weight": f"{b} {a} _ _",
        "convs.0.bias": b,
        "convs.1.weight": f"{c} ({a} + {b}) _ _",
        "convs.1.bias": c,
        "head.weight": f"outputs ({a} + {b} + {c})",
        "head.bias": "outputs",
        **dict.fromkeys(("norms.0.running_mean", "norms.0.running_var"), a),
        **dict.fromkeys(("norms.1.running_mean", "norms.1.running_var"), f"({a} + {b})"),
    }


@pytest.mark.parametrize("sizes", [(6, 8), (6, 6)])
def test_weights_that_are_read_without_their_module(sizes):
    assert zoo.proposed(zoo.Odd(*sizes), torch.randn(2, 5, 4)) == {
        "inp.weight": "stream inputs",
        "inp.bias": "stream",
        "table.weight": "_ stream",
        "place": "_ stream",
        "up.weight": "mlp stream",
        "up.bias": "mlp",
        "gate.weight": "mlp stream",
        "gate.bias": "_",
        "down.weight": "stream mlp",
        "head.weight": "outputs stream",
        "head.bias": "outputs",
    }


def test_a_gated_mlp_packed_in_one_layer():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp, self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 16), nn.Linear(8, 6)

        def forward(self, x):
            x = self.inp(x)
            gate, value = self.up(x).chunk(2, -1)
            return x + self.down(torch.sigmoid(gate) * value)

    layouts = zoo.proposed(Gated(), torch.randn(2, 3, 4))
    assert layouts["up.weight"] == "(2 mlp) stream"
    assert layouts["down.weight"] == "stream mlp"


def test_parts_of_unequal_sizes_are_a_sum():
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(6, 8 + 4 + 4), nn.Linear(8, 6)

        def forward(self, x):
            b, t, _ = x.shape
            q, k, v = self.qkv(x).split((8, 4, 4), -1)
            q, k, v = (part.view(b, t, -1, 2).transpose(1, 2) for part in (q, k, v))
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
            return self.out(mixed.transpose(1, 2).flatten(2))

    layouts = zoo.proposed(Fused(), torch.randn(2, 3, 6))
    parts = "((kv_heads group head_dim) + (kv_heads head_dim) + (kv_heads value_dim))"
    assert layouts == {
        "qkv.weight": f"{parts} inputs",
        "qkv.bias": parts,
        "out.weight": "outputs (kv_heads group value_dim)",
        "out.bias": "outputs",
    }
