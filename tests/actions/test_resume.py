"""A grown run that is saved, rebuilt and loaded goes on bit for bit."""

import io
import json

import pytest
import torch
from torch.optim import SGD, AdamW, lr_scheduler

from stagegraph.actions import TorchActor, replay
from stagegraph.actions.randomness import RandomState
from stagegraph.errors import SelectorError, SnapshotError, UnsupportedError
from tests.actions.models import (
    Counting,
    Model,
    accept,
    alpha_ramp,
    back_to,
    batch,
    boundary,
    deepen,
    freeze,
    growth,
    lr_factor,
    snapshot,
    train,
    values,
)

COUNTS = ("config.num_hidden_layers", "config.layer_types")
HELD = [
    alpha_ramp(),
    lr_factor(0.3, cohorts=("main:grow#1",)),
    freeze("inp", "bn", norms="eval"),
]


def base():
    state = torch.get_rng_state()
    model = Counting()
    optimizer = AdamW(
        [
            {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.dim() < 2]},
        ],
        lr=0.01,
    )
    torch.set_rng_state(state)
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda step: 0.95**step)
    return model, optimizer, scheduler


def saved(data):
    """What comes back from a disk."""
    file = io.BytesIO()
    torch.save(data, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def play(actor, model, optimizer, scheduler, steps):
    """Some of the updates 0..12: growth at 3 between the blocks, and again at 6, release at 9."""
    for step in steps:
        if step == 3:
            deed = growth(deepen(at="spread", count=COUNTS))
            actor.transact(
                boundary(3, deeds=[snapshot(), deed], held=HELD, alphas={"main:grow#1": 0.0}),
                accept,
            )
        if step == 6:
            deed = growth(deepen(add=1, how="stack", count=COUNTS), cohort="second")
            actor.transact(
                boundary(6, deeds=[deed], held=HELD, alphas={"main:grow#1": 0.5, "second": 1.0}),
                accept,
            )
        if step == 9:
            actor.transact(boundary(9, alphas={"main:grow#1": 0.9, "second": 1.0}), accept)
        if 3 <= step < 9:
            actor.tune({HELD[0].place: step / 10, HELD[1].place: step / 10})
        train(model, optimizer, 1, scheduler=scheduler)


def held_at(step):
    if 3 < step <= 9:
        return HELD, {"main:grow#1": (step - 1) / 10}
    return [], {"main:grow#1": 0.9} if step > 9 else {}


@pytest.mark.parametrize("cut", range(13))
def test_the_resumed_run_equals_the_uninterrupted_one(cut):
    torch.manual_seed(5)
    model, optimizer, scheduler = base()
    actor = TorchActor(model, optimizer, scheduler=scheduler, probe=batch())
    play(actor, model, optimizer, scheduler, range(cut))
    engine = json.loads(json.dumps(actor.state_dict()))
    tensors = saved(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "random": RandomState.capture().pack(),
            "snapshots": actor.snapshots(),
        }
    )
    play(actor, model, optimizer, scheduler, range(cut, 12))
    back = boundary(12, restore=back_to(fork=1)) if cut > 3 else boundary(12)
    actor.transact(back, accept)
    train(model, optimizer, 2)
    expected = values(model, optimizer)

    torch.manual_seed(99)
    model, optimizer, scheduler = base()
    actor = TorchActor(model, optimizer, scheduler=scheduler, probe=batch())
    actor.load_state_dict(engine)
    model.load_state_dict(tensors["model"])
    optimizer.load_state_dict(tensors["optimizer"])
    scheduler.load_state_dict(tensors["scheduler"])
    actor.load_snapshots(tensors["snapshots"])
    actor.hold(*held_at(cut))
    RandomState.unpack(tensors["random"]).restore()
    play(actor, model, optimizer, scheduler, range(cut, 12))
    actor.transact(back, accept)
    train(model, optimizer, 2)
    assert values(model, optimizer) == expected


