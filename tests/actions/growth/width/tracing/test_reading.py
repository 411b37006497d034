import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stagegraph.actions.growth.width.tracing.reading import trace
from tests.actions.growth.width.tracing import zoo
from tests.actions.models import Model, batch, digest


class Plain(nn.Module):
    """Linear in, something, linear out: ``between`` is what is asked about."""

    def __init__(self, between, inner=6, outer=6, extra=None):
        super().__init__()
        self.inp, self.out = nn.Linear(4, inner), nn.Linear(outer, 3)
        self.between, self.extra = between, extra

    def forward(self, x):
        x = self.inp(x)
        between = self.between
        return self.out(between(x) if self.extra is None else between(x, self.extra))


X = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(2))


def roles(traced, name):
    return [[factor.roles for factor in axis.factors] for axis in traced.axes[name]]


def test_roles_of_a_plain_layer():
    traced = trace(zoo.mlp(4, 6, 3), torch.ones(2, 4))
    assert roles(traced, "0.weight") == [[{"out"}], [{"in"}]]
    assert roles(traced, "0.bias") == [[{"elem"}]]
    hidden = traced.spaces["0.weight:0"]
    assert [(m.name, m.dim, m.factor, m.roles) for m in hidden.members] == [
        ("0.weight", 0, 0, {"out"}),
        ("0.bias", 0, 0, {"elem"}),
        ("2.weight", 1, 0, {"in"}),
    ]
    assert (hidden.size, hidden.is_input, hidden.is_output) == (6, False, False)
    assert traced.spaces["0.weight:1"].is_input
    assert traced.spaces["2.weight:0"].is_output


def test_the_model_is_left_as_it_was():
    model = Model().train()
    before = digest(model)
    trace(model, batch())
    assert digest(model) == before
    assert torch.backends.mha.get_fastpath_enabled()
    assert not nn.modules.module._global_forward_hooks


def test_an_error_of_the_model_comes_through_and_leaves_it_as_it_was():
    model = Model()
    before = digest(model)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        trace(model, torch.ones(2, 3, 5))
    assert digest(model) == before
    assert not nn.modules.module._global_forward_pre_hooks


def test_what_no_rule_knows_is_named_with_its_place():
    traced = trace(Plain(lambda x: torch.fft.fft(x).real), X)
    assert traced.blind == (("aten._fft_r2c", ""), ("aten._fft_c2c", ""))[: len(traced.blind)]
    assert traced.blind
    assert traced.axes["inp.weight"][0] != traced.axes["out.weight"][1]


def test_a_recurrent_kernel_is_blind_and_its_weights_are_not_called_free():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp, self.rnn, self.out = nn.Linear(4, 6), nn.LSTM(6, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.out(self.rnn(self.inp(x))[0])

    traced = trace(Recurrent(), X)
    assert {path for _, path in traced.blind} == {"rnn"}
    assert roles(traced, "rnn.weight_ih_l0") == [[{"blind"}], [{"blind"}]]


def test_lookups_of_channels_are_blind_and_of_places_are_not():
    order = torch.tensor([3, 1, 2, 0, 5, 4])
    assert trace(Plain(lambda x: x[..., order]), X).blind == (("aten.index.Tensor", ""),)
    assert trace(Plain(lambda x: x[:, order[1:4]]), X).blind == ()


def _centered_by_hand(x, gain):
    centered = x - x.mean(-1, keepdim=True)
    return centered * (centered.square().mean(-1, keepdim=True) + 1e-3).rsqrt() * (1 + gain)


@pytest.mark.parametrize(
    ("norm", "kind", "eps"),
    [
        (lambda x, g: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3) * g, "rms", 1e-3),
        (lambda x, g: g * (x / ((x * x).mean(-1, keepdim=True) + 1e-3).sqrt()), "rms", 1e-3),
        (lambda x, g: F.normalize(x, dim=-1) * g, "l2", 1e-12),
        (lambda x, g: F.rms_norm(x, (6,), g, 1e-3), "rms", 1e-3),
        (lambda x, g: F.layer_norm(x, (6,), g, None, 1e-3), "layer", 1e-3),
        (
            lambda x, g: (
                (x - x.mean(-1, keepdim=True))
                / (x.var(-1, keepdim=True, correction=0) + 1e-3).sqrt()
                * g
            ),
            "layer",
            1e-3,
        ),
        (_centered_by_hand, "layer", 1e-3),
    ],
)
def test_norms_by_hand_are_recognised(norm, kind, eps):
    traced = trace(Plain(norm, extra=nn.Parameter(torch.ones(6))), X)
    space = traced.spaces["extra:0"]
    assert [(n.kind, n.gain) for n in space.norms] == [(kind, "extra")]
    assert space.norms[0].eps == pytest.approx(eps)
    assert space.reduced_by == ()
    assert [member.name for member in space.members] == [
        "extra",
        "inp.weight",
        "inp.bias",
        "out.weight",
    ]


