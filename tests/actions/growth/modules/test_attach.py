import copy

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Muon

from stagegraph.actions.growth.modules.attach import plan
from stagegraph.actions.growth.modules.branches import Branch, attachments
from stagegraph.actions.growth.operation import Site
from stagegraph.actions.growth.operations import costs
from stagegraph.errors import ActionError, SelectorError, UnsupportedError
from tests.actions.growth.grown import Listed, Residual, Scene, attach, upcycle
from tests.actions.models import (
    D,
    Model,
    accept,
    alpha_ramp,
    batch,
    boundary,
    deepen,
    digest,
    freeze,
    train,
)

OURS = [
    {"module": "adapter", "bottleneck": 3, "norm": "layer"},
    {"module": "adapter", "bottleneck": 3, "norm": "rms", "act": "relu", "bias": False},
    {"module": "mlp", "hidden": 5, "act": "silu"},
    {"module": "linear"},
    {"module": "copy"},
]


@pytest.mark.parametrize("fields", OURS, ids=lambda fields: fields["module"])
@pytest.mark.parametrize("mode", ["parallel", "after"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_begins_with_zero_changes_nothing_and_learns(fields, mode, dtype):
    scene = Scene(dtype=dtype)
    evaluated, trained = scene.output(), scene.output(training=True)
    certificate = scene.grow(attach(mode=mode, **fields))
    assert scene.changed(evaluated) == 0.0
    assert scene.changed(trained, training=True) == 0.0
    assert (certificate["exactness"], certificate["exactness_at_alpha_1"]) == ("exact", "exact")
    new = [n for n in scene.gradients() if f".{fields['module']}." in n]
    assert {n.split(".")[1] for n in new} == {"0", "1"}
    assert {p.dtype for p in scene.model.parameters()} == {dtype}
    train(scene.model.float(), scene.optimizer, 3)
    branch = scene.model.blocks[0].get_submodule(f"mlp.{fields['module']}")
    assert all(p.any() for p in branch.parameters())


@pytest.mark.parametrize("mode", ["parallel", "after"])
def test_the_output_is_the_hosts_plus_alpha_times_the_branchs(mode):
    scene = Scene(dtype=torch.float64)
    held = [alpha_ramp("new")]
    before = scene.output()
    certificate = scene.grow(attach(init="keep", mode=mode), alpha=0.0, held=held)
    assert scene.changed(before) == 0.0
    assert certificate["change"]["alpha_1"] > 1e-3
    host = scene.model.blocks[0].mlp
    x = torch.randn(2, 3, D, dtype=torch.float64)
    f = host.down(torch.tanh(host.up(x)))
    g = host.adapter.module(x if mode == "parallel" else f)
    for alpha in (0.0, 0.25, 1.0):
        scene.actor.tune({held[0].place: alpha})
        assert torch.allclose(host(x), f + alpha * g, rtol=0, atol=1e-15)


def test_a_ramp_that_is_over_leaves_nothing_but_the_hook_that_runs_it():
    scene = Scene()
    scene.grow(attach(init="keep"), alpha=0.5, held=[alpha_ramp("new", 0.5)])
    host = scene.model.blocks[0].mlp
    assert len(host.adapter._forward_hooks) == 1
    scene.actor.transact(boundary(9, alphas={"new": 1.0}), accept)
    assert len(host.adapter._forward_hooks) == 0
    assert len(host._forward_hooks) == 1


def test_no_name_and_no_object_changes():
    scene = Scene()
    names, modules = list(scene.model.state_dict()), list(scene.model.modules())
    scene.grow(attach())
    new = [name for name in scene.model.state_dict() if ".adapter." in name]
    assert [name for name in scene.model.state_dict() if name not in new] == names
    assert [m for m in scene.model.modules() if m in modules] == modules
    assert new[0] == "blocks.0.mlp.adapter.module.down.weight"
    scene.model.to(torch.float64)
    assert scene.model.blocks[1].mlp.adapter.module.up.weight.dtype == torch.float64


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_the_next_step_is_that_of_a_model_that_always_had_it(options):
    class Adapted(nn.Module):
        """The same, written by hand."""

        def __init__(self, block):
            super().__init__()
            self.block, self.adapter = block, copy.deepcopy(block.mlp.adapter.module)

        def forward(self, x):
            read = self.block.norm(x)
            mlp = self.block.mlp
            return x + mlp.down(torch.tanh(mlp.up(read))) + self.adapter(read)

    # float64, and no batch norm above: behind one, biases have gradients of rounding alone
    scene = Scene(
        model=Model(block=Residual, norm=False),
        dtype=torch.float64,
        optimizer=lambda model: AdamW(model.parameters(), lr=0.01, **options),
    )
    scene.grow(attach())
    twin = copy.deepcopy(scene.model)
    for index, block in enumerate(twin.blocks):
        twin.blocks[index] = Adapted(block)
    optimizer = AdamW(twin.parameters(), lr=0.01, **options)
    for model, optim in ((scene.model, scene.optimizer), (twin, optimizer)):
        model.train()
        for _ in range(3):
            optim.zero_grad()
            model(scene.x).pow(2).sum().backward()
            optim.step()
    assert torch.allclose(scene.output(), twin.eval()(scene.x), rtol=0, atol=1e-12)
    assert torch.allclose(
        twin.blocks[0].adapter.up.weight,
        scene.model.blocks[0].mlp.adapter.module.up.weight,
        rtol=0,
        atol=1e-12,
    )


def test_a_second_one_goes_on_top_under_another_name():
    scene = Scene()
    scene.grow(attach())
    scene.shake()
    before = scene.output()
    with pytest.raises(
        ActionError, match=r"'blocks\.0\.mlp\.adapter' is there already; give .* child"
    ):
        scene.grow(attach(), cohort="again", step=1)
    scene.grow(attach(child="second", mode="after", init="keep"), cohort="again", step=1)
    host = scene.model.blocks[0].mlp
    assert scene.changed(before) > 1e-3
    x = torch.randn(2, D)
    f = host.down(torch.tanh(host.up(x))) + host.adapter.module(x)
    assert torch.allclose(host(x), f + host.second.module(f), atol=1e-6)


def test_hosts_that_match_nothing_are_named_with_what_is_near():
    action = attach(host=("blocks.*.mpl", "blocks.0.mlp", "heed"))
    with pytest.raises(
        SelectorError,
        match=r"^p: host 'blocks\.\*\.mpl' matches no module .*; host 'heed'.*did you mean 'head'",
    ):
        plan(Site(Model(block=Residual)), action, place="p")


def test_a_copy_of_what_runs_branches_begins_with_zero_too():
    scene = Scene()
    scene.grow(attach())
    scene.grow(upcycle(experts=3), cohort="experts", step=1)
    scene.shake()
    before = scene.output()
    certificate = scene.grow(attach(module="copy"), cohort="copy", step=2)
    assert scene.changed(before) == 0.0
    assert certificate["zeroed"] == [
        "module.down",
        "module.adapter.module.up",
        "module.moe.experts.1.down",
        "module.moe.experts.1.adapter.module.up",
        "module.moe.experts.2.down",
        "module.moe.experts.2.adapter.module.up",
    ]


def test_a_star_is_one_part_of_a_path():
    found = plan(Site(Model()), attach(host=("blocks.*",)), place="p")
    assert [target.path for target in found.targets] == ["blocks.0", "blocks.1"]


def test_a_list_of_layers_gets_it_from_the_module_around_it():
    scene = Scene(Listed)
    scene.grow(attach(init="keep"))
    block = scene.model.blocks[1]
    assert list(block._modules) == ["norm", "mlp", "mlp_adapter"]
    assert list(block.mlp._modules) == ["0", "1", "2"]
    x = torch.randn(2, D)
    bare = block.mlp[2](block.mlp[1](block.mlp[0](x)))
    assert torch.allclose(block.mlp(x), bare + block.mlp_adapter.module(x), atol=1e-6)


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        (Model(), {"host": ("blocks",)}, r"p: 'blocks' is a ModuleList, which is never called"),
        (
            nn.Sequential(nn.Sequential(nn.Linear(2, 2))),
            {"host": ("0",)},
            "'0' and all around it run their children one by one",
        ),
        (
            Model(),
            {"host": ("head",), "module": "adaptor"},
            r"no module 'adaptor'; ours are .* parts=.*did you mean 'adapter'",
        ),
        (Model(), {"host": ("head",), "child": "weight"}, "'head.weight' is there already"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 1)),
            {"host": ("0",)},
            "'0' has convolutions, whose features are not on the last axis; write axis: 1",
        ),
        (
            nn.Sequential(nn.Tanh()),
            {"host": ("0",)},
            "how many features '0' reads and writes cannot be told",
        ),
    ],
)
def test_what_cannot_be_attached_is_refused_before_the_run(model, fields, message):
    with pytest.raises(UnsupportedError, match=message):
        plan(Site(model), attach(**fields), place="p")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"in_features": 5}, r"does not fit it \(it reads \(5, 3, 8\) and makes \(5, 3, 8\)\)"),
        ({"out_features": 5}, r"does not fit it .*cannot be added.*in_features"),
        ({"host": ("spare",)}, r"'spare' did not run on the probe"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changed(fields, message):
    model = Model(block=Residual)
    model.spare = nn.Linear(D, D)
    scene = Scene(model=model)
    before = digest(scene.model, scene.optimizer)
    with pytest.raises(ActionError, match=message):
        scene.grow(attach(**fields))
    assert digest(scene.model, scene.optimizer) == before


def test_channels_of_images():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    images = torch.randn(2, 3, 5, 5)
    model(images)
    scene = Scene(model=model, probe=images)
    scene.x = images
    before = scene.output()
    scene.grow(attach(host=("0",), mode="after", axis=1, init="keep"))
    made = model[0].adapter.module
    made_of = torch.einsum(
        "bchw->bhwc", nn.functional.conv2d(images, model[0].weight, model[0].bias)
    )
    assert torch.allclose(model[0](images), (made_of + made(made_of)).movedim(-1, 1), atol=1e-5)
    assert scene.changed(before) > 1e-4


def builder(host):
    return nn.Sequential(nn.LayerNorm(host.up.in_features), nn.Linear(D, D))


def test_a_builder_of_the_users_makes_one_for_each_host():
    scene = Scene(parts={"mine": builder})
    state = torch.get_rng_state()
    certificate = scene.grow(attach(module="mine"))
    assert torch.equal(torch.get_rng_state(), state)
    assert certificate["exactness"] == "approximate"
    first, second = (block.mlp.mine.module[1].weight for block in scene.model.blocks)
    assert not torch.equal(first, second)
    assert certificate["params"]["added"] == 2 * (2 * D + D * D + D)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (lambda _host: 3, "returned a int, not an nn.Module"),
        (lambda _host: 1 / 0, "part 'mine' failed on a MLP: ZeroDivisionError"),
        (nn.Linear(8, 8), "is a Linear; give a function of the host"),
    ],
)
def test_a_builder_that_builds_nothing(part, message):
    with pytest.raises(UnsupportedError, match=message):
        plan(Site(Model(block=Residual), parts={"mine": part}), attach(module="mine"), place="p")


