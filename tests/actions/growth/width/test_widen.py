import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.swa_utils import AveragedModel

from stagegraph.errors import ActionError
from stagegraph.schema.spaces import Spaces
from tests.actions.growth.wide import (
    GPT,
    MLP,
    RESNET,
    VIT,
    Gpt,
    Mlp,
    ResNet,
    RmsNorm,
    TrueRmsNorm,
    VisionTransformer,
    actor,
    grow,
    ids,
    images,
    widen,
)
from tests.actions.models import digest

F64 = torch.float64
EXACT = ("exact", "exact up to rounding")


def one_plus(d):
    return TrueRmsNorm(d, offset=1.0)


MODELS = {
    "mlp": (Mlp, MLP, lambda: torch.randn(5, 4, generator=torch.Generator().manual_seed(2))),
    "gpt": (Gpt, GPT, ids),
    "untied": (lambda: Gpt(tied=False), GPT, ids),
    "rms": (lambda: Gpt(nn.RMSNorm), GPT, ids),
    "own rms": (lambda: Gpt(TrueRmsNorm), GPT, ids),
    "1 + gain": (lambda: Gpt(one_plus), GPT, ids),
    "resnet": (ResNet, RESNET, images),
    "vit": (VisionTransformer, VIT, images),
}

WIDENINGS = [
    ("mlp", "first", "split", 9),
    ("mlp", "second", "uneven", 11),
    ("mlp", "first", "zero_out", 7),
    ("mlp", "first", "pair", 10),
    ("gpt", "mlp", "split", 15),
    ("gpt", "mlp", "uneven", 20),
    ("gpt", "mlp", "zero_out", 11),
    ("gpt", "mlp", "zero_in", 11),
    ("gpt", "mlp", "pair", 12),
    ("gpt", "groups", "split", 4),
    ("gpt", "groups", "uneven", 3),
    ("gpt", "groups", "zero_out", 3),
    ("gpt", "groups", "zero_in", 3),
    ("gpt", "per_group", "split", 3),
    ("gpt", "per_group", "zero_out", 4),
    ("gpt", "stream", "split", 16),
    ("gpt", "stream", "split", 19),
    ("gpt", "stream", "zero_in", 11),
    ("untied", "stream", "split", 16),
    ("untied", "stream", "zero_in", 9),
    ("rms", "stream", "split", 24),
    ("rms", "stream", "split", 21),
    ("rms", "stream", "zero_in", 11),
    ("own rms", "stream", "split", 20),
    ("own rms", "stream", "zero_in", 11),
    ("1 + gain", "stream", "split", 19),
    ("1 + gain", "stream", "zero_in", 9),
    ("resnet", "inner", "split", 6),
    ("resnet", "inner", "zero_out", 5),
    ("resnet", "inner", "pair", 6),
    ("resnet", "channels", "split", 9),
    ("resnet", "channels", "zero_out", 8),
    ("resnet", "channels", "uneven", 12),
    ("vit", "mlp", "uneven", 24),
    ("vit", "mlp", "zero_in", 20),
]

every_widening = pytest.mark.parametrize(
    ("name", "space", "how", "to"), WIDENINGS, ids=[f"{n}-{s}-{h}-{t}" for n, s, h, t in WIDENINGS]
)


def made(name, *, dtype=F64, optimizer=SGD, **more):
    make, spaces, probe = MODELS[name]
    model = make().to(dtype)
    batch = probe()
    batch = batch.to(dtype) if batch.is_floating_point() else batch
    optimizer = optimizer(model.parameters(), lr=0.01)
    return model, optimizer, actor(model, optimizer, spaces, batch, **more), batch


@every_widening
def test_the_function_stays_in_both_modes(name, space, how, to):
    model, _, standing, batch = made(name)
    with torch.no_grad():
        model.train()
        before = {mode: copy.deepcopy(model).train(mode)(batch) for mode in (True, False)}
    certificate = grow(standing, widen(space=space, how=how, to=to))
    assert certificate["exactness"] in EXACT
    for mode, expected in before.items():
        out = copy.deepcopy(model).train(mode)(batch)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    assert certificate["units"][space][1] == to
    assert certificate["params"]["after"] == sum(p.numel() for p in model.parameters())
    assert certificate["gradient"]["reached"] > 0


@every_widening
def test_single_precision_stays_within_rounding(name, space, how, to):
    _, _, standing, _ = made(name, dtype=torch.float32)
    change = grow(standing, widen(space=space, how=how, to=to))["change"]
    assert max(change.values()) < 5e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("space", "how", "to"), [("mlp", "zero_out", 12), ("mlp", "zero_in", 12), ("mlp", "split", 20)]
)
def test_half_precision_keeps_zeros_and_halves(space, how, to, dtype):
    """The largest share of a unit is a power of two: nothing is lost but the order of sums."""
    _, _, standing, _ = made("gpt", dtype=dtype)
    assert grow(standing, widen(space=space, how=how, to=to))["exactness"] in EXACT


