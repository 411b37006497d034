"""The host's scheduler: what it does to plateaus and late growth, before the run and in it."""

import copy
import math
import warnings

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim import lr_scheduler as schedulers

import stagegraph as sg
from stagegraph.actions.optimizing.schedules import MOST_UPDATES, course_of, host_rate

GRAPH = """
stagegraph: 1
name: under a schedule
metrics: {val_loss: {goal: minimize, every: 10 steps}}
budget: {params: 3M, steps: 1000}
initial: train
stages:
  train:
    kind: train
    transitions:
      - target: grow
        when: plateau(val_loss, worth=1%, over=80 steps) and left(steps) > 300
        at_most: 3
    duration: 900 steps
    next: done
  grow:
    kind: grow
    actions: [{type: snapshot, name: before}, {type: deepen, stack: blocks, add: 1}]
    next: warmup
  warmup:
    kind: warmup
    during: [{type: lr_ramp, of: grown, start: 0, over: 20 steps}]
    next: consolidate
  consolidate: {kind: consolidate, duration: 50 steps, next: train}
  done: {kind: final}
interrupts:
  - name: undo
    within: [consolidate]
    when: regressed(val_loss, by=5%, since=before)
    target: train
    at_most: 2
"""


def optimizer_of(lr=0.1):
    return SGD([nn.Parameter(torch.zeros(2))], lr=lr, momentum=0.9)


def cosine(optimizer):
    return schedulers.CosineAnnealingLR(optimizer, T_max=1000)


def stable_then_down(optimizer):
    return schedulers.LambdaLR(optimizer, lambda step: min(1.0, (1000 - step) / 200))


def found(scheduler, graph=GRAPH, **more):
    findings = sg.check(sg.load(graph), scheduler=scheduler, **more)
    return {
        f.code: f
        for f in findings
        if f.code in ("plateau-under-decay", "late-growth", "scheduler-unknown")
        or f.code == "scheduler-follows-metric"
    }


# Before the run


def test_late_growth_under_a_cosine_is_told_with_how_much_is_left():
    """At 700 of 1000: half of 1 + cos 0.7π, by hand 20.6 %; of its integral 4.2 %."""
    late = found(cosine(optimizer_of()))["late-growth"]
    assert late.severity == "warning" and late.pointer == "/stages/grow"
    assert "as late as update 700 of 1,001" in late.message
    assert "to 21% of its peak; 4% of all learning rate" in late.message
    assert (1 + math.cos(0.7 * math.pi)) / 2 == pytest.approx(0.206, abs=1e-3)


def test_a_plateau_under_a_decay_is_told_with_where_it_falls():
    plateau = found(cosine(optimizer_of()))["plateau-under-decay"]
    assert plateau.severity == "warning" and plateau.pointer == "/stages/train/transitions/0/when"
    assert "CosineAnnealingLR takes the learning rate from" in plateau.message
    assert "because of the decay" in plateau.message


def test_under_a_level_schedule_that_falls_after_the_last_growth_nothing_is_told():
    assert found(stable_then_down(optimizer_of())) == {}


def test_a_constant_rate_and_a_warm_up_are_no_decay():
    assert found(schedulers.ConstantLR(optimizer_of(), factor=0.5, total_iters=0)) == {}
    rising = schedulers.LinearLR(optimizer_of(), start_factor=0.01, total_iters=900)
    assert found(rising) == {}


def test_a_plateau_scheduler_is_a_case_of_its_own():
    told = found(schedulers.ReduceLROnPlateau(optimizer_of()))
    assert set(told) == {"scheduler-follows-metric"}
    assert "counts as waiting" in told["scheduler-follows-metric"].message


def test_what_is_no_scheduler_of_torchs_is_said_to_be_unknown():
    class Mine:
        def step(self):
            raise AssertionError("nobody steps the real one")

    told = found(Mine())
    assert set(told) == {"scheduler-unknown"} and told["scheduler-unknown"].severity == "note"


