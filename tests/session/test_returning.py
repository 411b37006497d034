"""snapshot and roll_back on a real model: everything returns, and something differs this time."""

import random

import pytest
import torch

import stagegraph as sg
from tests.actions.models import devices_numbers
from tests.session.training import Training

ROLL_BACK = """
stagegraph: 1
name: back to before the growth
metrics: {{val_loss: {{goal: minimize, every: 1 step}}}}
budget: {{steps: 60}}
initial: train
stages:
  train: {{kind: train, duration: 5 steps, next: grow}}
  grow:
    kind: grow
    actions: [{{type: snapshot, name: kept}}, {{type: deepen, stack: blocks, add: 2}}]
    next: warmup
  warmup:
    kind: warmup
    during: [{{type: alpha_ramp, of: grown, over: 4 steps}}, {{type: freeze, of: inp}}]
    next: consolidate
  consolidate: {{kind: consolidate, duration: 6 steps, next: after}}
  after: {{kind: train, duration: 5 steps, next: done}}
  done: {{kind: final}}
interrupts:
  - name: undo
    within: [warmup, consolidate]
    when: regressed(val_loss, by=5%, since=kept, lasting=1 step)
    actions: [{{type: roll_back, to: kept, {how}}}]
    target: after
    at_most: 1
"""


def worse_from(bad):
    return lambda update: 1.0 if update < bad else 2.0


def numbers():
    return torch.get_rng_state().tolist(), random.getstate(), *devices_numbers()


def everything(training):
    """All that a rollback must bring back; which objects, too."""
    model, optimizer = training.model, training.optimizer
    return {
        "weights": training.weights(),
        "names": list(model.state_dict()),
        "identities": [id(p) for p in model.parameters()] + [id(m) for m in model.modules()],
        "groups": [
            {key: [id(p) for p in value] if key == "params" else value for key, value in g.items()}
            for g in optimizer.param_groups
        ],
        "scheduler": {
            key: value for key, value in training.scheduler.state_dict().items() if key[0] != "_"
        },
        "trainable": [p.requires_grad for p in model.parameters()],
    }


def rolled_back(how, *, bad, **more):
    """A run just after its rollback, and what it was just before the snapshot."""
    torch.manual_seed(1)
    training = Training(ROLL_BACK.format(how=how), val_loss=worse_from(bad), dropout=0.3, **more)
    training.go(4)
    loss = training.update()
    training.engine.step(loss=loss)
    kept = everything(training), numbers()
    training.observe()
    assert (training.stage, len(training.model.blocks)) == ("warmup", 4)
    while not training.records.of("roll_back"):
        training.tick()
    return training, kept


@pytest.mark.parametrize("bad", [7, 10], ids=["while warming up", "while consolidating"])
def test_weights_optimizer_scheduler_and_random_numbers_return_bitwise(bad):
    training, (kept, random_numbers) = rolled_back("data: skip, lr_factor: 0.5", bad=bad)
    assert everything(training) == kept
    assert numbers() == random_numbers
    assert training.engine.progress.step == 5
    assert training.updates == bad + 1


def test_the_grown_blocks_are_gone_from_model_and_optimizer():
    training, _ = rolled_back("data: skip, lr_factor: 0.5", bad=8)
    assert len(training.model.blocks) == 2
    assert training.engine.params == sum(p.numel() for p in training.model.parameters())
    assert len(training.optimizer.state) == len(list(training.model.parameters()))
    (move,) = [r for r in training.records.of("move") if r["kind"] == "interrupt"]
    (done,) = move["actions"].values()
    assert done["kind"] == "roll_back"
    assert len(done["blocks_removed"]) == 2


def test_a_fork_draws_other_random_numbers_and_the_same_ones_each_time():
    first, (kept, random_numbers) = rolled_back("data: skip, rng: fork", bad=8)
    forked = numbers()
    assert everything(first) == kept
    assert forked != random_numbers
    first.go()
    again, _ = rolled_back("data: skip, rng: fork", bad=8)
    assert numbers() == forked
    assert first.weights() == again.go().weights()


def test_a_cut_of_the_rates_lasts_and_the_host_does_not_see_it():
    training, _ = rolled_back("data: skip, lr_factor: 0.5", bad=8)
    host = training.optimizer.param_groups[0]["lr"]
    assert host == 0.1 * 0.99**5
    assert training.engine._torch.learning_rates() == [host * 0.5]
    training.go()
    host = training.optimizer.param_groups[0]["lr"]
    assert training.engine._torch.learning_rates() == [host * 0.5]


class Position:
    """What knows the data's position."""

    def __init__(self):
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


@pytest.mark.parametrize(("how", "expected"), [("rewind", 5), ("skip", 9)])
def test_the_data_returns_to_its_position_or_goes_on(how, expected):
    position = Position()

    def val_loss(update):
        position.at = update
        return worse_from(8)(update)

    training = Training(
        ROLL_BACK.format(how=f"data: {how}, lr_factor: 0.5"), val_loss=val_loss, data=position
    )
    while not training.records.of("roll_back"):
        training.tick()
    assert training.updates == 9
    assert position.at == expected


def test_what_was_spent_does_not_come_back():
    training, _ = rolled_back("data: skip, lr_factor: 0.5", bad=8)
    training.go()
    assert training.engine.ended == "final"
    assert (training.engine.progress.step, training.updates) == (10, 14)
    (end,) = training.records.of("end")
    assert end["spent"]["step"] == 14


def test_rewinding_without_the_data_is_refused_before_the_run():
    with pytest.raises(sg.UnsupportedError, match=r"give data=.*or write data: skip"):
        Training(ROLL_BACK.format(how="lr_factor: 0.5"))
