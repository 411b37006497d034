"""Where a save stands says which model it keeps: on the way out the one before the return."""

import pytest

import stagegraph as sg
from tests.session.branches import equal, tensors
from tests.session.test_trials import TRIAL, Loop
from tests.session.training import Net

BACK = """
stagegraph: 1
name: there and back
metrics: {val_loss: {goal: minimize, every: 4 steps}}
budget: {steps: 60, params: 5k}
initial: train
stages:
  train:
    kind: train
    actions: [{type: snapshot, name: before}, {type: save, name: ENTRY}]
    duration: 6 steps
    transitions:
      - target: train
        when: completed()
        actions: [{type: save, name: branch}, {type: roll_back, to: before, rng: fork}]
        at_most: 1
    next: done
  done: {kind: final}
"""


def weights(loop):
    return {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}


def test_at_a_return_a_stage_saves_what_it_begins_with(tmp_path):
    loop = Loop(BACK.replace("ENTRY", "entered"), run=tmp_path / "run")
    loop.engine.start()
    first = weights(loop)
    loop.go()
    loop.engine.close()
    found = [(one.name, one.boundary, one.step) for one in sg.saved(tmp_path / "run")]
    assert found == [("entered", 0, 0), ("branch", 6, 6), ("entered", 6, 0)]
    entered, branch, again = sg.saved(tmp_path / "run")
    assert equal(tensors(entered), first) and equal(tensors(again), first)
    assert not equal(tensors(branch), first)


def test_two_models_of_one_boundary_cannot_have_one_name(tmp_path):
    loop = Loop(BACK.replace("ENTRY", "branch"), run=tmp_path / "run")
    with pytest.raises(sg.ActionError, match=r"another model is saved as 'branch'"):
        loop.go()
    loop.engine.close()


def test_the_stage_after_a_trial_saves_the_model_from_before_it(tmp_path):
    document = TRIAL.replace(
        "    kind: warmup\n", "    kind: warmup\n    actions: [{type: save, name: chosen}]\n"
    ).replace("worth: 0.001%", "worth: 0.0001%")
    before = weights(Loop().go(5))
    loop = Loop(document, run=tmp_path / "run").go()
    loop.engine.close()
    (saved,) = sg.saved(tmp_path / "run")
    assert (saved.step, saved.stages) == (5, {"main": "train"})
    assert equal(tensors(saved), before)
    assert sg.load_saved(Net(), saved) == saved
