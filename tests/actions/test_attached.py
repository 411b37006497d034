"""New modules live through failures, rollbacks, resumes and averaging as grown blocks do."""

import io

import pytest
import torch
from torch import nn
from torch.optim import AdamW, lr_scheduler
from torch.optim.swa_utils import AveragedModel

from stagegraph.actions import TorchActor, replay
from stagegraph.actions.changes import read_change
from stagegraph.actions.growth.modules.branches import attachments
from stagegraph.actions.randomness import RandomState
from stagegraph.errors import SelectorError, SnapshotError, UnsupportedError
from tests.actions.growth.grown import Listed, Residual, add_experts, attach, upcycle
from tests.actions.models import (
    D,
    Model,
    accept,
    alpha_ramp,
    back_to,
    batch,
    boundary,
    deepen,
    digest,
    freeze,
    growth,
    lr_factor,
    snapshot,
    train,
    values,
)
from tests.actions.test_undo import check


def prefix(host):
    return nn.Sequential(nn.LayerNorm(D), nn.Linear(D, host.up.out_features), nn.Linear(2 * D, D))


PARTS = {"prefix": prefix}
GROWTHS = {
    "adapter": (Residual, [attach(norm="layer")]),
    "after a list": (Listed, [attach(mode="after", init="keep")]),
    "copy": (Residual, [attach(module="copy", init="keep")]),
    "part": (Residual, [attach(module="prefix")]),
    "two": (Residual, [attach(), attach(child="second", init="keep")]),
    "experts": (Residual, [upcycle(noise=0.1)]),
    "more experts": (Residual, [upcycle(experts=2), add_experts(noise=0.1)]),
    "deeper": (Residual, [attach(), deepen(how="interleave")]),
    "attached to new blocks": (Residual, [deepen(at="spread"), attach(), upcycle()]),
}
every_growth = pytest.mark.parametrize("name", GROWTHS)


def scene(name, *, seed=0, ema=False):
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = Model(block=GROWTHS[name][0])
    torch.set_rng_state(state)
    optimizer = AdamW(
        [
            {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.dim() < 2]},
        ],
        lr=0.01,
    )
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda step: 0.95**step)
    averaged = AveragedModel(model) if ema else None
    actor = TorchActor(
        model, optimizer, probe=batch(), scheduler=scheduler, ema=averaged, parts=PARTS
    )
    return model, optimizer, scheduler, averaged, actor


def grown(name, step=0, *, held=(), alpha=1.0):
    """The boundary at which it grows; a snapshot is taken before."""
    actions = GROWTHS[name][1]
    deeds = [
        growth(action, cohort=f"g{at}", place=f"main:grow.actions[{at}]")
        for at, action in enumerate(actions)
    ]
    alphas = {f"g{at}": alpha for at in range(len(actions))}
    return boundary(step, deeds=[snapshot(), *deeds], held=held, alphas=alphas)


def structure(model):
    """Names, and which module runs which branch."""
    names = {id(module): name for name, module in model.named_modules()}
    return list(model.state_dict()), [
        (name, names[id(hook.branch)], hook.reads)
        for name, module in model.named_modules()
        for hook in attachments(module)
    ]


@every_growth
def test_a_rollback_takes_everything_away(name):
    model, optimizer, _, _, actor = scene(name)
    train(model, optimizer, 2)
    for p in model.parameters():
        p.grad = None
    before, numbers = digest(model, optimizer)[:-3], values(model, optimizer)
    actor.transact(grown(name, 2), accept)
    assert structure(model)[1]
    train(model, optimizer, 3)
    actor.transact(boundary(5, restore=back_to()), accept)
    after = digest(model, optimizer)[:-3]
    assert [part[1] for part in after[0]] == [part[1] for part in before[0]]
    assert structure(model)[1] == []
    assert after[0] == before[0]
    assert values(model, optimizer) == numbers
    assert [id(p) for p in model.parameters()] == [
        id(p) for p in scene_parameters(optimizer, model)
    ]


def scene_parameters(optimizer, model):
    """The optimizer's parameters in the model's order."""
    order = {id(p): place for place, p in enumerate(model.parameters())}
    held = [p for group in optimizer.param_groups for p in group["params"]]
    return sorted(held, key=lambda p: order[id(p)])


