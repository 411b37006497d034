import copy

import pytest
import torch
from torch import nn

from stagegraph.actions.growth.modules.upcycle import plan
from stagegraph.actions.growth.operation import Site
from stagegraph.errors import ActionError, UnsupportedError
from tests.actions.growth.grown import Listed, Residual, Scene, add_experts, upcycle
from tests.actions.models import (
    Block,
    D,
    Model,
    accept,
    alpha_ramp,
    batch,
    boundary,
    deepen,
    digest,
)

ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-12}


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (4, 1), (3, 3)])
def test_a_mixture_of_equal_experts_is_the_mlp(dtype, experts, top_k):
    scene = Scene(dtype=dtype)
    evaluated, trained = scene.output(), scene.output(training=True)
    certificate = scene.grow(upcycle(experts=experts, top_k=top_k))
    assert scene.changed(evaluated) < ROUNDING[dtype]
    assert scene.changed(trained, training=True) < ROUNDING[dtype]
    assert certificate["exactness"].startswith("exact")
    moe = scene.model.blocks[0].mlp.moe
    assert (moe.num_experts, moe.top_k) == (experts, top_k)


def test_experts_are_mixed_by_weights_that_sum_to_one():
    scene = Scene(dtype=torch.float64)
    scene.grow(upcycle(experts=3, top_k=2))
    scene.shake()
    host = scene.model.blocks[0].mlp
    moe = host.moe
    x = torch.randn(4, 5, D, dtype=torch.float64)
    bare = [lambda x: host.down(torch.tanh(host.up(x))), moe.experts["1"], moe.experts["2"]]
    expected = torch.zeros_like(x)
    for place in [(i, j) for i in range(4) for j in range(5)]:
        p = torch.softmax(moe.router(x[place]), 0)
        best = p.argsort(descending=True)[:2].tolist()
        for e in best:
            expected[place] += p[e] / p[best].sum() * bare[e](x[place])
    assert torch.allclose(host(x), expected, rtol=0, atol=1e-14)


def test_routed_experts_and_the_router_learn():
    scene = Scene()
    certificate = scene.grow(upcycle(experts=4))
    assert certificate["gradient"]["reached"] > 8
    scene.shake()
    new = scene.gradients()
    assert {f"blocks.{i}.mlp.moe.router.weight" for i in range(2)} <= set(new)
    assert sum("moe.experts" in name for name in new) >= 4 * 2


def test_an_expert_that_got_no_token_is_no_defect():
    scene = Scene(model=Model(block=Residual, norm=False), probe=batch(1)[:, :1])
    certificate = scene.grow(upcycle(experts=9, top_k=1))
    assert certificate["gradient"]["reached"] < certificate["gradient"]["of"] / 2


def test_only_tokens_that_were_sent_to_an_expert_reach_it():
    scene = Scene()
    scene.grow(upcycle(experts=4, top_k=1))
    seen = []
    moe = scene.model.blocks[0].mlp.moe
    for expert in moe.experts.values():
        expert.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    scene.model(scene.x)
    assert 0 < sum(seen) <= 15


@pytest.mark.parametrize("fields", [{"noise": 0.05}, {"reinit": 0.5}])
def test_what_makes_copies_differ_is_not_exact_and_can_be_blended_in(fields):
    scene = Scene()
    before = scene.output()
    certificate = scene.grow(upcycle(**fields), alpha=0.0, held=[alpha_ramp("new")])
    assert scene.changed(before) == 0.0
    assert certificate["exactness_at_alpha_1"] == "approximate"
    host = scene.model.blocks[0].mlp
    drawn = [
        int((expert.up.weight != host.up.weight).any(1).sum())
        for expert in host.moe.experts.values()
    ]
    assert drawn == [8 if "reinit" in fields else 16] * 3
    if "reinit" in fields:
        (first, _, _) = host.moe.experts.values()
        rows = (first.up.weight != host.up.weight).any(1)
        columns = (first.down.weight != host.down.weight).any(0)
        assert torch.equal(rows, columns)
        assert certificate["units_redrawn"] == 2 * 3 * 8


