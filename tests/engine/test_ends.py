"""How a run ends, and what calls do afterwards (S15, S16)."""

import pytest

from stagegraph.errors import ActionError
from tests.engine.driving import Run

SHORT = "initial: a\nstages: {a: {kind: train, duration: 3 steps, next: b}, b: {kind: final}}\n"


def test_run_ends_when_its_final_stage_is_entered():
    run = Run(SHORT).step(3)
    assert run.core.done
    assert run.of_type("end", "boundary", "reason", "stages") == [(3, "final", {"main": "main:b"})]


def test_calls_after_the_end_are_no_ops():
    run = Run(f"metrics: {{m: {{goal: minimize}}}}\nevents: [e]\n{SHORT}").step(3)
    before, state = list(run), run.core.state_dict()
    run.step(5, m=1.0, samples=3)
    run.core.observe(m=1.0)
    run.core.send("e")
    run.core.finish()
    assert list(run) == before
    assert run.core.state_dict() == state
    assert run.core.progress.step == 3
    assert run.core.explain() == []


def test_seconds_stand_still_after_the_end():
    now = [0.0]
    run = Run(SHORT, clock=lambda: now[0])
    for _ in range(5):
        now[0] += 1.0
        run.step()
    assert run.core.progress.seconds == 2.0


def test_region_without_a_final_stage_accompanies_the_others():
    run = Run("""
regions:
  main: {initial: a, stages: {a: {kind: train, duration: 4 steps, next: b}, b: {kind: final}}}
  side: {initial: x, stages: {x: {kind: train, duration: 3 steps, next: x}}}
""")
    run.step(9)
    assert run.of_type("end", "boundary", "reason") == [(4, "final")]
    assert run.stages == {"main": "b", "side": "x"}


def test_all_regions_with_a_final_stage_must_reach_it():
    run = Run("""
regions:
  one: {initial: a, stages: {a: {kind: train, duration: 2 steps, next: b}, b: {kind: final}}}
  two: {initial: a, stages: {a: {kind: train, duration: 5 steps, next: b}, b: {kind: final}}}
""")
    run.step(9)
    assert run.of_type("end", "boundary") == [5]


def test_budget_ends_run_after_the_moves():
    run = Run("""
budget: {steps: 4}
initial: a
stages:
  a: {kind: train, duration: 4 steps, next: b}
  b: {kind: train, duration: 4 steps, next: c}
  c: {kind: final}
""")
    run.step(9)
    assert run.moves == [(4, "main:a.next")]
    assert run.of_type("end", "boundary", "reason") == [(4, "budget")]
    assert run.stage == "b"


@pytest.mark.parametrize(
    ("budget", "given", "end"),
    [
        ("samples: 100", {"samples": 30}, 4),
        ("tokens: 100", {"tokens": 50}, 2),
        ("flops: 100", {"flops": 1}, 100),
        ("seconds: 1 min", {"seconds": 7.5}, 8),
    ],
)
def test_budget_counts_in_its_own_unit(budget, given, end):
    run = Run(f"budget: {{{budget}}}\ninitial: a\nstages: {{a: {{kind: train}}}}")
    run.step(end + 3, **given)
    assert run.of_type("end", "boundary", "reason") == [(end, "budget")]


def test_budget_of_epochs_is_exact():
    from fractions import Fraction

    run = Run("budget: {epochs: 0.3}\ninitial: a\nstages: {a: {kind: train}}")
    for n in range(1, 6):
        run.step(epoch=Fraction(n, 10))
    assert run.of_type("end", "boundary") == [3]


def test_budget_is_of_what_was_spent_not_of_the_clock():
    run = Run("""
budget: {steps: 9}
initial: a
stages:
  a: {kind: train, actions: [{type: snapshot, name: s}], duration: 1 step, next: b}
  b:
    kind: train
    transitions:
      - target: b
        when: elapsed(3 steps)
        actions: [{type: roll_back, to: s, rng: fork}]
        at_most: 5
""")
    run.step(20)
    # Taken back at updates 4, 7 and 10; the budget comes before the third.
    assert run.of_type("roll_back", "boundary", "to") == [(4, 0), (7, 0)]
    assert run.of_type("end", "boundary", "step", "reason") == [(9, 2, "budget")]


def test_everything_is_released_at_the_end():
    run = Run("""
budget: {steps: 2}
initial: a
stages: {a: {kind: train, during: [{type: lr_factor, factor: 0.5}]}}
""")
    run.step(2)
    assert [len(boundary.held) for boundary in run.actor.boundaries] == [1, 0]


def test_first_stage_may_be_final():
    run = Run("initial: a\nstages: {a: {kind: final}}")
    run.step()
    assert run.of_type("end", "boundary", "reason") == [(0, "final")]


def test_rollback_does_not_end_the_run_for_where_others_were():
    """The other region was done; after the return it is not."""
    run = Run("""
regions:
  one:
    initial: a
    stages:
      a:
        kind: train
        transitions:
          - target: b
            when: step >= 5
            actions: [{type: roll_back, to: s, rng: fork}]
            at_most: 1
      b: {kind: final}
  two:
    initial: x
    stages:
      x: {kind: train, duration: 2 steps, next: y}
      y: {kind: train, actions: [{type: snapshot, name: s}], duration: 2 steps, next: z}
      z: {kind: final}
""")
    run.step(5)
    assert not run.core.done
    assert run.stages == {"one": "b", "two": "x"} and run.core.progress.step == 2
    run.step(1)
    assert run.stages == {"one": "b", "two": "y"}
    run.step(2)
    assert run.of_type("end", "boundary", "reason") == [(8, "final")]


def test_failing_boundary_zero_leaves_nothing_and_may_be_tried_again():
    run = Run("initial: a\nstages: {a: {kind: train, actions: [{type: snapshot, name: s}]}}")
    run.actor.failures = {"main:a.actions[0]": 2}
    for _ in range(2):
        with pytest.raises(ActionError, match="told to fail"):
            run.step()
        assert not run.core.started
    run.step()
    assert run.stage == "a" and run.core.progress.step == 1