@every_growth
def test_a_run_that_is_saved_rebuilt_and_loaded_goes_on_bit_for_bit(name):
    held = [alpha_ramp("g0"), lr_factor(0.5, "blocks.*"), freeze("inp", norms="eval")]
    model, optimizer, scheduler, _, actor = scene(name)
    train(model, optimizer, 2, scheduler=scheduler)
    exact = name == "more experts"  # there no ramp belongs over it
    actor.transact(grown(name, 2, held=() if exact else held), accept)
    if not exact:
        actor.tune({held[0].place: 0.3})
    train(model, optimizer, 2, scheduler=scheduler)
    file = io.BytesIO()
    torch.save(
        {
            "actor": actor.state_dict(),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
        },
        file,
    )
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    random = RandomState.capture()
    losses = train(model, optimizer, 3, scheduler=scheduler)

    other, its_optimizer, its_scheduler, _, its_actor = scene(name, seed=99)
    drawn = torch.get_rng_state()
    its_actor.load_state_dict(loaded["actor"])
    assert torch.equal(torch.get_rng_state(), drawn)
    assert structure(other) == structure(model)
    other.load_state_dict(loaded["model"])
    its_optimizer.load_state_dict(loaded["optimizer"])
    its_scheduler.load_state_dict(loaded["scheduler"])
    if not exact:
        its_actor.hold(held, {})
        its_actor.tune({held[0].place: 0.3})
    random.restore()
    assert train(other, its_optimizer, 3, scheduler=its_scheduler) == losses
    assert values(other, its_optimizer) == values(model, optimizer)


@every_growth
def test_a_lineage_alone_makes_a_checkpoint_loadable(name):
    model, optimizer, _, _, actor = scene(name)
    actor.transact(grown(name), accept)
    train(model, optimizer, 1)
    lineage = actor.state_dict()["lineage"]
    assert [read_change(change).as_json() for change in lineage] == lineage
    bare, its_optimizer, *_ = scene(name, seed=5)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        bare.load_state_dict(model.state_dict())
    replay(bare, its_optimizer, lineage, parts=PARTS)
    bare.load_state_dict(model.state_dict())
    its_optimizer.load_state_dict(optimizer.state_dict())
    assert torch.equal(bare.eval()(batch()), model.eval()(batch()))
    assert values(bare, its_optimizer) == values(model, optimizer)


@every_growth
def test_an_averaged_model_grows_along(name):
    model, optimizer, _, averaged, actor = scene(name, ema=True)
    train(model, optimizer, 2)
    averaged.update_parameters(model)
    before = averaged.module.eval()(batch())
    actor.transact(grown(name), accept)
    assert structure(averaged.module) == structure(model)
    new = set(model.state_dict()) - set(scene(name)[0].state_dict())
    mine, its = model.state_dict(), averaged.module.state_dict()
    attached = [key for key in new if any(f".{n}." in key for n in ("adapter", "moe", "prefix"))]
    assert all(torch.equal(mine[key], its[key]) for key in attached if "blocks.1" not in key)
    if name == "adapter":
        assert torch.equal(averaged.module.eval()(batch()), before)
    train(model, optimizer, 1)
    averaged.update_parameters(model)
    actor.transact(boundary(5, restore=back_to()), accept)
    assert structure(averaged.module)[1] == []


@every_growth
def test_a_failing_growth_leaves_everything_as_it_was(name):
    def make():
        model, optimizer, _, averaged, actor = scene(name, ema=True)
        train(model, optimizer, 2)
        act = grown(name, 2, held=[freeze("inp")])

        def seen():
            return digest(model, optimizer), digest(averaged), actor.state_dict()

        return actor, lambda: actor.transact(act, accept), seen

    check(make, 6)


def test_a_part_is_needed_again_at_resume():
    _, _, _, _, actor = scene("part")
    actor.transact(grown("part"), accept)
    lineage = actor.state_dict()["lineage"]
    model, optimizer, *_ = scene("part")
    before = structure(model)
    with pytest.raises(
        UnsupportedError, match=r"lineage of 'g0': there is no module 'prefix'; .*parts="
    ):
        replay(model, optimizer, lineage)
    assert structure(model) == before


def test_a_lineage_of_another_model_is_refused():
    _, _, _, _, actor = scene("experts")
    actor.transact(grown("more experts"), accept)
    lineage = actor.state_dict()["lineage"]
    other = Model()
    with pytest.raises(SelectorError, match=r"lineage of 'g0': there is no 'blocks\.0\.mlp'"):
        replay(other, AdamW(other.parameters()), lineage)
    model, optimizer, *_ = scene("experts")
    with pytest.raises(UnsupportedError, match="there is no mixture of experts"):
        replay(model, optimizer, lineage[1:])


@pytest.mark.parametrize("kind", ["attach", "upcycle", "add_experts"])
def test_a_change_that_cannot_be_read(kind):
    with pytest.raises(SnapshotError, match="this lineage cannot be read"):
        read_change({"kind": kind, "cohort": "g", "step": 0, "reads": "nothing"})