def test_group_and_batch_norms_say_what_they_are():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 1)
            self.batch, self.group = nn.BatchNorm2d(6, eps=1e-4), nn.GroupNorm(3, 6)
            self.head = nn.Linear(6, 2)

        def forward(self, x):
            return self.head(self.group(self.batch(self.conv(x))).amax((2, 3)))

    norms = trace(Normed(), zoo.IMAGES).spaces["conv.weight:0"].norms
    assert [(n.kind, n.module, n.gain, n.bias, n.eps, n.groups) for n in norms] == [
        ("batch", "batch", "batch.weight", "batch.bias", 1e-4, None),
        ("group", "group", "group.weight", "group.bias", 1e-5, 3),
    ]


def test_softmaxes_and_reductions_over_a_space_are_noted():
    def between(x):
        scale = x.softmax(-1).argmax(-1, keepdim=True) + x.sum(-1, keepdim=True)
        return x * scale * x.topk(2, -1).values[..., :1]

    hidden = trace(Plain(between), X).spaces["inp.weight:0"]
    assert hidden.softmaxes == ("",)
    assert [op for op, _ in hidden.reduced_by] == [
        "aten.argmax",
        "aten.sum.dim_IntList",
        "aten.topk",
    ]


def test_positions_are_the_data_s_and_no_error():
    traced = trace(zoo.Odd(), X)
    (length, width) = traced.axes["place"]
    assert length.factors[0].space is None
    assert "data" in length.factors[0].roles
    assert width.factors[0].space == "place:1"
    assert traced.blind == ()


def test_a_probe_may_be_a_function_of_the_model():
    model = zoo.mlp(4, 6, 3)
    by_function = trace(model, lambda model: model(torch.ones(2, 4)))
    assert by_function == trace(model, torch.ones(2, 4))


def test_a_parameter_that_nothing_uses_is_free():
    model = zoo.mlp(4, 6, 3)
    model.spare = nn.Parameter(torch.ones(6))
    model.forward = lambda x: model[2](model[1](model[0](x)))
    traced = trace(model, torch.ones(2, 4))
    assert roles(traced, "spare") == [[{"free"}]]
    assert traced.uses["spare"] == ()


def test_low_rank_weights_have_a_rank_of_their_own():
    class LowRank(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = nn.Linear(6, 6)
            self.a, self.b = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(6, 2))
            self.inp, self.out = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            weight = self.base.weight + 0.5 * self.b @ self.a
            return self.out(F.linear(self.inp(x), weight, self.base.bias).relu())

    assert zoo.proposed(LowRank(), X) == {
        "a": "a inp",
        "b": "base a",
        "base.weight": "base inp",
        "base.bias": "base",
        "inp.weight": "inp inputs",
        "inp.bias": "inp",
        "out.weight": "outputs base",
        "out.bias": "outputs",
    }


@pytest.mark.parametrize(
    "rotate",
    [
        lambda x, c: x * c + torch.cat([-x[..., 3:], x[..., :3]], -1) * c.sin(),
        lambda x, c: x * c + torch.cat([-x.chunk(2, -1)[1], x.chunk(2, -1)[0]], -1) * c.sin(),
        lambda x, c: torch.cat(
            [x[..., :3] * c[:, :3] - x[..., 3:], x[..., 3:] * c[:, :3] + x[..., :3]], -1
        ),
    ],
)
def test_an_axis_whose_halves_are_rotated_stays_one(rotate):
    model = Plain(rotate)
    model.between = lambda x: rotate(x, torch.ones(5, 6))
    layouts = zoo.proposed(model, X)
    assert layouts["inp.weight"] == "inp inputs" and layouts["out.weight"] == "outputs inp"
    assert trace(model, X).spaces["inp.weight:0"].sliced == ("",)


def test_interleaved_rotation_shows_its_pairs():
    def rotate(x):
        even, odd = x[..., ::2], x[..., 1::2]
        return torch.stack([even - odd, even + odd], -1).flatten(-2)

    layouts = zoo.proposed(Plain(rotate), X)
    assert layouts["inp.weight"] == "(inp 2) inputs"
    assert layouts["out.weight"] == "outputs (inp 2)"


def test_shuffled_channels_change_the_order_of_factors():
    def shuffle(x):
        return x.view(2, 5, 2, 3).transpose(2, 3).reshape(2, 5, 6)

    layouts = zoo.proposed(Plain(shuffle), X)
    assert layouts["inp.weight"] == "(inp inp2) inputs"
    assert layouts["out.weight"] == "outputs (inp2 inp)"