def test_dropout_draws_other_masks_in_the_copies_and_is_named():
    scene = Scene(lambda: Residual(0.2))
    before = scene.output()
    certificate = scene.grow(upcycle())
    assert certificate["exact_in_eval_only"] == ["blocks.0.mlp", "blocks.1.mlp"]
    assert scene.changed(before) < 1e-6
    assert certificate["dropout"].startswith("off in the comparison")
    assert certificate["change"]["train"] < 1e-6


def test_copies_join_the_groups_of_what_they_were_copied_from():
    def split(model):
        decayed = [p for p in model.parameters() if p.dim() == 2]
        return torch.optim.AdamW(
            [{"params": decayed}, {"params": [p for p in model.parameters() if p.dim() < 2]}]
        )

    scene = Scene(optimizer=split)
    certificate = scene.grow(upcycle(experts=4))
    assert certificate["groups"] == {"AdamW[0]": 2 * (3 * 2 + 1), "AdamW[1]": 2 * 3 * 2}


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        (Model(), {"host": ("blocks.*.drop",)}, "how many features .* cannot be told"),
        (
            nn.Sequential(nn.Conv2d(3, 3, 1)),
            {"host": ("0",)},
            "an expert is an MLP on the last axis",
        ),
    ],
)
def test_what_is_no_mlp_is_refused_before_the_run(model, fields, message):
    with pytest.raises(UnsupportedError, match=message):
        plan(Site(model), upcycle(**fields), place="p")


def test_a_mixture_is_not_upcycled_twice():
    scene = Scene()
    scene.grow(upcycle())
    before = digest(scene.model, scene.optimizer)
    with pytest.raises(
        ActionError, match="is a mixture of experts already; add_experts gives it more"
    ):
        scene.grow(upcycle(child="more"), cohort="again", step=1)
    assert digest(scene.model, scene.optimizer) == before


def test_what_looks_at_several_tokens_at_once_is_refused():
    scene = Scene(lambda: Block(dropout=0.0))
    before = digest(scene.model, scene.optimizer)
    with pytest.raises(
        ActionError, match=r"copies of 'blocks\.0' .* looks at several tokens at once"
    ):
        scene.grow(upcycle(host=("blocks.*",)))
    assert digest(scene.model, scene.optimizer) == before


def test_hidden_units_that_cannot_be_told():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.mlp = nn.LayerNorm(D), nn.Linear(D, D)

        forward = Residual.forward

    with pytest.raises(ActionError, match="has no hidden units that can be told"):
        Scene(Plain).grow(upcycle(reinit=0.5))


def test_a_list_of_layers_is_upcycled_from_the_module_around_it():
    scene = Scene(Listed)
    before = scene.output()
    scene.grow(upcycle())
    assert list(scene.model.blocks[0]._modules) == ["norm", "mlp", "mlp_moe"]
    assert scene.changed(before) < 1e-6


def test_a_later_deepen_and_a_copy_of_the_model_have_mixtures_of_their_own():
    scene = Scene()
    scene.grow(upcycle(experts=2))
    scene.shake()
    before = scene.output()
    scene.grow(deepen(zero=("mlp.down", "mlp.moe.experts.*.down")), cohort="deeper", step=1)
    assert scene.changed(before) < 1e-5
    scene.grow(add_experts(), cohort="more", step=2)
    assert [block.mlp.moe.num_experts for block in scene.model.blocks] == [4] * 4
    twin = copy.deepcopy(scene.model)
    with torch.no_grad():
        for p in twin.blocks[3].mlp.moe.parameters():
            p.add_(1.0)
    assert not torch.equal(twin.eval()(scene.x), scene.output())
    assert scene.changed(before) < 1e-5


