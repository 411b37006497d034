"""Schedules, several optimizers and a scaler go on over a growth."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Muon, lr_scheduler
from torch.optim.swa_utils import SWALR

from stagegraph.actions.actor import TorchActor
from tests.actions.models import Model, accept, batch, boundary, growth

SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda s: 0.9**s),
    "LambdaLR per group": lambda o: lr_scheduler.LambdaLR(o, [lambda s: 0.9**s, lambda s: 0.8**s]),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda _: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 6]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 6),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.3, 1.0, 8),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 12, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 12),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, 20),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 4), lr_scheduler.ExponentialLR(o, 0.9)], [4]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 6), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "SWALR": lambda o: SWALR(o, swa_lr=0.01, anneal_epochs=8),
}


def model_and_groups():
    model = Model(norm=False)
    blocks = list(model.blocks.parameters())
    rest = [*model.inp.parameters(), *model.head.parameters()]
    return model, [{"params": rest}, {"params": blocks, "lr": 0.05}]


def give_gradients(model):
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e-3)


def schedule(name, *, grow_at):
    """What the groups say before each of ten updates, with a growth before one of them."""
    model, groups = model_and_groups()
    optimizer = SGD(groups, lr=0.1, momentum=0.9)
    scheduler = SCHEDULERS[name](optimizer)
    actor = TorchActor(model, optimizer, scheduler=scheduler, probe=batch())
    seen = []
    for number in range(10):
        if number == grow_at:
            actor.transact(boundary(number, deeds=[growth()]), accept)
        give_gradients(model)
        seen.append([(g["lr"], g["momentum"]) for g in optimizer.param_groups])
        optimizer.step()
        scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
    actor.close()
    return model, optimizer, seen


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_goes_on_over_a_growth(name):
    _, _, alone = schedule(name, grow_at=None)
    model, optimizer, seen = schedule(name, grow_at=4)
    assert seen == alone
    rest, blocks = optimizer.param_groups
    assert [id(p) for p in blocks["params"]] == [id(p) for p in model.blocks.parameters()]
    assert len(model.blocks) == 4 and len(rest["params"]) == 4
    assert all(p in optimizer.state for p in model.blocks.parameters())


def muon_and_adamw(model):
    matrices = [p for p in model.blocks.parameters() if p.dim() == 2]
    inside = set(map(id, matrices))
    others = [p for p in model.parameters() if id(p) not in inside]
    decayed = [p for p in others if p.dim() == 2]
    plain = [p for p in others if p.dim() != 2]
    return Muon(matrices, lr=0.02), AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}], lr=1e-3
    )


def test_new_parameters_join_the_optimizer_and_group_of_their_template():
    model = Model(norm=False)
    muon, adamw = muon_and_adamw(model)
    schedulers = [lr_scheduler.LambdaLR(o, lambda s: 0.9**s) for o in (muon, adamw)]
    actor = TorchActor(model, [muon, adamw], scheduler=schedulers, probe=batch())
    for number in range(6):
        if number == 3:
            actor.transact(boundary(number, deeds=[growth()]), accept)
        for one in (muon, adamw):
            one.zero_grad()
        model(batch()).pow(2).mean().backward()
        for one in (muon, adamw):
            one.step()
        for one in schedulers:
            one.step()
    matrices = [p for p in model.blocks.parameters() if p.dim() == 2]
    vectors = [p for p in model.blocks.parameters() if p.dim() == 1]
    assert len(model.blocks) == 4
    assert [id(p) for p in muon.param_groups[0]["params"]] == [id(p) for p in matrices]
    decayed, plain = adamw.param_groups
    assert {id(p) for p in vectors} <= {id(p) for p in plain["params"]}
    assert len(decayed["params"]) == 2  # inp and head, as before
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert set(muon.state) == set(matrices)
    assert muon.param_groups[0]["lr"] == pytest.approx(0.02 * 0.9**6)


@pytest.mark.parametrize("overflow_at", [None, 2, 3])
def test_a_growth_between_scaled_steps(overflow_at):
    torch.manual_seed(0)
    model = Model(norm=False)
    optimizer = AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    actor = TorchActor(model, optimizer, scaler=scaler, probe=batch())
    scales = []
    for number in range(6):
        if number == 3:
            actor.transact(boundary(number, deeds=[growth()]), accept)
        optimizer.zero_grad()
        loss = model(batch()).pow(2).mean()
        scaler.scale(loss * (float("inf") if number == overflow_at else 1.0)).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    new = list(model.blocks[-1].parameters())
    steps = {float(optimizer.state[p]["step"]) for p in new}
    assert steps == {2.0 if overflow_at == 3 else 3.0}
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert scales[-1] == {None: 64.0, 2: 16.0, 3: 16.0}[overflow_at]