def test_zero_before_a_relu_would_be_dead_and_is_refused():
    """Its slope there is zero, and what reads the units reads nothing: no gradient on either."""
    model, optimizer, standing, _ = made("mlp")
    before = digest(model, optimizer)
    with pytest.raises(ActionError, match=r"nothing that is new gets a gradient .*how: zero_out"):
        grow(standing, widen(space="first", how="zero_in", to=7))
    assert digest(model, optimizer) == before


@every_widening
def test_no_half_is_dead_once_the_grown_model_has_learned(name, space, how, to):
    """After a few updates every tensor of the space has moved in its new entries."""
    model, optimizer, standing, batch = made(name)
    grow(standing, widen(space=space, how=how, to=to))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        model.train()(batch).pow(2).sum().backward()
        optimizer.step()
    change = standing._standing.lineage.changes[-1]
    for tensor in change.tensors:
        if tensor in before and not tensor.endswith(("kv.bias", "bn.bias", "emb.weight")):
            assert not torch.equal(dict(model.named_parameters())[tensor], before[tensor])


def test_what_modules_say_of_themselves_is_written():
    model, _, standing, _ = made("resnet")
    grow(standing, widen(space=["inner", "channels"], factor=2))
    block = model.blocks[0]
    assert (model.stem.out_channels, block["a"].in_channels, block["a"].out_channels) == (12, 12, 8)
    assert (block["dw"].groups, block["dw"].in_channels) == (8, 8)
    assert (model.bn.num_features, model.fc.in_features) == (12, 48)
    model, _, standing, _ = made("gpt")
    grow(standing, widen(space="stream", factor=2))
    assert model.last.normalized_shape == (16,)
    assert (model.emb.embedding_dim, model.head.in_features) == (16, 16)


def test_ties_stay_ties_and_objects_stay_the_same():
    model, optimizer, standing, _ = made("gpt")
    parameters, modules = list(model.parameters()), list(model.modules())
    certificate = grow(standing, widen(space="stream", factor=2))
    assert certificate["tied"] == ["last"]
    assert model.head.weight is model.emb.weight
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert all(a is b for a, b in zip(modules, model.modules(), strict=True))
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in parameters]


@pytest.mark.parametrize(("how", "factor"), [("split", 2), ("zero_in", 1.5)])
def test_attention_of_torch_grows_with_its_stream(how, factor):
    """It takes as many entries in all its heads as the stream has."""
    model, _, standing, batch = made("vit")
    expected = model.eval()(batch).detach()
    with pytest.raises(ActionError, match=r"the grown model would not run: in blocks.0.att: "):
        grow(standing, widen(space="heads", factor=factor))
    grow(standing, widen(space=["stream", "heads"], how=how, factor=factor))
    torch.testing.assert_close(model.eval()(batch), expected, rtol=0, atol=1e-12)
    assert model.blocks[0]["att"].embed_dim == model.blocks[0]["att"].num_heads * 4 == 8 * factor
    other = VisionTransformer(int(8 * factor), int(2 * factor))
    other.blocks.requires_grad_(False)
    assert other.pos.shape == model.pos.shape
    assert (
        other.blocks[0]["att"].in_proj_weight.shape == model.blocks[0]["att"].in_proj_weight.shape
    )


class Dropping(Gpt):
    """Drops out in a module, in a function and in torch's attention."""

    def __init__(self):
        super().__init__(nn.LayerNorm)
        self.drop = nn.Dropout(0.3)

    def forward(self, ids):
        x = self.drop(self.emb(ids) + self.pos[: ids.shape[1]])
        for block in self.blocks:
            x = x + nn.functional.dropout(block["att"](block["n1"](x)), 0.2, self.training)
            hidden = torch.tanh(block["up"](block["n2"](x)))
            x = x + block["down"](self.drop(hidden))
        return self.head(self.last(x))


def test_masks_of_other_shapes_do_not_speak_against_it():
    model = Dropping().to(F64)
    standing = actor(model, SGD(model.parameters()), GPT, ids())
    certificate = grow(standing, widen(space=["stream", "mlp"], factor=2))
    assert certificate["exactness"] in EXACT
    assert certificate["dropout"].startswith("off in the comparison")
    assert model.train()(ids()).isfinite().all()


