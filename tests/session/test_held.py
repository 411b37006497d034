"""What a stage holds ends with it, whatever the way out, and is put back as the user had it."""

from itertools import pairwise

import pytest
import torch

from tests.session.training import WIDTH, Net, Training, rates_in_step

CUT = """
stagegraph: 1
name: held for a while
metrics: {{val_loss: {{goal: minimize, every: 1 step}}}}
events: [out]
budget: {{steps: {steps}}}
initial: before
stages:
  before: {{kind: train, duration: 3 steps, next: cut}}
  cut:
    kind: settle
    lr_factor: 0.25
    during: [{{type: freeze, of: [inp, blocks.0]}}]
    {ways}
  after: {{kind: train, duration: 3 steps, next: done}}
  done: {{kind: final}}
{interrupts}
"""
NEXT = "duration: 4 steps\n    next: after"
LONG = "duration: 90 steps\n    next: after"

WAYS_OUT = {
    "next": {"ways": NEXT},
    "a transition": {"ways": "transitions: [{target: after, when: val_loss < 0.5}]\n    " + LONG},
    "an event": {"ways": "transitions: [{target: after, when: event(out)}]\n    " + LONG},
    "an interrupt": {
        "ways": LONG,
        "interrupts": "interrupts: [{name: leave, within: [cut], when: val_loss < 0.5, "
        "target: after}]",
    },
    "stop": {
        "ways": LONG,
        "interrupts": "interrupts: [{name: leave, within: [cut], when: val_loss < 0.5, "
        "target: stop}]",
    },
    "the end of the budget": {"ways": LONG, "steps": 7},
    "a rollback": {
        "ways": LONG,
        "interrupts": "interrupts: [{name: leave, within: [cut], when: val_loss < 0.5, "
        "actions: [{type: roll_back, to: kept, data: skip, rng: fork}], target: after, "
        "at_most: 1}]",
    },
}


def document(*, ways, interrupts="", steps=40):
    text = CUT.format(ways=ways, interrupts=interrupts, steps=steps)
    if "roll_back" in interrupts:
        kept = "before: {kind: train, actions: [{type: snapshot, name: kept}], "
        text = text.replace("before: {kind: train, ", kept)
    return text


def frozen(model):
    return {name for name, p in model.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize("way", WAYS_OUT)
def test_factors_and_freezes_are_released_by_every_way_out(way):
    training = Training(
        document(**WAYS_OUT[way]), val_loss=lambda update: 1.0 if update < 7 else 0.1
    )
    seen = rates_in_step(training)
    training.go(3)
    assert training.stage == "cut"
    before = training.weights()[0]
    while training.updates < 7:
        assert frozen(training.model) == {
            name for name in before if name.startswith(("inp", "blocks.0"))
        }
        training.tick()
        if way == "an event" and training.updates == 6:
            training.engine.send("out")
    host = [0.1 * 0.99**step for step in range(8)]
    assert {round(r / host[n], 9) for n in range(3, 7) for r in seen[n].values()} == {0.25}
    if way not in ("stop", "the end of the budget"):
        assert training.stage == "after"
    else:
        assert training.engine.done
    assert frozen(training.model) == set()
    rate = training.optimizer.param_groups[0]["lr"]
    training.update()
    assert set(seen[-1].values()) == {rate}
    assert training.engine._torch.learning_rates() == [training.optimizer.param_groups[0]["lr"]]


@pytest.mark.parametrize("way", ["next", "an interrupt", "a rollback"])
def test_what_the_user_froze_stays_frozen(way):
    training = Training(
        document(**WAYS_OUT[way]), val_loss=lambda update: 1.0 if update < 7 else 0.1
    )
    training.model.inp.weight.requires_grad_(requires_grad=False)
    training.model.head.bias.requires_grad_(requires_grad=False)
    kept = training.model.inp.weight.clone()
    training.go(5)
    assert {"inp.weight", "inp.bias", "head.bias"} <= frozen(training.model)
    training.go()
    assert training.engine.ended == "final"
    assert frozen(training.model) == {"inp.weight", "head.bias"}
    assert torch.equal(training.model.inp.weight, kept)


def test_frozen_weights_keep_still_in_spite_of_momentum():
    training = Training(document(ways=NEXT)).go(3)
    before = training.weights()[0]
    training.go(4)
    after = training.weights()[0]
    still = {name for name in before if before[name] == after[name]}
    assert still == {name for name in before if name.startswith(("inp", "blocks.0"))}
    training.go(1)
    assert training.weights()[0]["inp.weight"] != before["inp.weight"]


# Named activities

NAMED = """
stagegraph: 1
name: named activities
budget: {steps: 20}
activities:
  bottom: {type: freeze, of: [inp, blocks.0]}
  rising: {type: lr_ramp, of: head, start: 0, end: 1, over: 8 steps}
initial: first
stages:
  first: {kind: train, during: [bottom, rising], duration: 4 steps, next: second}
  second: {kind: train, during: [rising, bottom], duration: 4 steps, next: third}
  third: {kind: train, during: [{type: freeze, of: inp}], duration: 4 steps, next: done}
  done: {kind: final}
"""


def test_a_named_ramp_goes_on_over_consecutive_stages():
    training = Training(NAMED)
    seen = rates_in_step(training)
    training.engine.start()
    training.go()
    shares = [seen[n]["head.weight"] / (0.1 * 0.99**n) for n in range(12)]
    assert shares == pytest.approx([n / 8 for n in range(8)] + [1.0] * 4)
    assert training.engine.progress.step == 12


def test_a_named_freeze_does_not_flicker(monkeypatch):
    training = Training(NAMED)
    training.engine.start()
    flips = []
    flip = torch.Tensor.requires_grad_

    def seen(tensor, requires_grad=True):
        if tensor.requires_grad != requires_grad:
            flips.append((training.updates, requires_grad))
        return flip(tensor, requires_grad)

    monkeypatch.setattr(torch.Tensor, "requires_grad_", seen)
    training.go()
    assert {update for update, _ in flips} == {8, 12}  # blocks.0 at 8, inp with the last stage
    names = {name.partition(".")[0] for name in frozen(training.model)}
    assert names == set()


class Normed(Net):
    """With a norm that keeps running statistics."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(WIDTH)

    def forward(self, x):
        return self.head(self.norm(self.blocks[0](self.inp(x))))


def test_norms_in_a_frozen_part_keep_their_statistics_if_told_to():
    written = document(ways=NEXT).replace("of: [inp, blocks.0]", "of: norm, norms: eval")
    training = Training(written, model=Normed())
    means = []
    for _ in range(9):
        training.tick()
        means.append(training.model.norm.running_mean.tolist())
        assert training.model.norm.training
    changed = [a != b for a, b in pairwise(means)]
    assert changed == [True, True, False, False, False, False, True, True]
