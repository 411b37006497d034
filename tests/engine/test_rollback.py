"""Returning to a snapshot: what comes back and what does not (S14)."""

import pytest

from stagegraph.errors import ActionError
from tests.engine.driving import Run

RETRYING = """
metrics: {m: {goal: minimize}}
initial: first
stages:
  first: {kind: train, duration: 2 steps, next: risky}
  risky:
    kind: train
    actions: [{type: snapshot, name: safe}]
    transitions:
      - target: risky2
        when: m > 9
        actions: [{type: roll_back, to: safe, rng: fork}]
        at_most: 3
  risky2:
    kind: train
    transitions:
      - target: risky2
        when: m > 9
        actions: [{type: roll_back, to: safe, data: skip, lr_factor: 0.5}]
        at_most: 2
"""


def test_rollback_restores_the_clock_and_the_metrics_but_not_what_was_spent():
    run = Run(RETRYING).step(m=3.0, samples=5).step(m=2.0, samples=5).step(2, samples=5)
    run.step(m=10.0, samples=5)
    state = run.core.state
    assert run.of_type("roll_back", "boundary", "step", "to") == [(5, 5, 2)]
    assert (state.clock.step, state.clock.samples) == (2, 10)
    assert (state.spent.step, state.spent.samples) == (5, 25)
    assert (state.metrics["m"].last, state.metrics["m"].best) == (2.0, 2.0)
    assert state.visits == {"main:first": 1, "main:risky": 1, "main:risky2": 1}
    assert state.fired["main:risky.transitions[0]"] == 1
    assert state.regions["main"].entered.step == 2, "the target is entered afresh"


def test_metric_from_before_the_rollback_is_unknown_after_it():
    run = Run(RETRYING).step(m=3.0).step(m=2.0).step(m=10.0)
    assert run.stage == "risky2"
    assert run.core.explain()[0].value is None


def test_snapshot_can_be_returned_to_again_with_another_fork_each_time():
    run = Run(RETRYING).step(2).step(m=10.0).step(m=10.0).step(m=10.0)
    restores = [b.restore for b in run.actor.boundaries if b.restore is not None]
    assert [r.snapshot for r in restores] == ["safe@2.0"] * 3
    assert [r.fork for r in restores] == [1, None, None]
    assert [r.rewind_data for r in restores] == [True, False, False]
    assert [r.lr_factor for r in restores] == [None, 0.5, 0.5]
    assert run.step(5, m=10.0).of_type("roll_back", "boundary") == [3, 4, 5], "at_most stays used"


def test_fork_counts_every_rollback_of_the_run():
    run = Run("""
metrics: {m: {goal: minimize}}
initial: a
stages:
  a: {kind: train, actions: [{type: snapshot, name: s}], duration: 1 step, next: b}
  b: {kind: train}
interrupts:
  - {name: one, within: [b], when: m > 9, target: b, at_most: 2,
     actions: [{type: roll_back, to: s, rng: fork}]}
  - {name: two, within: [b], when: m > 9, target: b, at_most: 2,
     actions: [{type: roll_back, to: s, rng: fork}]}
""").step(1)
    run.step(4, m=10.0)
    assert [b.restore.fork for b in run.actor.boundaries if b.restore] == [1, 2, 3, 4]


def test_newest_snapshot_of_the_name_on_the_present_branch_counts():
    run = Run("""
metrics: {m: {goal: minimize}}
initial: a
stages:
  a:
    kind: train
    actions: [{type: snapshot, name: s}]
    transitions:
      - {target: b, when: m > 9, at_most: 9, actions: [{type: roll_back, to: s, data: skip}]}
      - {target: c, when: m > 7, at_most: 9, actions: [{type: roll_back, to: old, data: skip}]}
    duration: 2 steps
    next: a
  b: {kind: train, duration: 1 step, next: a}
  c: {kind: train, actions: [{type: snapshot, name: s}], duration: 1 step, next: a}
interrupts: [{name: mark, when: step == 3, target: a, actions: [{type: snapshot, name: old}]}]
""")
    run.step(2)  # s at 0 and 2: nothing can return to the first any more
    assert [s.id for s in run.core.state.snapshots] == ["s@2.0"]
    assert run.actor.boundaries[-1].forget == ("s@0.0",)
    run.step(1)  # old and s at 3: by way of old, that of 2 can be the newest again
    assert [s.id for s in run.core.state.snapshots] == ["s@2.0", "old@3.0", "s@3.1"]
    run.step(1).step(m=8.0)  # back to old: what came after it is gone
    assert run.core.state.clock.step == 3
    assert [s.id for s in run.core.state.snapshots] == ["s@2.0", "old@3.0", "s@5.0"]
    assert run.actor.boundaries[-1].forget == ("s@3.1",)
    newest = run.core.state.snapshots[-1].state
    assert newest.clock.step == 3, "a snapshot taken after the return is of what was returned to"


def test_rollback_returns_all_regions_and_cancels_other_moves():
    run = Run("""
metrics: {m: {goal: minimize}}
regions:
  a:
    priority: 1
    initial: x
    stages:
      x: {kind: train, transitions: [{target: y, when: m > 9}]}
      y: {kind: final}
  b:
    initial: x
    stages:
      x: {kind: train, duration: 2 steps, next: y}
      y: {kind: train, actions: [{type: snapshot, name: s}]}
    interrupts:
      - {name: undo, within: [y], when: m > 9, target: y, at_most: 1,
         actions: [{type: roll_back, to: s, rng: fork}]}
  w:
    initial: x
    stages:
      x: {kind: warmup, during: [{type: lr_ramp, start: 0, over: 4 steps}], next: y}
      y: {kind: train}
""")
    run.step(5)
    assert run.stages == {"a": "x", "b": "y", "w": "y"}
    run.step(m=10.0)
    assert run.moves[-1] == (6, "b:interrupts.undo")
    assert run.stages == {"a": "x", "b": "y", "w": "x"}
    assert run.core.state.regions["w"].entered.step == 0, "half of its ramp is over again"
    assert run.actor.boundaries[-1].held[0].value == 0.5
    run.step(2)
    assert run.moves[-1] == (8, "w:x.next")