def test_a_change_in_train_mode_is_seen_through_dropout():
    class Broken(Dropping):
        def forward(self, ids):
            out = super().forward(ids)
            return out + self.emb.weight.shape[1] if self.training else out

    model = Broken().to(F64)
    standing = actor(model, SGD(model.parameters()), GPT, ids())
    with pytest.raises(ActionError, match=r"keep the function, and in train mode .* changed by 8"):
        grow(standing, widen(space="stream", factor=2))


def test_noise_cancels_where_copies_are_read():
    model, _, standing, _ = made("gpt")
    certificate = grow(standing, widen(space="mlp", factor=2, noise=0.1))
    assert certificate["exactness"] == "exact up to rounding"
    down = model.blocks[0]["down"].weight
    assert (down[:, :10] - down[:, 10:]).abs().min() > 0
    up = model.blocks[0]["up"].weight
    assert torch.equal(up[:10], up[10:])


def test_pairs_cancel():
    model, _, standing, _ = made("mlp")
    grow(standing, widen(space="first", how="pair", add=2))
    assert torch.equal(model.one.weight[6], model.one.weight[7])
    assert torch.equal(model.two.weight[:, 6], -model.two.weight[:, 7])
    assert model.two.weight[:, 6].abs().min() > 0


@pytest.mark.parametrize("how", ["split", "zero_out"])
def test_a_second_growth_on_top_of_the_first(how):
    model, _, standing, batch = made("gpt")
    expected = model.eval()(batch).detach()
    grow(standing, widen(space="mlp", how=how, add=3), cohort="a")
    grow(standing, widen(space="groups", how=how, add=1), cohort="b")
    grow(standing, widen(space="mlp", how=how, add=4), cohort="c")
    grow(standing, widen(space="stream", factor=2), cohort="d")
    torch.testing.assert_close(model.eval()(batch), expected, rtol=0, atol=1e-12)
    assert model.blocks[1]["up"].out_features == 17


def test_a_grown_model_loads_into_its_own_class():
    model, _, standing, batch = made("mlp")
    grow(standing, widen(space="first", to=9))

    class Grown(Mlp):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 9), nn.Linear(9, 5)

    other = Grown().to(F64)
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other(batch), model(batch))


def test_the_averaged_copy_grows_by_the_same_maps():
    model, optimizer, _, batch = made("gpt")
    averaged = AveragedModel(model)
    optimizer.zero_grad()
    model(batch).pow(2).sum().backward()
    optimizer.step()
    averaged.update_parameters(model)
    expected = averaged(batch).detach()
    standing = actor(model, optimizer, GPT, batch, ema=averaged)
    grow(standing, widen(space="stream", to=19))
    torch.testing.assert_close(averaged(batch), expected, rtol=0, atol=1e-12)
    averaged.update_parameters(model)


def test_one_seed_gives_one_growth_and_leaves_the_global_numbers_alone():
    torch.manual_seed(3)
    first, _, standing, _ = made("gpt")
    second = copy.deepcopy(first)
    before = torch.get_rng_state()
    grow(standing, widen(space="mlp", how="zero_out", add=4))
    assert torch.equal(torch.get_rng_state(), before)
    grow(
        actor(second, SGD(second.parameters()), GPT, ids()),
        widen(space="mlp", how="zero_out", add=4),
    )
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


# What cannot be


def without(spaces, *patterns, trace=True):
    tensors = {k: v for k, v in spaces.tensors.items() if k not in patterns}
    return Spaces(tensors=tensors, sizes=spaces.sizes, trace=trace)


