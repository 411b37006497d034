"""A run cut at any tick and resumed in a fresh model equals the uninterrupted one, bit for bit."""

import copy
import json

import pytest
import torch

import stagegraph as sg
from tests.session.training import EVERY_MOVE, EVERY_STAGE, Training

ROLLING_BACK = """
stagegraph: 1
name: rolling back
metrics: {val_loss: {goal: minimize, every: 2 steps}}
budget: {steps: 100}
initial: train
stages:
  train: {kind: train, duration: 6 steps, next: grow}
  grow:
    kind: grow
    actions: [{type: snapshot, name: before}, {type: deepen, stack: blocks, add: 1}]
    next: consolidate
  consolidate: {kind: consolidate, duration: 8 steps, next: after}
  after: {kind: train, duration: 4 steps, next: done}
  done: {kind: final}
interrupts:
  - name: undo
    within: [consolidate]
    when: regressed(val_loss, by=5%, since=before, lasting=2 steps)
    actions: [{type: roll_back, to: before, data: skip, rng: fork}]
    target: after
    at_most: 1
"""


def regressing(update):
    """Twice as bad after the growth at update 6."""
    return 1.0 if update <= 6 else 2.0


STAGES = {f"main:{name}" for name in ["train", "warmup", "settle", "consolidate", "anneal", "done"]}
SAMPLED = 5
"""Every so many checkpoints are cut at by default."""


def checkpoints(training):
    """Checkpoints before training, after each tick, and before each evaluation."""
    training.engine.start()
    saved = [training.save()]
    while not training.engine.done:
        training.engine.step(loss=training.update(), samples=5)
        if training.engine.wants_evaluation:
            saved.append(training.save())
        training.observe()
        saved.append(training.save())
    return saved


def without_seconds(data):
    """JSON data but for the wall time and the peaks of memory, which no two runs share."""
    if isinstance(data, dict):
        measured = {"peak_bytes", "how"} if "peak_bytes" in data else set()
        kept = {key: one for key, one in data.items() if key not in {"seconds", *measured}}
        return {key: without_seconds(one) for key, one in kept.items()}
    return [without_seconds(value) for value in data] if isinstance(data, list) else data


def happened(records, *, after):
    kept = (r for r in records if r["type"] != "vitals" and r["boundary"] >= after)
    return [without_seconds(record) for record in kept]


@pytest.fixture(scope="module")
def whole():
    torch.manual_seed(7)
    training = Training(EVERY_STAGE, dropout=0.2)
    training.saved = checkpoints(training)
    training.engine.close()
    return training


def test_checkpoints_are_cut_in_every_stage_and_before_evaluations(whole):
    assert whole.moves == EVERY_MOVE
    states = [json.loads(checkpoint["engine"]) for checkpoint in whole.saved]
    assert {state["engine"]["regions"]["main"]["stage"] for state in states} == STAGES
    assert sum(state["undecided"] for state in states) == 24
    assert len(states) == 1 + 72 + 24
    sample = states[::SAMPLED]
    assert {state["engine"]["regions"]["main"]["stage"] for state in sample} >= STAGES - {
        "main:done"
    }
    assert {state["undecided"] for state in sample} == {True, False}


@pytest.mark.parametrize(
    ("first", "every"),
    [(0, SAMPLED), *(pytest.param(part, 6, marks=pytest.mark.slow) for part in range(6))],
)
def test_a_resumed_run_equals_the_uninterrupted_one(whole, first, every):
    """At each checkpoint; by default at one of some."""
    expected = whole.weights()
    for checkpoint in whole.saved[first::every]:
        cut = checkpoint["updates"]
        resumed = Training(EVERY_STAGE, dropout=0.2).load(checkpoint)
        undecided = resumed.engine.wants_evaluation
        resumed.observe()
        resumed.go()
        assert resumed.weights() == expected, f"cut after {cut} updates"
        began = cut if undecided else cut + 1
        mine = happened(resumed.records, after=began)
        assert mine == happened(whole.records, after=began), f"cut after {cut} updates"
        resumed.engine.close()


