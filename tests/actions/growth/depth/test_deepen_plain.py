"""Plain torch models: convolutions with batch norms, torch's own layers, things beside a stack."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel

from stagegraph.actions import TorchActor
from stagegraph.actions.growth.depth.deepen import plan
from stagegraph.actions.growth.operation import Site
from stagegraph.actions.replaying import replay
from stagegraph.engine.ports import Selected
from stagegraph.errors import ActionError, SelectorError, UnsupportedError
from tests.actions.models import (
    Block,
    D,
    Model,
    accept,
    back_to,
    batch,
    boundary,
    deepen,
    effect,
    growth,
    snapshot,
    train,
    values,
)

PLACE = "main:grow.actions[0]"


class Basic(nn.Module):
    """A ResNet's basic block."""

    def __init__(self, width_in, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or width_in != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.layer1 = nn.Sequential(Basic(4, 4, 1), Basic(4, 4, 1))
        self.layer2 = nn.Sequential(Basic(4, 8, 2), Basic(8, 8, 1))
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.layer2(self.layer1(self.stem(x))).mean((2, 3)))


class Vision(nn.Module):
    """A ViT of torch's own layers."""

    def __init__(self, num=2, **options):
        super().__init__()
        self.patches = nn.Conv2d(1, D, 2, 2)
        self.position = nn.Parameter(torch.randn(1, 16, D))
        layer = nn.TransformerEncoderLayer(D, 2, 16, dropout=0.1, batch_first=True, **options)
        self.encoder = nn.TransformerEncoder(layer, num, enable_nested_tensor=False)
        self.fc = nn.Linear(D, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.fc(self.encoder(x).mean(1))


class Beside(Model):
    """A norm, a learned scale, a row of scales and a row of a table per block."""

    def __init__(self, num=3):
        super().__init__(num)
        self.norms = nn.ModuleList([nn.LayerNorm(D) for _ in range(num)])
        self.gains = nn.ParameterList([nn.Parameter(torch.full((D,), 1.0 + i)) for i in range(num)])
        self.shifts = nn.Parameter(torch.arange(float(num)).unsqueeze(1).repeat(1, D) / 10)
        self.register_buffer("table", torch.arange(float(num)))

    def forward(self, x):
        x = self.inp(x)
        for index, block in enumerate(self.blocks):
            scale = 1 + 0.1 * self.table[index]
            x = block(self.norms[index](x) * self.gains[index] * scale + self.shifts[index])
        return self.head(self.bn(x.mean(1)))


BESIDE = ("norms", "gains", "shifts", "table")


def images():
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def grown(model, probe, *, alpha=1.0, optimizer=None, ema=None, **fields):
    optimizer = optimizer or AdamW(model.parameters(), lr=0.01)
    actor = TorchActor(model, optimizer, probe=probe, ema=ema)
    alphas = {"main:grow#1": alpha}
    outcome = actor.transact(boundary(deeds=[growth(deepen(**fields))], alphas=alphas), accept)
    return actor, outcome.evidence[PLACE]


@pytest.mark.parametrize(
    ("stack", "at", "copied"),
    [("layer1", "spread", ["0", "1"]), ("layer2", "spread", ["1", "1"]), ("layer2", "end", "11")],
)
def test_a_resnet_stage_grows_by_blocks_that_keep_the_shape(stack, at, copied):
    model, x = ResNet(), images()
    for _ in range(3):
        model(torch.randn(8, 1, 8, 8))  # running statistics
    state = copy.deepcopy(model.state_dict())
    model.train()
    in_train = model(x)
    model.load_state_dict(state)
    model.eval()
    in_eval = model(x)
    _, evidence = grown(model, x, stack=stack, at=at)
    assert [block["copy_of"] for block in evidence["inserted"]] == list(copied)
    assert evidence["zeroed"] == ["bn2.weight", "bn2.bias"] and evidence["exactness"] == "exact"
    block = model.get_submodule(f"{stack}.{evidence['inserted'][0]['at']}")
    kept = state[f"{stack}.{copied[0]}.bn1.running_mean"]
    assert torch.equal(block.bn1.running_mean, kept) and kept.any()
    assert torch.equal(model.eval()(x), in_eval)
    assert torch.equal(model.train()(x), in_train)


def test_torchs_own_layers_with_the_norm_before():
    model, x = Vision(norm_first=True), images()
    before = model.eval()(x)
    _, evidence = grown(
        model, x, stack="encoder.layers", count=("encoder.num_layers",), at="spread"
    )
    assert set(evidence["zeroed"]) == {
        f"{part}.{kind}"
        for part in ("linear2", "self_attn.out_proj")
        for kind in ("weight", "bias")
    }
    assert torch.equal(model.eval()(x), before)
    assert evidence["gradient"]["reached"] == evidence["gradient"]["of"] - 2 * 8  # no deeper yet


class OnlyInEval(Block):
    """The identity under zeros in eval mode alone: in train mode it drops from the stream."""

    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.5, self.training))