def test_an_image_model_that_goes_down_and_up_again():
    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.down = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 2, 2)
            self.up, self.last = nn.ConvTranspose2d(5, 4, 2, 2), nn.Conv2d(8, 3, 1)

        def forward(self, x):
            first = self.first(x).relu()
            return self.last(torch.cat([first, self.up(self.down(first).relu())], 1))

    layouts = zoo.proposed(UNet(), zoo.IMAGES)
    assert {name: text for name, text in layouts.items() if name.endswith("weight")} == {
        "first.weight": "first inputs _ _",
        "down.weight": "down first _ _",
        "up.weight": "down up _ _",
        "last.weight": "outputs (first + up) _ _",
    }


def test_two_outputs_are_both_outputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.policy, self.value = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 2)

        def forward(self, x):
            x = self.body(x).relu()
            return self.policy(x), self.value(x)

    spaces = trace(Two(), torch.ones(2, 4)).spaces
    assert spaces["policy.weight:0"].is_output and spaces["value.weight:0"].is_output
    assert not spaces["body.weight:0"].is_output


def test_einsum_is_followed():
    class Einsum(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp = nn.Linear(4, 6)
            self.wq, self.wo = (
                nn.Parameter(torch.randn(2, 6, 3)),
                nn.Parameter(torch.randn(2, 3, 6)),
            )

        def forward(self, x):
            x = self.inp(x)
            q = torch.einsum("btd,hde->bhte", x, self.wq)
            mixed = torch.einsum("bhte,bhse->bhts", q, q).softmax(-1) @ q
            return x + torch.einsum("bhte,hed->btd", mixed, self.wo)

    layouts = zoo.proposed(Einsum(), X)
    assert layouts["wq"] == "heads stream head_dim"
    assert layouts["wo"] == "heads head_dim stream"


def test_a_parameter_written_into_an_empty_tensor_is_not_missed():
    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.cls = nn.Parameter(torch.ones(6))
            self.inp, self.out = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            whole = torch.zeros(len(x), x.shape[1] + 1, 6)
            whole[:, 0] = self.cls
            whole[:, 1:] = self.inp(x)
            return self.out(whole)

    traced = trace(Written(), X)
    assert [(m.name, m.roles) for m in traced.spaces["cls:0"].members] == [
        ("cls", {"elem"}),
        ("inp.weight", {"out"}),
        ("inp.bias", {"elem"}),
        ("out.weight", {"in"}),
    ]
    assert traced.blind == ()


def test_weights_that_are_stacked_or_concatenated_before_use_keep_their_roles():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp, self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(6, 2)
            self.c, self.d = nn.Linear(7, 3), nn.Linear(7, 3)

        def forward(self, x):
            x = F.linear(self.inp(x), torch.cat([self.a.weight, self.b.weight]))
            return x @ torch.stack([self.c.weight, self.d.weight]).mT[:, None]

    assert zoo.proposed(Packed(), X) == {
        "inp.weight": "inp inputs",
        "inp.bias": "inp",
        "a.weight": "a inp",
        "b.weight": "b inp",
        "a.bias": "_",
        "b.bias": "_",
        "c.weight": "outputs (a + b)",
        "d.weight": "outputs (a + b)",
        "c.bias": "_",
        "d.bias": "_",
    }
    traced = trace(Packed(), X)
    assert roles(traced, "b.weight") == [[{"out"}], [{"in"}]]
    assert [f.roles for part in traced.axes["c.weight"][1].parts for f in part.factors] == [
        {"in"},
        {"in"},
    ]


def test_weight_norm_splits_a_weight_in_two_that_stay_together():
    model = zoo.mlp(4, 6, 3)
    nn.utils.parametrizations.weight_norm(model[0])
    traced = trace(model, torch.ones(2, 4))
    assert traced.blind == ()
    weights = [m for m in traced.spaces["0.bias:0"].members if "parametrizations" in m.name]
    assert [(m.name.rpartition(".")[2], m.dim, m.roles) for m in weights] == [
        ("original0", 0, {"out"}),
        ("original1", 0, {"out"}),
    ]


def test_a_recurrent_cell_has_its_gates_over_its_state():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.out = nn.GRUCell(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            state = x.new_zeros(len(x), 6)
            for step in range(x.shape[1]):
                state = self.cell(x[:, step], state)
            return self.out(state)

    assert zoo.proposed(Recurrent(), X) == {
        "cell.weight_ih": "(3 stream) inputs",
        "cell.weight_hh": "(3 stream) stream",
        "cell.bias_ih": "(3 stream)",
        "cell.bias_hh": "(3 stream)",
        "out.weight": "outputs stream",
        "out.bias": "outputs",
    }