@pytest.mark.parametrize(
    ("name", "spaces", "fields", "message"),
    [
        (
            "mlp",
            MLP,
            {"space": "frist", "add": 1},
            r"no layout names a space 'frist'; did you mean 'first'",
        ),
        (
            "mlp",
            MLP,
            {"space": "first", "to": 6},
            r"space 'first': there are 6 already, 6 is no growth",
        ),
        ("mlp", MLP, {"space": "first", "factor": 1.2}, "6 times 1.2 is not a whole number"),
        (
            "mlp",
            MLP,
            {"space": "first", "add": 3, "how": "pair"},
            r"space 'first': pairs come in twos, and 3 units more",
        ),
        (
            "mlp",
            without(MLP, "two.weight"),
            {"space": "first", "add": 1},
            r"axis 1 of 'two.weight' is tied to the space 'first' and is not declared: name it",
        ),
        (
            "mlp",
            without(MLP, "two.weight", trace=False),
            {"space": "first", "add": 1},
            r"the grown model would not run: in two: RuntimeError: mat1 and mat2 .*name its axis",
        ),
        (
            "gpt",
            without(GPT, "pos"),
            {"space": "stream", "factor": 2},
            r"axis 1 of 'pos' is tied to the space 'stream' and is not declared",
        ),
        (
            "mlp",
            Spaces(tensors={**MLP.tensors, "two.weight": "second first:out"}),
            {"space": "first", "add": 1},
            r"axis 1 of 'two.weight' reads the space 'first': write 'first:in'",
        ),
        (
            "gpt",
            Spaces(tensors=GPT.tensors),
            {"space": "groups", "add": 1},
            r"the size of .* does not follow from the shapes; name an attribute",
        ),
        (
            "gpt",
            GPT,
            {"space": "stream", "add": 1, "how": "zero_out"},
            r"'zero_out' would change what a norm over this space sees.*norms over it: .*last",
        ),
        (
            "gpt",
            GPT,
            {"space": "stream", "add": 3, "how": "uneven"},
            r"'uneven' would change what a norm over this space sees",
        ),
        (
            "mlp",
            Spaces(tensors={**MLP.tensors, "tow.bias": "x"}),
            {"space": "first", "add": 1},
            r"no parameter or buffer matches 'tow.bias'; did you mean 'two.bias'",
        ),
        (
            "mlp",
            Spaces(tensors={**MLP.tensors, "three.bias": "_ second"}),
            {"space": "first", "add": 1},
            r"'three.bias' has 1 axes \(3,\), and its layout tells of 2",
        ),
        (
            "mlp",
            Spaces(tensors={**MLP.tensors, "three.bias": "second"}),
            {"space": "first", "add": 1},
            r"axis 0 of 'three.bias' has 3 entries, which is not second \(5\)",
        ),
        (
            "gpt",
            Spaces(tensors={**GPT.tensors, "pos": "_ stream"}, sizes=GPT.sizes),
            {"space": "stream", "factor": 2},
            r"nobody knows whether axis 1 of 'pos', of a Gpt, writes or reads .*'stream:out'",
        ),
        (
            "mlp",
            Spaces(tensors=MLP.tensors, sizes={"one.hidden": "first"}),
            {"space": "first", "add": 1},
            r"sizes 'one.hidden' matches no attribute",
        ),
    ],
)
def test_what_cannot_be_is_said_and_changes_nothing(name, spaces, fields, message):
    model, optimizer, _, batch = made(name, optimizer=AdamW)
    standing = actor(model, optimizer, spaces, batch)
    before = digest(model, optimizer)
    with pytest.raises(ActionError, match=message):
        grow(standing, widen(**fields))
    assert digest(model, optimizer) == before


def test_an_activation_that_does_not_keep_zero_is_found_out():
    model = Mlp(torch.sigmoid).to(F64)
    batch = torch.randn(5, 4, dtype=F64)
    optimizer = SGD(model.parameters())
    before = digest(model, optimizer)
    with pytest.raises(ActionError, match="was to keep the function, and in eval mode"):
        grow(actor(model, optimizer, MLP, batch), widen(space="first", how="zero_in", add=2))
    assert digest(model, optimizer) == before


def test_a_norm_that_does_not_read_its_eps_is_found_out():
    model = Gpt(RmsNorm).to(F64)
    standing = actor(model, SGD(model.parameters()), GPT, ids())
    with pytest.raises(ActionError, match="was to keep the function"):
        grow(standing, widen(space="stream", how="zero_in", add=8))


def test_a_tie_without_a_norm_before_it_is_refused():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb, self.mid = nn.Embedding(11, 4), nn.Linear(4, 4)
            self.head = nn.Linear(4, 11, bias=False)
            self.head.weight = self.emb.weight

        def forward(self, x):
            return self.head(torch.relu(self.mid(self.emb(x))))

    model = Bare()
    spaces = Spaces(
        tensors={"emb.weight": "_ d", "head.weight": "_ d", "mid.weight": "d d:in", "mid.bias": "d"}
    )
    with pytest.raises(ActionError, match=r"emb.weight and head.weight are one .* counted 2"):
        grow(actor(model, SGD(model.parameters()), spaces, ids()), widen(space="d", factor=2))


def test_group_norms_get_more_groups():
    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.n = nn.Conv1d(2, 6, 1), nn.GroupNorm(3, 6)
            self.b = nn.Conv1d(6, 2, 1)

        def forward(self, x):
            return self.b(torch.relu(self.n(self.a(x))))

    model = Grouped().to(F64)
    spaces = Spaces(tensors={"a.weight": "c _ _", "a.bias": "c", "n.*": "c", "b.weight": "_ c _"})
    batch = torch.randn(3, 2, 5, dtype=F64)
    standing = actor(model, SGD(model.parameters()), spaces, batch)
    assert grow(standing, widen(space="c", factor=2))["exactness"] in EXACT
    assert (model.n.num_groups, model.n.num_channels) == (6, 12)
    with pytest.raises(ActionError, match=r"'n' normalises groups of 2 units of 'c'; 13 units"):
        grow(standing, widen(space="c", add=1))