@pytest.mark.parametrize("noise", [None, 0.1])
def test_a_copy_that_no_zeros_can_help_stays_as_it_was_behind_its_gate(noise):
    model = Model()
    model.blocks = nn.ModuleList([OnlyInEval(), OnlyInEval()])
    with pytest.raises(ActionError, match=r"is no identity: in train mode it still changes"):
        grown(model, batch(), noise=noise)
    _, evidence = grown(model, batch(), alpha=0.0, noise=noise)
    assert evidence["gated"] and evidence["zeroed"] == []
    for (name, new), kept in zip(
        model.blocks[2].named_parameters(), model.blocks[1].parameters(), strict=True
    ):
        assert new.any() or not kept.any(), f"{name} is zero still"
        assert torch.equal(new, kept) == (noise is None) or not kept.any()


def test_with_the_norm_behind_only_a_closed_gate_helps():
    x = images()
    fields = {"stack": "encoder.layers", "count": ("encoder.num_layers",)}
    with pytest.raises(ActionError, match=r"no weights were found .* or let an alpha_ramp from 0"):
        grown(Vision(), x, **fields)
    model = Vision()
    before = model.eval()(x)
    _, evidence = grown(model, x, alpha=0.0, **fields)
    assert evidence["gated"] and evidence["zeroed"] == []
    assert evidence["gated_because"] == {
        "encoder.layers.1": "no weights were found whose zeroing turns a copy of "
        "TransformerEncoderLayer into the identity"
    }
    assert evidence["exactness"] == "exact"
    assert evidence["exactness_at_alpha_1"] == "approximate"
    assert torch.equal(model.eval()(x), before)
    with pytest.raises(ActionError, match="fc9' matches no parameter"):
        grown(Vision(), x, alpha=0.0, zero=("fc9",), **fields)
    with pytest.raises(ActionError, match=r"a copy of .* with linear2\.weight, .* is no identity"):
        grown(Vision(), x, alpha=0.0, zero=("linear2",), **fields)


def test_what_stands_beside_must_be_told():
    with pytest.raises(
        UnsupportedError,
        match=r"^p: shifts, table, norms, gains beside stack 'blocks' is as long as it \(3\)\..*"
        r"write count: \[shifts, table, norms, gains\]; .* write leave: \[",
    ):
        plan(Site(Beside()), deepen(), place="p")
    planned = plan(Site(Beside()), deepen(leave=("g*", "norms", "shifts", "table")), place="p")
    assert set(planned.left_alone) == set(BESIDE)
    with pytest.raises(SelectorError, match=r"leave 'norm' matches nothing .*did you mean 'norms'"):
        plan(Site(Beside()), deepen(count=BESIDE, leave=("norm",)), place="p")
    shorter = Beside()
    shorter.norms.append(nn.LayerNorm(D))
    with pytest.raises(UnsupportedError, match=r"count 'norms' has 4 entries, and the stack 3"):
        plan(Site(shorter), deepen(count=BESIDE), place="p")


def test_a_plain_list_with_an_entry_per_block_must_be_told_too():
    model = Model()
    model.windows = [4, None]
    with pytest.raises(UnsupportedError, match=r"^p: windows beside stack 'blocks' is as long"):
        plan(Site(model), deepen(), place="p")
    grown(model, batch(), at="spread", count=("windows",))
    assert model.windows == [4, 4, None, None]