def test_one_that_cannot_be_copied_is_said_to_be_unknown():
    class Bad(schedulers.LRScheduler):
        def get_lr(self):
            if self.last_epoch > 3:
                raise RuntimeError("no further")
            return [1.0 for _ in self.base_lrs]

    assert "no further" in found(Bad(optimizer_of()))["scheduler-unknown"].message


def test_without_a_length_of_the_run_it_is_said_to_be_unknown():
    text = GRAPH.replace(", steps: 1000", "").replace(" and left(steps) > 300", "")
    assert "no 'steps'" in found(cosine(optimizer_of()), text)["scheduler-unknown"].message
    epochs = text.replace("{params: 3M}", "{params: 3M, epochs: 10}")
    assert "late-growth" in found(cosine(optimizer_of()), epochs, loader=[0] * 100)


def test_a_run_too_long_to_follow_is_said_to_be_unknown():
    course = course_of(cosine(optimizer_of()), MOST_UPDATES + 1)
    assert "100,001 updates" in course.unknown and course.rates == ()


def test_it_can_be_waived_and_a_waiver_is_not_called_unused():
    waived = GRAPH.replace("initial: train", "waive: {late-growth: on purpose}\ninitial: train", 1)
    assert found(cosine(optimizer_of()), waived)["late-growth"].waived == "on purpose"
    codes = {f.code for f in sg.check(sg.load(waived))}
    assert not codes & {"unused-waiver", "unknown-waiver"}


# Every scheduler of torch's: the copy does what the real one would, and the real one does nothing

KINDS = {
    "ConstantLR": lambda o: schedulers.ConstantLR(o, total_iters=7),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, T_max=30),
    "Restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, T_0=9, T_mult=2),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, base_lr=0.01, max_lr=0.1, step_size_up=5),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, gamma=0.9),
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda step: 1 / (1 + step)),
    "LinearLR": lambda o: schedulers.LinearLR(o, total_iters=9),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, milestones=[5, 9]),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda step: 0.95),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, max_lr=0.2, total_steps=50),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, total_iters=30),
    "StepLR": lambda o: schedulers.StepLR(o, step_size=4),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o,
        [
            schedulers.LinearLR(o, start_factor=0.1, total_iters=5),
            schedulers.CosineAnnealingLR(o, T_max=30),
        ],
        milestones=[5],
    ),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, total_iters=7), schedulers.ExponentialLR(o, gamma=0.9)]
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_followed_and_the_real_one_stays(kind):
    optimizer = optimizer_of()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = KINDS[kind](optimizer)
        for _ in range(3):
            optimizer.step()
            scheduler.step()
    before, group = copy.deepcopy(scheduler.state_dict()), dict(optimizer.param_groups[0])
    course = course_of(scheduler, 25)
    assert course.unknown is None and len(course.rates) == 26
    assert scheduler.state_dict() == before and optimizer.param_groups[0] == group
    real = [optimizer.param_groups[0]["lr"]]
    for _ in range(25):
        optimizer.step()
        scheduler.step()
        real.append(optimizer.param_groups[0]["lr"])
    assert list(course.rates) == real


# In the run

RUNNING = """
stagegraph: 1
name: under a schedule
metrics: {val_loss: {goal: minimize}}
initial: train
stages:
  train:
    kind: train
    transitions: [{target: done, when: "plateau(val_loss, worth=1%, over=16 steps, confirm=1)"}]
    duration: 60 steps
    next: done
  done: {kind: final}
"""


class Journal(list):
    def write(self, records):
        self.extend(records)


def train(engine, optimizer, scheduler, steps):
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        engine.step(val_loss=2.0)


def begun(make, lr=0.1):
    model = nn.Linear(2, 2)
    optimizer = AdamW(model.parameters(), lr=lr)
    scheduler = make(optimizer)
    engine = sg.Engine(sg.load(RUNNING), model=model, optimizer=optimizer, scheduler=scheduler)
    journal = Journal()
    engine.listen(journal)
    engine.start()
    return engine, optimizer, scheduler, journal