def test_a_restored_run_enters_no_stage_again(whole):
    middle = next(c for c in whole.saved if c["updates"] == 50)
    resumed = Training(EVERY_STAGE, dropout=0.2).load(middle)
    assert resumed.stage == "warmup"
    assert resumed.records.of("move", "growth") == []
    assert len(resumed.model.blocks) == 3


def test_loading_a_state_leaves_the_random_numbers_alone(whole):
    fresh = Training(EVERY_STAGE)
    before = torch.get_rng_state()
    fresh.engine.load_state_dict(json.loads(whole.saved[-1]["engine"]))
    assert torch.equal(before, torch.get_rng_state())


def test_saving_at_every_tick_changes_nothing(whole):
    torch.manual_seed(7)
    assert Training(EVERY_STAGE, dropout=0.2).go().weights() == whole.weights()


def test_a_closed_engine_leaves_no_hook_on_the_model(whole):
    hooks = [
        name
        for module in whole.model.modules()
        for name, value in vars(module).items()
        if name.endswith("hooks") and value
    ]
    assert hooks == []


def test_a_closed_engine_is_not_begun_by_the_optimizer():
    training = Training(EVERY_STAGE)
    training.engine.close()
    training.model(torch.ones(1, 4)).sum().backward()
    training.optimizer.step()
    assert training.stage is None


def test_a_state_of_another_graph_is_refused(whole):
    other = Training(EVERY_STAGE.replace("worth=5%", "worth=4%"))
    with pytest.raises(sg.SnapshotError, match="belongs to another graph"):
        other.load(whole.saved[-1])
    assert other.stage is None


@pytest.mark.parametrize("state", [{}, {"engine": {}}, {"engine": {}, "actor": {}}])
def test_what_is_no_state_is_refused(state):
    training = Training(EVERY_STAGE)
    with pytest.raises(sg.SnapshotError):
        training.engine.load_state_dict(state)
    assert training.go().moves == EVERY_MOVE


# A snapshot's tensors are not in the engine's state


@pytest.fixture(scope="module")
def rolled():
    torch.manual_seed(7)
    training = Training(ROLLING_BACK, dropout=0.2, val_loss=regressing)
    training.go(8)
    training.cut = training.save()
    training.snapshots = copy.deepcopy(training.engine.snapshots())
    return training.go()


def test_the_run_that_is_cut_rolls_back(rolled):
    (back,) = rolled.records.of("roll_back")
    assert (back["step"], back["to"]) == (10, 6)
    assert [target for _, target, _ in rolled.moves] == [
        "main:train",
        "main:consolidate",
        "main:after",
        "main:done",
    ]


def test_a_rollback_whose_tensors_are_gone_says_so_and_changes_nothing(rolled):
    resumed = Training(ROLLING_BACK, dropout=0.2, val_loss=regressing).load(rolled.cut)
    resumed.tick()
    resumed.engine.step(loss=resumed.update())
    before = resumed.weights()
    with pytest.raises(
        sg.ActionError, match=r"undo.actions\[0\]: the tensors of snapshot"
    ) as failed:
        resumed.observe()
    assert failed.value.action == "main:interrupts.undo.actions[0]"
    assert resumed.weights() == before
    assert (resumed.stage, len(resumed.model.blocks)) == ("consolidate", 3)
    assert [r["action"] for r in resumed.records.of("error")] == [failed.value.action]


def test_a_rollback_whose_tensors_were_saved_goes_on_bit_for_bit(rolled):
    resumed = Training(ROLLING_BACK, dropout=0.2, val_loss=regressing).load(rolled.cut)
    resumed.engine.load_snapshots(rolled.snapshots)
    assert resumed.go().weights() == rolled.weights()