def test_what_has_an_entry_per_block_grows_in_the_same_places():
    torch.manual_seed(0)
    model = Beside()
    shifts = model.shifts
    optimizer = AdamW(model.parameters(), lr=0.01)
    train(model, optimizer, 2)
    moments = optimizer.state[shifts]["exp_avg"].clone()
    before = {name: t.detach().clone() for name, t in model.state_dict().items()}
    ema = AveragedModel(model)
    cost = plan(Site(model), deepen(add=2, how="middle", count=BESIDE), place="p").cost
    params = sum(p.numel() for p in model.parameters())
    actor, evidence = grown(
        model, batch(), add=2, how="middle", count=BESIDE, optimizer=optimizer, ema=ema
    )
    row = [0, 1, 0, 1, 2]
    assert evidence["beside"] == list(BESIDE)
    assert model.shifts is shifts and torch.equal(shifts, before["shifts"][row])
    assert torch.equal(optimizer.state[shifts]["exp_avg"], moments[row])
    assert torch.equal(model.table, before["table"][row])
    for place, copied in enumerate(row):
        assert torch.equal(model.gains[place], before[f"gains.{copied}"])
        assert torch.equal(model.norms[place].bias, before[f"norms.{copied}.bias"])
    assert sum(p.numel() for p in model.parameters()) - params == cost
    assert len(model.norms) == len(model.gains) == 5
    assert torch.equal(ema.module.shifts, shifts)
    assert torch.equal(ema.module.gains[2], model.gains[2])
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
    train(model, optimizer, 1)
    chosen = effect("main:warmup.during[1]", Selected(cohorts=("main:grow#1",)), 0.5,
                    type="lr_factor", factor=0.5)  # fmt: skip
    actor.transact(boundary(held=[chosen]), accept)
    keys = [bool(actor._standing.rates.keys_of(gain)) for gain in model.gains]
    assert keys == [False, False, True, True, False]


def test_what_stands_beside_returns_with_the_stack_and_is_replayed():
    torch.manual_seed(0)
    model = Beside()
    optimizer = AdamW(model.parameters(), lr=0.01)
    train(model, optimizer, 2)
    before = values(model, optimizer)
    actor = TorchActor(model, optimizer, probe=batch())
    action = deepen(add=2, how="interleave", count=BESIDE)
    actor.transact(boundary(deeds=[snapshot(), growth(action)]), accept)
    state = actor.state_dict()
    grown_values = values(model, optimizer)
    other = Beside()
    again = AdamW(other.parameters(), lr=0.01)
    replay(other, again, state["lineage"])
    other.load_state_dict(model.state_dict())
    again.load_state_dict(optimizer.state_dict())
    assert values(other, again) == grown_values
    train(model, optimizer, 2)
    actor.transact(boundary(1, restore=back_to()), accept)
    assert values(model, optimizer) == before
    assert len(model.norms) == len(model.gains) == 3 and model.shifts.shape == (3, D)


def test_optimizer_state_of_another_shape_is_no_guess():
    model = Beside()
    optimizer = torch.optim.Adafactor(model.parameters())
    train(model, optimizer, 1)
    with pytest.raises(ActionError, match=r"'shifts' has a row per block, and optimizer state"):
        grown(model, batch(), add=1, how="interleave", count=BESIDE, optimizer=optimizer)
    assert model.shifts.shape == (3, D)


@pytest.mark.parametrize(
    ("how", "add", "row"),
    [
        ("stack", 2, [0, 1, 2, 3, 0, 1]),
        ("interleave", 2, [0, 1, 1, 2, 3, 3]),
        ("middle", 2, [0, 1, 2, 1, 2, 3]),
        ("drop_and_cat", 2, [0, 1, 2, 1, 2, 3]),
    ],
)
def test_what_is_copied_runs_in_its_place(how, add, row):
    torch.manual_seed(0)
    model = Model(4)
    old = [copy.deepcopy(block.state_dict()) for block in model.blocks]
    _, evidence = grown(model, batch(), add=add, how=how)
    for block, copied in zip(model.blocks, row, strict=True):
        assert all(torch.equal(t, old[copied][name]) for name, t in block.state_dict().items())
    assert evidence["exactness"] == "approximate" and evidence["executed"]


def test_random_blocks_begin_anew_from_the_seed_alone():
    weights = []
    for global_seed in (1, 2):
        torch.manual_seed(0)
        model = Model()
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        _, evidence = grown(model, batch(), how="random", at="spread")
        assert torch.equal(state, torch.get_rng_state())
        weights.append(model.blocks[1].fc1.weight)
        assert not torch.equal(model.blocks[1].fc1.weight, model.blocks[0].fc1.weight)
        assert not torch.equal(model.blocks[1].fc1.weight, model.blocks[3].fc1.weight)
        assert torch.equal(model.blocks[1].ln1.weight, torch.ones(D))
        assert evidence["init"] == "fresh"
    assert torch.equal(*weights)


def test_fresh_identities_have_new_weights_before_the_zeros():
    torch.manual_seed(0)
    model = Model()
    before = model.eval()(batch())
    _, evidence = grown(model, batch(), init="fresh")
    assert torch.equal(model.eval()(batch()), before) and evidence["exactness"] == "exact"
    assert not model.blocks[2].fc2.weight.any()
    assert not torch.equal(model.blocks[2].fc1.weight, model.blocks[1].fc1.weight)


class Bare(Block):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(D))

    def forward(self, x):
        return super().forward(x * self.scale)