def test_a_plateau_under_a_falling_rate_is_told_with_how_much_it_fell():
    """Exponential, by hand: over the 14 updates from the first value, 1 - 0.97^14 = 34.7 %."""
    engine, optimizer, scheduler, journal = begun(lambda o: schedulers.ExponentialLR(o, 0.97))
    train(engine, optimizer, scheduler, 15)
    (verdict,) = [r for r in journal if r["type"] == "verdict"]
    assert verdict["verdict"] == "plateau"
    seen = verdict["evidence"]["host_lr"]
    assert seen["from"] == pytest.approx(0.1 * 0.97) and seen["to"] == pytest.approx(0.1 * 0.97**15)
    assert seen["fell"] == pytest.approx(1 - 0.97**14)
    (decay,) = [r for r in journal if r["type"] == "decay"]
    assert "fell by 35% over the window: the decay does this" in decay["told"]
    assert engine.done, "it is told, and decides nothing"


def test_under_a_level_rate_nothing_is_told():
    engine, optimizer, scheduler, journal = begun(lambda o: schedulers.ConstantLR(o, 1.0))
    train(engine, optimizer, scheduler, 15)
    (verdict,) = [r for r in journal if r["type"] == "verdict"]
    assert "host_lr" not in verdict["evidence"]
    assert not [r for r in journal if r["type"] == "decay"]


@pytest.mark.parametrize("cut", [1, 2, 7, 13, 14])
def test_what_is_known_of_the_rate_goes_on_from_any_cut(cut):
    def make(optimizer):
        return schedulers.ExponentialLR(optimizer, 0.97)

    engine, optimizer, scheduler, journal = begun(make)
    train(engine, optimizer, scheduler, cut)
    saved = copy.deepcopy(engine.state_dict())
    train(engine, optimizer, scheduler, 15 - cut)
    other, second, follower, again = begun(make)
    for _ in range(cut):
        second.step()
        follower.step()
    other.load_state_dict(saved)
    train(other, second, follower, 15 - cut)
    assert known(other, again) == known(engine, journal)
    assert len(known(engine, journal)[0]) == 15


def known(engine, journal):
    """All but the wall clock, which no two runs share."""
    rates = [(kept[0]["step"], kept[1]) for kept in engine.state_dict()["engine"]["host"]]
    told = [(r["step"], r["told"], r["fell"]) for r in journal if r["type"] == "decay"]
    return rates, told, engine.state_dict()["engine"]["memories"]


def test_the_hosts_rate_is_the_largest_without_the_engines_factors():
    optimizer = SGD(
        [
            {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.1},
            {"params": [nn.Parameter(torch.zeros(1))], "lr": torch.tensor(0.3)},
        ],
        lr=0.2,
    )
    assert host_rate([optimizer]) == pytest.approx(0.3)
    optimizer.param_groups[1]["lr"] = torch.empty((), device="meta")
    assert host_rate([optimizer]) is None, "a tensor elsewhere is not waited for"


# The norm of the gradient


def test_the_norm_of_the_gradient_is_that_of_clipping():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = SGD(model.parameters(), lr=0.1)
    engine = sg.Engine(sg.load(RUNNING), model=model, optimizer=optimizer)
    assert engine.grad_norm().item() == 0.0
    model(torch.randn(5, 3)).pow(2).sum().backward()
    model[1].bias.grad = None
    norm = engine.grad_norm()
    expected = math.sqrt(
        sum(p.grad.double().pow(2).sum().item() for p in model.parameters() if p.grad is not None)
    )
    assert norm.item() == pytest.approx(expected, rel=1e-6)
    clipped = nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    assert torch.equal(norm, clipped)
    assert not norm.requires_grad
    model[0].weight.grad[0, 0] = math.nan
    assert math.isnan(engine.grad_norm().item())


def test_without_a_model_there_is_no_gradient():
    with pytest.raises(sg.StageGraphError, match="runs on numbers alone"):
        sg.Engine(sg.load(RUNNING)).grad_norm()