def test_rollback_to_boundary_zero_begins_the_other_regions_again():
    run = Run("""
metrics: {m: {goal: minimize}}
regions:
  a:
    initial: x
    stages:
      x: {kind: train, actions: [{type: snapshot, name: s}], transitions: [
          {target: x, when: m > 9, at_most: 1, actions: [{type: roll_back, to: s, rng: fork}]}]}
  b: {initial: x, stages: {x: {kind: train, duration: 1 step, next: y}, y: {kind: final}}}
  c: {initial: x, stages: {x: {kind: train, duration: 9 steps, next: y}, y: {kind: final}}}
""")
    run.step(2).step(m=10.0)
    assert run.stages == {"a": "x", "b": "x", "c": "x"} and run.core.progress.step == 0
    assert run.of_type("move", "boundary", "region", "kind")[-3:] == [
        (3, "a", "transition"),
        (3, "b", "initial"),
        (3, "c", "initial"),
    ]
    run.step(1)
    assert run.stages["b"] == "y"


def test_rollback_without_a_snapshot_is_an_error():
    run = Run("""
initial: a
stages:
  a: {kind: train, duration: 1 step, next: b}
  b: {kind: train, actions: [{type: snapshot, name: s}]}
interrupts:
  - {name: undo, within: [a], when: step >= 1, target: a, at_most: 1,
     actions: [{type: roll_back, to: s, rng: fork}]}
""")
    with pytest.raises(ActionError, match="there is no snapshot 's' to return to"):
        run.step()


def test_cohorts_and_parameters_return():
    run = Run(
        """
metrics: {m: {goal: minimize}}
initial: a
stages:
  a: {kind: train, duration: 1 step, next: g}
  g:
    kind: grow
    actions: [{type: snapshot, name: s}, {type: deepen, stack: b, add: 1}]
    next: w
  w: {kind: warmup, during: [{type: alpha_ramp, of: grown, over: 4 steps}], next: a}
interrupts:
  - {name: undo, within: [w], when: m > 9, target: a, at_most: 1,
     actions: [{type: roll_back, to: s, rng: fork}]}
""",
        params=100,
        costs={"main:g": 10},
    )
    run.step(3)
    assert run.core.state.facts.params == 110
    assert run.actor.tuned[-1] == {"main:w.during[0]": 0.5}
    run.step(m=10.0)
    state = run.core.state
    assert state.facts.params == 100 and state.cohorts == () and state.alphas == {}
    assert state.regions["main"].open is False
    run.step()
    assert run.core.state.cohorts == ("main:g#2",), "visits do not come back"


def test_rollback_empties_the_slots_for_back():
    run = Run("""
metrics: {m: {goal: minimize}}
initial: a
stages:
  a: {kind: train, actions: [{type: snapshot, name: s}], transitions: [{target: a, when: m == 1}]}
  away: {kind: train}
interrupts:
  - {name: leave, within: [a], when: m > 5, target: away}
  - {name: undo, within: [away], when: m > 9, target: a, at_most: 1,
     actions: [{type: roll_back, to: s, rng: fork}]}
""").step(2)
    run.step(m=1.0).step(m=6.0)
    assert run.core.state.regions["main"].back is not None
    run.step(m=10.0)
    assert run.core.state.regions["main"].back is None


def test_slot_that_was_full_at_the_snapshot_is_empty_after_the_return():
    run = Run("""
metrics: {m: {goal: minimize}}
initial: a
stages:
  a: {kind: train}
  away: {kind: train, duration: 1 step, next: deep}
  deep: {kind: train, actions: [{type: snapshot, name: s}]}
interrupts:
  - {name: leave, within: [a], when: m > 5, target: away}
  - {name: undo, within: [deep], when: m > 9, target: deep, at_most: 1,
     actions: [{type: roll_back, to: s, rng: fork}]}
""")
    run.step(m=6.0).step(1)
    assert run.core.state.snapshots[0].state.regions["main"].back is not None
    run.step(m=10.0)
    assert run.stage == "deep" and run.core.state.regions["main"].back is None


def test_each_return_to_one_snapshot_passes_over_more_batches():
    """The second time after the same number it would only meet the same batches again."""
    run = Run("""
metrics: {m: {goal: minimize}}
initial: a
stages:
  a: {kind: train, actions: [{type: snapshot, name: s}], duration: 1 step, next: b}
  b: {kind: train, transitions: [{target: a, when: m < 1}]}
interrupts:
  - {name: undo, within: [b], when: m > 9, target: b, at_most: 9,
     actions: [{type: roll_back, to: s, data: skip, skip_batches: 3}]}
""").step(1)
    run.step(3, m=10.0)
    run = run.resumed().step(m=10.0)
    run.step(m=0.0).step(1).step(2, m=10.0)  # a new snapshot
    skipped = [b.restore.skip_batches for b in run.actor.boundaries if b.restore]
    assert skipped == [12, 3, 6]
