"""What is kept and what is undone when a boundary fails (S3, S13, on_error)."""

import pytest

from stagegraph.errors import ActionError, RunFolderError
from tests.engine.driving import Run

FALLING_BACK = """
metrics: {{m: {{goal: minimize}}}}
initial: a
stages:
  a:
    kind: train
    transitions:
      - target: b
        when: m < 1
        actions: [{{type: snapshot, name: s}}]
        at_most: 4
        on_error: {{retry: {retry}, then: c}}
  b: {{kind: train, transitions: [{{target: a}}]}}
  c: {{kind: train}}
"""
ACTION = "main:a.transitions[0].actions[0]"


def test_failed_transaction_undoes_decide_but_keeps_absorb():
    run = Run(
        """
metrics: {m: {goal: minimize}}
initial: a
stages:
  a:
    kind: train
    transitions: [{target: b, when: m < 1, actions: [{type: snapshot, name: s}]}]
  b: {kind: final}
"""
    ).step(2)
    run.actor.failures = {ACTION: 1}
    with pytest.raises(ActionError, match=r"main:a\.transitions\[0\]\.actions\[0\]: told to fail"):
        run.step(m=0.5, samples=7)
    state = run.core.state
    assert run.stage == "a" and run.moves == []
    assert state.clock.step == 3 and state.clock.samples == 7
    assert state.metrics["m"].value == 0.5
    assert state.fired == {} and state.visits == {"main:a": 1} and state.snapshots == ()
    assert state.errors == {"main:a.transitions[0]": 1}
    assert run.core.explain()[0].value is True
    run.step()
    assert run.moves == [(4, "main:a.transitions[0]")], "the next boundary tries again"
    assert run.core.state.errors == {}


@pytest.mark.parametrize("retry", [0, 1, 3])
def test_on_error_tries_again_so_often_then_takes_the_stage_without_actions(retry):
    run = Run(FALLING_BACK.format(retry=retry))
    run.actor.failures = {ACTION: 99}
    run.step(m=0.5).step(retry + 3)
    tries = list(range(1, retry + 2))
    assert run.of_type("error", "boundary", "attempt") == [(n, n) for n in tries]
    assert run.of_type("move", "boundary", "kind", "target", "actions")[1:] == [
        (retry + 2, "fallback", "main:c", {})
    ]
    assert run.actor.deeds == []


@pytest.mark.parametrize("retry", [0, 2])
def test_a_run_ends_by_its_budget_at_the_first_boundary_that_holds(retry):
    """What has failed is tried again after an update: each try at the end costs one (S16)."""
    run = Run("budget: {steps: 4}" + FALLING_BACK.format(retry=retry))
    run.actor.failures = {ACTION: 99}
    run.step(3).step(m=0.5)
    assert run.of_type("error", "boundary") == [4] and not run.core.done
    run.step(retry)
    assert not run.core.done
    run.step(5)
    assert run.stage == "c" and run.of_type("end", "boundary", "because") == [
        (5 + retry, f"budget of steps: {5 + retry} of 4 spent")
    ]


def test_errors_count_in_a_row_only():
    """Fails once on each way; with one retry that never leads to the fallback."""
    run = Run(FALLING_BACK.format(retry=1))
    for _ in range(3):
        run.actor.failures = {ACTION: 1}
        run.step(m=0.5).step(2)
    assert [kind for kind in run.of_type("move", "kind") if kind == "fallback"] == []
    assert run.of_type("error", "attempt") == [1, 1, 1]


def test_one_failure_undoes_the_moves_of_all_regions():
    run = Run("""
regions:
  a:
    initial: x
    stages:
      x: {kind: train, duration: 2 steps, next: y}
      y: {kind: train}
  b:
    initial: x
    stages:
      x:
        kind: train
        transitions:
          - target: y
            when: step >= 2
            actions: [{type: snapshot, name: s}]
            on_error: {retry: 1, then: x}
      y: {kind: final}
""")
    run.actor.failures = {"b:x.transitions[0].actions[0]": 1}
    run.step(2)
    assert run.stages == {"a": "x", "b": "x"}
    assert run.of_type("error", "edge") == ["b:x.transitions[0]"]
    run.step()
    assert run.stages == {"a": "y", "b": "y"}


def test_failure_of_an_activity_is_blamed_on_the_region_that_moves():
    run = Run("""
regions:
  a: {initial: x, stages: {x: {kind: train, duration: 2 steps, next: y}, y: {kind: train}}}
  b:
    initial: x
    stages:
      x:
        kind: train
        transitions: [{target: y, when: step >= 2, on_error: {then: z}}]
      y: {kind: train, during: [{type: lr_factor, of: grown, factor: 0.5}]}
      z: {kind: final}
""")
    run.step(3)
    assert run.of_type("error", "edge", "reason") == [
        ("b:x.transitions[0]", "'grown' is asked for, but nothing has grown yet")
    ]
    assert run.stages == {"a": "y", "b": "z"}


def test_journal_that_cannot_be_written_undoes_the_boundary_and_the_next_tries_again():
    run = Run("""
metrics: {m: {goal: minimize, every: 3 steps}}
initial: a
stages: {a: {kind: train, transitions: [{target: b, when: m < 1}]}, b: {kind: final}}
""").step(3)
    write = run.write

    def full(records):
        if any(record["type"] == "move" for record in records):
            raise RunFolderError("disk full")
        write(records)

    run.core.sink = type("Full", (), {"write": staticmethod(full)})()
    with pytest.raises(RunFolderError, match="disk full"):
        run.core.observe(m=0.5)
    assert run.stage == "a" and run.core.state.metrics["m"].value == 0.5
    with pytest.raises(RunFolderError, match="disk full"):
        run.step()
    run.core.sink = run
    run.step()
    assert run.stage == "b"
    assert run.moves == [(5, "main:a.transitions[0]")]


def test_machines_move_only_after_the_transaction_has_held():
    run = Run(FALLING_BACK.format(retry=5))
    run.actor.failures = {ACTION: 2}
    run.step(m=0.5)
    assert run.core._machines.stages == {"main": "main:a"}
    run.step(2)
    assert run.core._machines.stages == {"main": "main:b"}
