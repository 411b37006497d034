"""An update tried before a growth holds leaves nothing, whatever happens in it."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, AdamW, Muon, lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.optim.swa_utils import AveragedModel

from stagegraph.actions import TorchActor
from stagegraph.errors import ActionError
from tests.actions.models import (
    Model,
    accept,
    alpha_ramp,
    batch,
    boundary,
    deepen,
    digest,
    freeze,
    growth,
    lr_factor,
    train,
    values,
)

PLACE = "main:grow.actions[0]"
TRAIN = deepen(probe="train")
OPTIMIZERS = {
    "adamw": AdamW,
    "amsgrad": lambda ps, **kw: AdamW(ps, amsgrad=True, **kw),
    "fused": lambda ps, **kw: AdamW(ps, fused=True, **kw),
    "foreach": lambda ps, **kw: AdamW(ps, foreach=True, **kw),
    "tensor rate": lambda ps, lr: AdamW(ps, lr=torch.tensor(lr), foreach=False),
    "momentum": lambda ps, **kw: SGD(ps, momentum=0.9, nesterov=True, **kw),
    "adagrad": Adagrad,
}


def made(make=AdamW, model=None, *, steps=2, **companions):
    torch.manual_seed(0)
    model = model or Model()
    optimizer = make(model.parameters(), lr=0.01)
    train(model, optimizer, steps)
    return model, optimizer, TorchActor(model, optimizer, probe=batch(), **companions)


def grow(actor, action, **more):
    return actor.transact(boundary(deeds=[growth(action)], **more), accept).evidence[PLACE]


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("steps", [0, 2])
def test_a_tried_update_leaves_what_a_growth_without_it_leaves(make, steps):
    pairs = []
    for action in (deepen(), TRAIN):
        model, optimizer, actor = made(make, steps=steps)
        evidence = grow(actor, action)
        numbers = torch.get_rng_state()
        pairs.append((values(model, optimizer), numbers.tolist(), train(model, optimizer, 3)))
        assert all(p.grad is not None for p in model.parameters())
    assert pairs[0] == pairs[1]
    assert evidence["rehearsal"]["updated"] == len(list(model.parameters()))


def test_two_optimizers_of_which_one_is_muon():
    def two(model):
        flat = [p for p in model.parameters() if p.dim() == 2]
        rest = [p for p in model.parameters() if p.dim() != 2]
        return [Muon(flat, lr=0.01), AdamW(rest, lr=0.01)]

    found = []
    for action in (deepen(), TRAIN):
        torch.manual_seed(0)
        model = Model()
        several = two(model)
        for one in several:
            train(model, one, 1)
        grow(TorchActor(model, several, probe=batch()), action)
        found.append(values(model, *several))
    assert found[0] == found[1]


def test_the_update_is_real():
    model, optimizer, actor = made()
    seen = []

    class Watching(AdamW):
        def step(self, closure=None):
            before = values(model, self)
            super().step(closure)
            seen.append(before != values(model, self))

    optimizer.__class__ = Watching
    evidence = grow(actor, TRAIN)
    assert seen == [True]
    rehearsal = evidence["rehearsal"]
    assert rehearsal["seconds"] > 0 and rehearsal["loss"] == pytest.approx(rehearsal["loss"])
    weights = sum(p.numel() for p in model.parameters())
    assert rehearsal["copied_bytes"] > 4 * weights


def test_state_made_by_the_tried_update_is_gone():
    _, optimizer, actor = made(steps=0)
    grow(actor, TRAIN)
    assert not optimizer.state


def test_what_is_in_force_is_in_force():
    model, optimizer, actor = made()
    rates, wanted = [], []

    class Watching(SGD):
        def step(self, closure=None):
            rates.append(sorted({group["lr"] for group in self.param_groups}))
            wanted.append([p.grad is not None for p in model.head.parameters()])
            super().step(closure)

    optimizer = Watching(model.parameters(), lr=0.01)
    actor = TorchActor(model, optimizer, probe=batch())
    held = [alpha_ramp(), lr_factor(0.5, "blocks"), freeze("head")]
    grow(actor, TRAIN, held=held, alphas={"main:grow#1": 0.0})
    assert rates == [[0.005, 0.01]] and wanted == [[False, False]]
    assert [group["lr"] for group in optimizer.param_groups] == [0.01]
    assert {*actor.state_dict()["alphas"].values()} == {0.0}


def test_a_gate_at_0_is_opened_so_that_the_block_keeps_what_its_backward_needs():
    model, _, actor = made()
    held = [alpha_ramp()]
    evidence = grow(actor, TRAIN, held=held, alphas={"main:grow#1": 0.0})
    assert evidence["rehearsal"]["updated"] == len(list(model.parameters()))


def test_schedulers_averages_and_scalers_see_no_step():
    torch.manual_seed(0)
    model = Model()
    optimizer = SGD(model.parameters(), lr=0.01)
    ema = AveragedModel(model)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.9)
    scaler = torch.amp.GradScaler("cpu")
    actor = TorchActor(model, optimizer, probe=batch(), ema=ema, scheduler=scheduler, scaler=scaler)
    before = (scheduler.state_dict(), scaler.state_dict(), int(ema.n_averaged))
    grow(actor, TRAIN)
    assert (scheduler.state_dict(), scaler.state_dict(), int(ema.n_averaged)) == before
    assert not hasattr(optimizer, "_opt_called")
    assert len(ema.module.blocks) == 4


def test_hooks_of_the_user_do_not_count_the_tried_update():
    _, optimizer, actor = made()
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("pre"))
    optimizer.register_step_post_hook(lambda *_: seen.append("post"))
    everyones = register_optimizer_step_post_hook(lambda *_: seen.append("all"))
    try:
        grow(actor, TRAIN)
        assert seen == []
        optimizer.step()
        assert sorted(seen) == ["all", "post", "pre"]
    finally:
        everyones.remove()


def test_the_models_own_loss_is_descended():
    class Losing(Model):
        def forward(self, x):
            out = super().forward(x)
            return {"loss": out.pow(2).mean() + 1000, "logits": out}

    model, optimizer = Losing(), None
    optimizer = SGD(model.parameters(), lr=0.01)
    evidence = grow(TorchActor(model, optimizer, probe=batch()), TRAIN)
    assert evidence["rehearsal"]["loss"] > 1000


def test_an_inexact_growth_can_be_rehearsed():
    _, _, actor = made()
    evidence = grow(actor, deepen(how="stack", probe="train"))
    assert evidence["exactness"] == "approximate" and evidence["rehearsal"]["updated"] > 0


def test_without_it_nothing_is_tried():
    _, _, actor = made()
    assert "rehearsal" not in grow(actor, deepen())


class Full(torch.OutOfMemoryError):
    """No memory, as a hook pretends."""


def full(*_):
    raise Full("no memory")


def in_forward(model, _optimizer):
    calls = []

    def second_with_grad(*_):
        if torch.is_grad_enabled():
            calls.append(1)
            if len(calls) == 2:  # the first is the certificate's
                full()

    model.head.register_forward_pre_hook(second_with_grad)


def in_backward(model, _optimizer):
    model.inp.weight.register_post_accumulate_grad_hook(full)


def in_step(_model, optimizer):
    class Failing(type(optimizer)):
        def step(self, closure=None):
            super().step(closure)
            full()

    optimizer.__class__ = Failing


def half_way(_model, optimizer):
    """The update fails with the learning rates of ours in force, and the groups split."""
    step = type(optimizer).step

    class Failing(type(optimizer)):
        @torch.optim.Optimizer.profile_hook_step
        def step(self, closure=None):
            step.__wrapped__(self, closure)
            full()

    optimizer.__class__ = Failing


@pytest.mark.parametrize("fails", [in_forward, in_backward, in_step, half_way])
@pytest.mark.parametrize("steps", [0, 2])
def test_an_update_that_fails_leaves_everything_as_it_was(fails, steps):
    model, optimizer, actor = made(steps=steps)
    fails(model, optimizer)
    before = digest(model, optimizer)
    held = [lr_factor(0.5, "blocks"), freeze("bn", norms="eval")]
    message = "the update that was tried on the probe failed: Full: no memory"
    with pytest.raises(ActionError, match=message):
        grow(actor, TRAIN, held=held)
    assert digest(model, optimizer) == before
    assert grow(actor, deepen(), held=held)["exactness"] == "exact"


def test_an_interrupt_while_the_update_is_taken_back_is_undone(monkeypatch):
    model, optimizer, actor = made()
    before = digest(model, optimizer)
    heal, calls = actor._standing.rates.heal, []

    def interrupted():
        calls.append(1)
        if len(calls) == 2:  # the first is the transaction's
            raise KeyboardInterrupt
        heal()

    monkeypatch.setattr(actor._standing.rates, "heal", interrupted)
    with pytest.raises(KeyboardInterrupt):
        grow(actor, TRAIN)
    assert digest(model, optimizer) == before


def test_a_loss_that_is_not_finite_fails():
    class Losing(Model):
        def forward(self, x):
            out = super().forward(x)
            return {"loss": out.sum() * float("nan"), "logits": out}

    model = Losing()
    optimizer = SGD(model.parameters(), lr=0.01)
    actor = TorchActor(model, optimizer, probe=batch())
    before = digest(model, optimizer)
    with pytest.raises(ActionError, match=r"the loss of the update that was tried .* is nan"):
        grow(actor, TRAIN)
    assert digest(model, optimizer) == before


def test_a_probe_without_a_gradient_is_said():
    torch.manual_seed(0)
    model = Model()
    optimizer = SGD(model.parameters(), lr=0.01)

    calls = []

    def probe(model):
        calls.extend([1] * torch.is_grad_enabled())
        return model(batch()) if len(calls) < 2 else model(batch()).detach()

    actor = TorchActor(model, optimizer, probe=probe)
    with pytest.raises(ActionError, match="failed: RuntimeError: element 0 of tensors does not"):
        grow(actor, TRAIN)


def test_two_growths_of_one_boundary_are_rehearsed_once():
    model, _, actor = made()
    deeds = [growth(TRAIN), growth(TRAIN, "main:grow#2", "main:grow.actions[1]")]
    evidence = actor.transact(boundary(deeds=deeds), accept).evidence
    first, second = (one["rehearsal"] for one in evidence.values())
    assert first == second and len(model.blocks) == 6
    assert isinstance(model.blocks[5], nn.Module)