def test_costs_are_known_without_memory_for_them():
    model = Model(block=Residual)
    one = 2 * (D * 3 + 3 + 3 * D + D)
    actions = [attach(), attach(child="second", host=("blocks.*.mlp", "head"), module="linear")]
    assert costs(Site(model), actions[:1], place="p") == one
    head = D * 3 + 3
    assert costs(Site(model), actions, place="p") == one + 2 * (D * D + D) + head
    assert attachments(model.blocks[0].mlp) == []


def test_a_copy_of_the_model_runs_branches_of_its_own():
    scene = Scene()
    scene.grow(attach())
    scene.shake()
    teacher = copy.deepcopy(scene.model)
    assert torch.equal(teacher.eval()(scene.x), scene.output())
    with torch.no_grad():
        teacher.blocks[0].mlp.adapter.module.up.weight.add_(1.0)
    assert not torch.equal(teacher(scene.x), scene.output())
    (hook,) = attachments(teacher.blocks[0].mlp)
    assert hook.branch is teacher.blocks[0].mlp.adapter


@pytest.mark.parametrize("host", ["blocks.*", "blocks.*.fc2"])
def test_a_later_deepen_copies_a_block_with_its_branches(host):
    scene = Scene(model=Model())
    scene.grow(attach(host=(host,)))
    scene.shake()
    before = scene.output()
    certificate = scene.grow(deepen(at="spread"), cohort="deeper", step=1)
    assert certificate["exactness"].startswith("exact")
    assert any(name.endswith("adapter.module.up.weight") for name in certificate["zeroed"])
    assert scene.changed(before) < 1e-6
    hosts = [m for m in scene.model.modules() if attachments(m)]
    branches = [hook.branch for m in hosts for hook in attachments(m)]
    assert len({id(branch) for branch in branches}) == len(branches) == 4
    assert branches == [m for m in scene.model.modules() if isinstance(m, Branch)]


