import pytest
import torch
from torch import nn
from torch.optim import SGD, Adafactor, AdamW

from stagegraph.actions import replay
from stagegraph.errors import ActionError
from tests.actions.growth.grown import MLP, Scene, add_experts
from tests.actions.models import (
    D,
    Model,
    accept,
    back_to,
    batch,
    boundary,
    digest,
    growth,
    snapshot,
    train,
)
from tests.actions.test_undo import check


class Mixture(nn.Module):
    """Somebody's own mixture: it loops over as many experts as it says it has."""

    renormalised = True

    def __init__(self, num_experts=4, top_k=2):
        super().__init__()
        self.num_experts, self.top_k = num_experts, top_k
        self.gate = nn.Linear(D, num_experts)
        self.experts = nn.ModuleList(MLP() for _ in range(num_experts))

    def forward(self, x):
        p, chosen = torch.softmax(self.gate(x), -1).topk(self.top_k, -1)
        if self.renormalised:
            p = p / p.sum(-1, keepdim=True)
        out = torch.zeros_like(x)
        for number in range(self.num_experts):
            weight = (p * (chosen == number)).sum(-1, keepdim=True)
            out = out + weight * self.experts[number](x)
        return x + out


class Raw(Mixture):
    renormalised = False


DECLARED = {
    "moe": ("blocks.*",),
    "experts": "experts",
    "router": "gate",
    "active": "top_k",
    "count": ("num_experts",),
}


def scene_of(block, **more):
    """With a probe that reaches every expert."""
    scene = Scene(block, probe=batch(64).to(more.get("dtype", torch.float32)), **more)
    scene.x = batch(64).to(more.get("dtype", torch.float32))
    return scene


@pytest.mark.parametrize("block", [Mixture, Raw])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_twice_the_experts_and_twice_the_top_k_change_nothing(block, dtype, rounding):
    scene = scene_of(block, dtype=dtype)
    before = scene.output()
    certificate = scene.grow(add_experts(**DECLARED))
    assert scene.changed(before) < rounding
    assert certificate["exactness"].startswith("exact")
    mixture = scene.model.blocks[0]
    assert (mixture.num_experts, mixture.top_k, mixture.gate.out_features) == (8, 4, 8)
    assert torch.equal(mixture.gate.weight[4:], mixture.gate.weight[:4])
    assert certificate["params"]["added"] == 2 * (
        4 * sum(p.numel() for p in MLP().parameters()) + 4 * (D + 1)
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda m: AdamW(m.parameters(), lr=0.01, fused=True),
        lambda m: AdamW(m.parameters(), lr=0.01, foreach=True, amsgrad=True),
        lambda m: SGD(m.parameters(), lr=0.01, momentum=0.9),
    ],
)
def test_the_router_stays_and_its_moments_are_divided_among_the_copies(make):
    scene = scene_of(Mixture, optimizer=make)
    train(scene.model, scene.optimizer, 2)
    gate = scene.model.blocks[0].gate
    weight, moments = gate.weight, dict(scene.optimizer.state[gate.weight])
    scene.grow(add_experts(**DECLARED))
    assert gate.weight is weight
    after = scene.optimizer.state[weight]
    for key, value in moments.items():
        if value.dim():
            share = 4 if key.endswith("_sq") else 2
            assert torch.equal(after[key], torch.cat([value, value]) / share), key
    train(scene.model, scene.optimizer, 2)


def test_means_of_rows_and_columns_follow_the_router():
    scene = scene_of(Mixture, optimizer=lambda m: Adafactor(m.parameters(), lr=0.01))
    train(scene.model, scene.optimizer, 2)
    weight = scene.model.blocks[0].gate.weight
    rows = scene.optimizer.state[weight]["row_var"].clone()
    scene.grow(add_experts(**DECLARED))
    after = scene.optimizer.state[weight]
    assert torch.allclose(after["row_var"], torch.cat([rows, rows]) / 4)
    assert after["col_var"].shape == (1, D)
    train(scene.model, scene.optimizer, 2)


def test_kept_top_k_is_not_exact_and_says_so():
    scene = scene_of(Mixture)
    before = scene.output()
    certificate = scene.grow(add_experts(**{**DECLARED, "active": None}, top_k="keep"))
    assert scene.changed(before) > 1e-4
    assert certificate["exactness"] == "approximate"
    assert scene.model.blocks[0].top_k == 2


def test_a_rollback_and_a_replay():
    scene = scene_of(Mixture)
    train(scene.model, scene.optimizer, 2)
    names, shapes = list(scene.model.state_dict()), [p.shape for p in scene.model.parameters()]
    state = {k: v.clone() for k, v in scene.model.state_dict().items()}
    act = boundary(2, deeds=[snapshot(), growth(add_experts(**DECLARED), cohort="new")])
    scene.actor.transact(act, accept)
    train(scene.model, scene.optimizer, 2)
    other = scene_of(Mixture)
    replay(other.model, other.optimizer, scene.actor.state_dict()["lineage"])
    other.model.load_state_dict(scene.model.state_dict())
    other.optimizer.load_state_dict(scene.optimizer.state_dict())
    assert torch.equal(other.output(), scene.output())
    bare = Model(block=lambda: Mixture(8, 4))
    bare.load_state_dict(scene.model.state_dict())
    assert torch.equal(bare.eval()(scene.x), scene.output())
    scene.actor.transact(boundary(4, restore=back_to()), accept)
    assert list(scene.model.state_dict()) == names
    assert [p.shape for p in scene.model.parameters()] == shapes
    assert all(torch.equal(state[k], v) for k, v in scene.model.state_dict().items())
    assert (scene.model.blocks[0].num_experts, scene.model.blocks[0].top_k) == (4, 2)
    train(scene.model, scene.optimizer, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": ()}, "did not run on the probe"),
        ({"active": None}, "write active: "),
        (
            {"experts": "expert"},
            r"blocks\.0\.expert is to be an nn\.ModuleList, and there is none.*'experts'",
        ),
        (
            {"router": "experts"},
            r"blocks\.0\.experts is to be an nn\.Linear, and it is a ModuleList",
        ),
        ({"factor": None, "add": 1}, "grow by a whole factor"),
    ],
)
def test_what_is_declared_wrongly_is_refused_and_nothing_changed(fields, message):
    scene = scene_of(Mixture)
    train(scene.model, scene.optimizer, 1)
    scene.model.zero_grad()
    before = digest(scene.model, scene.optimizer)
    with pytest.raises(ActionError, match=message):
        scene.grow(add_experts(**{**DECLARED, **fields}))
    assert digest(scene.model, scene.optimizer) == before


def test_a_failing_growth_leaves_everything_as_it_was():
    def make():
        scene = scene_of(Mixture)
        train(scene.model, scene.optimizer, 1)
        act = boundary(1, deeds=[growth(add_experts(**DECLARED), cohort="new")])

        def seen():
            return digest(scene.model, scene.optimizer), scene.actor.state_dict()

        return scene.actor, lambda: scene.actor.transact(act, accept), seen

    check(make, 20)
