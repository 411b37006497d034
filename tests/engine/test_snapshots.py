"""The engine's state as JSON: what is refused, and what resuming does not do (S21)."""

import json

import pytest

from stagegraph.engine.state import State
from stagegraph.errors import SnapshotError
from tests.engine.driving import Run

DOCUMENT = """
metrics: {m: {goal: minimize, every: 3 steps}}
events: [e]
initial: a
stages:
  a: {kind: train, actions: [{type: snapshot, name: s}], duration: 2 steps, next: g}
  g: {kind: grow, actions: [{type: deepen, stack: x, add: 1}], next: w}
  w: {kind: warmup, during: [{type: alpha_ramp, of: grown, over: 4 steps}], next: c}
  c: {kind: consolidate, duration: 3 steps, next: done}
  done: {kind: final}
interrupts: [{name: i, within: [w], when: event(e), target: a, at_most: 1}]
"""


def begun(steps):
    return Run(DOCUMENT, params=100, costs={"main:g": 10}).step(steps)


@pytest.mark.parametrize("cut", range(12))
def test_resumed_run_goes_on_as_the_uninterrupted_one(cut):
    run = begun(cut)
    run.core.start()
    other = run.resumed()
    already = len(run)
    for one in (run, other):
        one.step(12 - cut)
        one.core.finish()
    assert run[already:] == list(other)
    assert run.core.state_dict() == other.core.state_dict()
    assert other.core.done and other.core.state.facts.params == 110


def test_waiting_for_an_evaluation_survives_a_resume():
    run = begun(3).resumed()
    assert run.core.wants_evaluation and run.core.progress.step == 3
    run.core.observe(m=1.0)
    assert not run.core.wants_evaluation
    assert run.of_type("metric", "boundary") == [3]


def test_pending_event_survives_a_resume():
    run = begun(3)
    run.core.send("e")
    other = run.resumed()
    other.core.observe()
    assert other.moves == [(3, "main:interrupts.i")]


def test_resuming_runs_no_entry_action_but_holds_what_was_held():
    other = begun(4).resumed()
    assert other.actor.deeds == []
    (boundary,) = other.actor.boundaries
    assert [effect.value for effect in boundary.held] == [0.5]
    assert boundary.alphas == {"main:g#1": 0.5}


def test_state_before_the_beginning_can_be_saved_too():
    run = Run(DOCUMENT, params=100, costs={"main:g": 10})
    other = run.resumed()
    assert not other.core.started
    assert other.step(12).core.finish() is None and other.core.done


def test_state_is_the_same_after_json():
    state = begun(5).core.state
    again = State.from_json(json.loads(json.dumps(state.to_json("d"), allow_nan=False)), "d")
    assert again.to_json("d") == state.to_json("d") and again.snapshots == state.snapshots


def test_state_of_another_graph_is_refused():
    other = Run(DOCUMENT.replace("3 steps", "4 steps"), params=100, costs={"main:g": 10})
    with pytest.raises(SnapshotError, match="belongs to another graph: its digest is"):
        other.core.load_state_dict(begun(3).core.state_dict())
    assert not other.core.started, "what is refused changes nothing"


def test_state_of_another_version_is_refused():
    saved = begun(3).core.state_dict()
    saved["engine"]["version"] = 99
    with pytest.raises(SnapshotError, match="has version 99; this stagegraph reads 1 to 2"):
        begun(0).core.load_state_dict(saved)


@pytest.mark.parametrize("key", ["clock", "regions", "memories", "snapshots", "facts", "wanted"])
@pytest.mark.parametrize("value", [None, 3, "x", [["x"]]])
def test_damaged_state_is_refused(key, value):
    saved = begun(3).core.state_dict()
    saved["engine"][key] = value
    with pytest.raises(SnapshotError, match="this engine state is damaged"):
        begun(0).core.load_state_dict(saved)


@pytest.mark.parametrize("key", ["engine", "undecided", "actor", "reading"])
def test_missing_part_of_a_saved_state_is_refused(key):
    saved = begun(3).core.state_dict()
    del saved[key]
    with pytest.raises(SnapshotError, match="this is no saved state of an engine"):
        begun(0).core.load_state_dict(saved)