def test_what_nobody_can_initialise_is_named():
    with pytest.raises(
        ActionError,
        match=r"nothing says how blocks\.1's 'scale' \(of Bare\) begin: give the module",
    ):
        grown(Model(block=Bare), batch(), how="random")

    class Knowing(Model):
        def _init_weights(self, module):
            if isinstance(module, Bare):
                module.scale.fill_(2.0)

    model = Knowing(block=Bare)
    grown(model, batch(), how="random")
    assert torch.equal(model.blocks[2].scale, torch.full((D,), 2.0))


def test_attention_of_torch_begins_anew_too():
    model = Vision(norm_first=True)
    fields = {"stack": "encoder.layers", "count": ("encoder.num_layers",)}
    grown(model, images(), how="random", **fields)
    packed = model.encoder.layers[2].self_attn.in_proj_weight
    assert bool(packed.isfinite().all()) and not torch.equal(
        packed, model.encoder.layers[1].self_attn.in_proj_weight
    )


def test_noise_is_relative_and_seeded():
    firsts = []
    for _ in range(2):
        torch.manual_seed(0)
        model = Model()
        grown(model, batch(), how="stack", noise=0.1)
        moved = (model.blocks[2].fc1.weight - model.blocks[0].fc1.weight).detach()
        size = model.blocks[0].fc1.weight.detach().square().mean().sqrt()
        assert 0.07 < float(moved.std() / size) < 0.13
        firsts.append(moved)
    assert torch.equal(*firsts)


def test_kinds_of_blocks_are_zeroed_each_in_its_way():
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(D, 2 * D), nn.Linear(2 * D, D)

        def forward(self, x):
            return x + self.down(torch.relu(self.up(x)))

    model = Model(4)
    model.blocks[1], model.blocks[3] = Other(), Other()
    _, evidence = grown(model, batch(), at="spread", add=4)
    assert evidence["zeroed"] == [
        *("fc2.weight", "fc2.bias", "o.weight", "o.bias"),
        *("down.weight", "down.bias"),
    ]
    model = Model(4)
    model.blocks[1], model.blocks[3] = Other(), Other()
    _, evidence = grown(model, batch(), at="spread", add=4, zero=("fc2", "o", "down"))
    assert evidence["exactness"] == "exact"


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_new_blocks_are_compiled_as_their_siblings():
    frames = []

    def backend(graph, _inputs):
        frames.append(graph)
        return graph.forward

    model = Model(block=lambda: Block(dropout=0.0)).eval()
    for block in model.blocks:
        block.compile(backend=backend)
    before = model(batch())
    grown(model, batch())
    frames.clear()
    compiled = [vars(block)["_compiled_call_impl"] for block in model.blocks]
    assert None not in compiled and len(set(map(id, compiled))) == 4
    model.eval()
    x = model.inp(batch()).detach()
    assert torch.equal(model.blocks[2](x), x) and len(frames) == 1  # by the siblings' own backend
    assert torch.equal(model(batch()), before)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_model_compiled_as_a_whole_sees_each_growth():
    frames = []

    def backend(graph, _inputs):
        frames.append(graph)
        return graph.forward

    model = Model(1, block=lambda: Block(dropout=0.0)).eval()
    whole = torch.compile(model, backend=backend, dynamic=False)
    actor = TorchActor(whole, AdamW(model.parameters(), lr=0.01), probe=batch())
    for visit in range(9):  # more than the eight shapes after which torch gives up
        deed = growth(deepen(add=1), cohort=f"c{visit}")
        actor.transact(boundary(visit, deeds=[deed]), accept)
        frames.clear()
        with torch.no_grad():
            whole(batch())
        assert frames, f"growth {visit} runs unwrapped"


def test_cached_references_stay_good_and_what_is_frozen_stays_frozen():
    model = Model()
    block, weight = model.blocks[1], model.blocks[1].fc1.weight
    optimizer = AdamW(model.parameters(), lr=0.01)
    for parameter in model.blocks[1].q.parameters():
        parameter.requires_grad_(False)
    actor = TorchActor(model, optimizer, probe=batch())
    for visit in range(2):
        deed = growth(deepen(at="spread", add=2), cohort=f"c{visit}")
        actor.transact(boundary(visit, deeds=[deed, *[snapshot()][visit:]]), accept)
    assert block in list(model.blocks) and weight is block.fc1.weight
    assert len(model.blocks) == 6
    frozen = [block.q.weight.requires_grad for block in model.blocks]
    assert frozen == [True, True, True, False, False, False]
    assert [p.requires_grad for p in block.fc1.parameters()] == [True, True]