def test_a_deepen_that_would_share_a_branch_is_refused():
    class Listed2(Model):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(D, D)) for _ in range(2))

    scene = Scene(model=Listed2())
    scene.grow(attach(host=("blocks.*",)))
    assert "blocks_0_adapter" in scene.model._modules
    with pytest.raises(ActionError, match=r"runs a branch that is a child of a module around"):
        scene.grow(deepen(how="stack"), cohort="deeper", step=1)


def test_a_frozen_base_gets_a_branch_that_is_trained():
    model = Model(block=Residual)
    for name, p in model.named_parameters():
        p.requires_grad_(name.startswith("head"))
    scene = Scene(
        model=model, optimizer=lambda m: AdamW([p for p in m.parameters() if p.requires_grad])
    )
    scene.grow(attach(module="copy"))
    new = [p for n, p in model.named_parameters() if ".copy." in n]
    assert len(new) == 8
    assert all(p.requires_grad for p in new)
    assert {id(p) for p in new} <= {
        id(p) for g in scene.optimizer.param_groups for p in g["params"]
    }


def test_new_parameters_join_the_group_of_the_nearest_of_their_kind():
    def split(model):
        matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "blocks" in n]
        rest = [p for p in model.parameters() if all(p is not m for m in matrices)]
        return [Muon(matrices, lr=0.01), AdamW(rest, lr=0.01)]

    scene = Scene(optimizer=split)
    certificate = scene.grow(attach(norm="layer"))
    assert certificate["groups"] == {"Muon[0]": 4, "AdamW[0]": 8}
    muon, adamw = scene.optimizer
    order = {id(p): place for place, p in enumerate(scene.model.parameters())}
    for optimizer in scene.optimizer:
        places = [order[id(p)] for p in optimizer.param_groups[0]["params"]]
        assert places == sorted(places)
    scene.model(scene.x).sum().backward()
    muon.step()
    adamw.step()