# Adding experts


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("fields", [{"factor": 2}, {"to": 12}, {"add": 4}])
def test_as_many_times_more_of_both_change_nothing(dtype, fields):
    scene = Scene(dtype=dtype)
    scene.grow(upcycle(experts=4))
    scene.shake()
    before, trained = scene.output(), scene.output(training=True)
    certificate = scene.grow(add_experts(**fields), cohort="more", step=1)
    assert scene.changed(before) < ROUNDING[dtype]
    assert scene.changed(trained, training=True) < ROUNDING[dtype]
    assert certificate["exactness"].startswith("exact")
    moe = scene.model.blocks[0].mlp.moe
    assert (moe.num_experts, moe.top_k) == ((12, 6) if "to" in fields else (8, 4))


def test_kept_top_k_changes_the_function_but_not_at_alpha_0():
    scene = Scene()
    scene.grow(upcycle(experts=4))
    scene.shake()
    before = scene.output()
    held = [alpha_ramp("more")]
    certificate = scene.grow(
        add_experts(add=3, top_k="keep"), cohort="more", step=1, alpha=0.0, held=held
    )
    assert scene.changed(before) == 0.0
    assert certificate["change"]["alpha_1"] > 1e-2
    assert not any("entrants" in name for name in scene.gradients())
    scene.actor.tune({held[0].place: 0.5})
    assert any("entrants.1.experts" in name for name in scene.gradients())
    assert any("entrants.1.router" in name for name in scene.gradients())
    scene.actor.transact(boundary(9, alphas={"more": 1.0}), accept)
    assert scene.changed(before) == pytest.approx(certificate["change"]["alpha_1"], rel=1e-3)


def test_more_experts_twice_and_what_each_is_a_copy_of():
    scene = Scene(dtype=torch.float64)
    scene.grow(upcycle(experts=2, top_k=1))
    scene.shake()
    before = scene.output()
    scene.grow(add_experts(), cohort="a", step=1)
    certificate = scene.grow(add_experts(), cohort="b", step=2)
    assert scene.changed(before) < 1e-12
    assert certificate["mixtures"][0]["copy_of"] == [0, 1, 2, 3]
    mlp = scene.model.blocks[0].mlp
    last = mlp.moe.entrants["2"].experts
    assert list(last) == ["4", "5", "6", "7"]
    assert torch.equal(last["6"].up.weight, mlp.up.weight)
    assert torch.equal(last["7"].up.weight, mlp.moe.experts["1"].up.weight)
    assert torch.equal(mlp.moe.entrants["2"].router.weight[1], mlp.moe.router.weight[1])


def test_copies_stay_equal_unless_noise_makes_them_differ():
    def apart(noise):
        scene = Scene(model=Model(block=Residual, norm=False), dtype=torch.float64)
        scene.grow(upcycle(experts=2, top_k=1))
        scene.shake()
        scene.grow(add_experts(noise=noise), cohort="more", step=1)
        for _ in range(3):
            scene.optimizer.zero_grad()
            scene.model(scene.x).pow(2).sum().backward()
            scene.optimizer.step()
        moe = scene.model.blocks[0].mlp.moe
        first, second = moe.experts["1"], moe.entrants["1"].experts["3"]
        return float((first.up.weight - second.up.weight).detach().abs().max())

    assert apart(0.0) < 1e-9
    assert apart(0.01) > 1e-3


class Own(nn.Module):
    """A mixture of somebody's own."""

    def __init__(self):
        super().__init__()
        self.experts = nn.Parameter(torch.zeros(3, D, D))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"moe": ("own",)}, r"'own' keeps its experts packed in one tensor \(experts\); declare"),
        ({"moe": ("head",)}, r"'head' is a Linear, not a mixture .*there is 'blocks\.0\.mlp\.moe'"),
        ({"moe": ("blocks.*.mlp.mo",)}, r"matches no module .*did you mean"),
        ({"add": 1}, "would have 5 experts instead of 4, .* grow by a whole factor"),
        ({"to": 4}, "there are 4 already, 4 is no growth"),
    ],
)
def test_mixtures_that_cannot_be_given_more(fields, message):
    scene = Scene()
    scene.model.own = Own()
    scene.grow(upcycle())
    before = digest(scene.model, scene.optimizer)
    with pytest.raises(ActionError, match=message):
        scene.grow(add_experts(**fields), cohort="more", step=1)
    assert digest(scene.model, scene.optimizer) == before