def test_a_replay_draws_no_random_number_and_rebuilds_order_and_counts():
    model, optimizer, scheduler = base()
    actor = TorchActor(model, optimizer, probe=batch())
    play(actor, model, optimizer, scheduler, range(7))
    lineage = json.loads(json.dumps(actor.state_dict()["lineage"]))
    again, other, _ = base()
    numbers = torch.get_rng_state()
    replay(again, other, lineage)
    assert torch.equal(numbers, torch.get_rng_state())
    assert vars(again.config) == vars(model.config)
    assert [b.layer_idx for b in again.blocks] == [0, 1, 2, 3, 4]
    assert list(again.state_dict()) == list(model.state_dict())
    assert [[p.shape for p in g["params"]] for g in other.param_groups] == [
        [p.shape for p in g["params"]] for g in optimizer.param_groups
    ]
    names = {id(p): n for n, p in model.named_parameters()}
    others = {id(p): n for n, p in again.named_parameters()}
    assert [[others[id(p)] for p in g["params"]] for g in other.param_groups] == [
        [names[id(p)] for p in g["params"]] for g in optimizer.param_groups
    ]


def test_a_replay_of_another_model_is_refused():
    model, optimizer, scheduler = base()
    actor = TorchActor(model, optimizer, probe=batch())
    play(actor, model, optimizer, scheduler, range(4))
    lineage = actor.state_dict()["lineage"]
    bigger = Counting(3)
    with pytest.raises(
        UnsupportedError, match=r"stack 'blocks' had 2 blocks when it grew, this model's has 3"
    ):
        replay(bigger, SGD(bigger.parameters(), lr=0.1), lineage)
    other = torch.nn.Linear(1, 1)
    with pytest.raises(
        SelectorError, match=r"lineage of 'main:grow#1': there is no nn\.ModuleList"
    ):
        replay(other, SGD(other.parameters(), lr=0.1), lineage)


def test_a_config_that_was_saved_grown_is_not_counted_twice():
    model, optimizer, scheduler = base()
    actor = TorchActor(model, optimizer, probe=batch())
    play(actor, model, optimizer, scheduler, range(4))
    again, other, _ = base()
    again.config.num_hidden_layers = 4
    replay(again, other, actor.state_dict()["lineage"])
    assert again.config.num_hidden_layers == 4 and len(again.config.layer_types) == 4


def test_a_state_can_be_taken_up_by_a_model_that_has_grown_further():
    model, optimizer, scheduler = base()
    actor = TorchActor(model, optimizer, probe=batch())
    play(actor, model, optimizer, scheduler, range(4))
    state = actor.state_dict()
    blocks = list(model.blocks)
    play(actor, model, optimizer, scheduler, range(4, 8))
    actor.load_state_dict(state)
    assert list(model.blocks) == blocks and actor.state_dict() | {"frozen": {}} == state | {
        "frozen": {}
    }


def test_what_the_user_froze_is_known_after_a_resume():
    model = Model()
    model.inp.bias.requires_grad_(False)
    actor = TorchActor(model, SGD(model.parameters(), lr=0.1))
    actor.transact(boundary(held=[freeze("inp")]), accept)
    state = actor.state_dict()
    assert state["frozen"] == {"inp.weight": True, "inp.bias": False}
    again = Model()
    other = TorchActor(again, SGD(again.parameters(), lr=0.1))
    other.load_state_dict(state)
    assert not again.inp.bias.requires_grad and again.inp.weight.requires_grad


def test_a_state_of_another_version_is_refused_and_a_broken_one_undone():
    model = Model()
    actor = TorchActor(model, SGD(model.parameters(), lr=0.1), probe=batch())
    with pytest.raises(SnapshotError, match="has version 2; this stagegraph reads 1: a newer one"):
        actor.load_state_dict({"version": 2})
    grown = Model()
    teacher = TorchActor(grown, SGD(grown.parameters(), lr=0.1), probe=batch())
    teacher.transact(boundary(deeds=[growth()]), accept)
    with pytest.raises(
        SnapshotError, match=r"this state has no 'frozen', 'held_attributes', 'lasting_lr_factor'"
    ):
        actor.load_state_dict(
            {"version": 1, "lineage": teacher.state_dict()["lineage"], "alphas": {}}
        )
    assert len(model.blocks) == 2