def test_what_is_frozen_around_a_growth_stays_so():
    scene = Scene()
    scene.actor.transact(boundary(0, held=[freeze("blocks.0")]), accept)
    scene.grow(attach(), step=1, held=[freeze("blocks.0")])
    flags = {n: p.requires_grad for n, p in scene.model.named_parameters()}
    assert not any(flag for n, flag in flags.items() if n.startswith("blocks.0."))
    assert all(flag for n, flag in flags.items() if not n.startswith("blocks.0."))
    scene.actor.transact(boundary(2), accept)
    assert all(p.requires_grad for p in scene.model.parameters())


def test_it_compiles():
    scene = Scene()
    scene.grow(attach(init="keep"), alpha=0.5, held=[alpha_ramp("new", 0.5)])
    compiled = torch.compile(scene.model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled.eval()(scene.x), scene.output(), atol=1e-6)


def test_a_block_that_hands_on_more_than_its_stream():
    class Tupled(Residual):
        def forward(self, x):
            return super().forward(x), "more"

    class Unpacking(Model):
        def forward(self, x):
            x = self.inp(x)
            for block in self.blocks:
                x, more = block(x)
                assert more == "more"
            return self.head(self.bn(x.mean(1)))

    scene = Scene(model=Unpacking(block=Tupled))
    before = scene.output()
    scene.grow(attach(host=("blocks.*",)))
    assert scene.changed(before) == 0.0


def test_the_certificate_says_that_its_class_does_not_know_it():
    certificate = Scene().grow(attach())
    assert certificate["citizen"] is False
    assert "replayed" in certificate["not_a_citizen"]
    assert certificate["attached"]["blocks.0.mlp"] == "blocks.0.mlp.adapter"


def test_planning_and_preparing_touch_nothing():
    model = Model(block=Residual)
    optimizer = AdamW(model.parameters())
    before = digest(model, optimizer)
    site = Site(model, [optimizer], probe=batch())
    for fields in OURS:
        plan(site, attach(**fields), place="p").prepare(site, seed=1)
    assert digest(model, optimizer) == before
