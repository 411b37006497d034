"""``regressed``: worse than before a snapshot, by its goal, for a while (S14)."""

import math

import pytest

from tests.engine.driving import Run


def run_of(guard, goal="minimize"):
    return Run(f"""
metrics: {{m: {{goal: {goal}}}}}
initial: a
stages:
  a: {{kind: train, transitions: [{{target: b, when: m == m}}]}}
  b:
    kind: train
    actions: [{{type: snapshot, name: s}}]
    transitions: [{{target: c, when: "{guard}"}}]
  c: {{kind: final}}
""")


@pytest.mark.parametrize(
    ("goal", "before", "not_yet", "regressed"),
    [
        ("minimize", 2.0, 2.09, 2.11),
        ("minimize", -2.0, -1.91, -1.89),
        ("minimize", 0.0, 0.0, 1e-9),
        ("maximize", 2.0, 1.91, 1.89),
        ("maximize", -2.0, -2.09, -2.11),
        ("maximize", 0.0, 0.0, -1e-9),
    ],
)
def test_it_compares_on_the_absolute_value_in_the_direction_of_the_goal(
    goal, before, not_yet, regressed
):
    run = run_of("regressed(m, by=5%, since=s)", goal).step(m=before)
    run.step(m=not_yet)
    assert run.stage == "b"
    run.step(m=regressed)
    assert run.stage == "c"


def test_lasting_needs_its_time_and_at_least_two_observations():
    """Bad at 3 and at 8: five updates, two observations."""
    run = run_of("regressed(m, by=5%, since=s, lasting=4 steps)").step(m=1.0).step()
    run.step(m=2.0).step(4)
    assert run.stage == "b", "one observation is not enough, however long ago"
    run.step(m=2.0)
    assert run.moves[1:] == [(8, "main:b.transitions[0]")]


def test_two_observations_are_not_enough_before_the_time_is_over():
    run = run_of("regressed(m, by=5%, since=s, lasting=4 steps)").step(m=1.0)
    run.step(m=2.0).step(m=2.0).step(m=2.0).step(m=2.0)
    assert run.stage == "b"
    run.step(m=2.0)
    assert run.moves[1:] == [(6, "main:b.transitions[0]")]


def test_one_good_value_begins_the_count_again():
    run = run_of("regressed(m, by=5%, since=s, lasting=2 steps)").step(m=1.0)
    run.step(m=2.0).step(m=2.0).step(m=1.0).step(m=2.0).step(m=2.0)
    assert run.stage == "b"
    run.step(m=2.0)
    assert run.stage == "c"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_unknown_neither_advances_nor_resets(value):
    run = run_of("regressed(m, by=5%, since=s, lasting=2 steps)").step(m=1.0)
    run.step(m=2.0).step(m=value).step(m=value).step(m=value)
    assert run.stage == "b"
    run.step(m=2.0)
    assert run.moves[1:] == [(6, "main:b.transitions[0]")]


def test_without_a_finite_value_before_the_snapshot_it_is_unknown():
    for guard in ("regressed(m, by=5%, since=s)", "not regressed(m, by=5%, since=s)"):
        run = (
            Run(f"""
metrics: {{m: {{goal: minimize}}}}
initial: b
stages:
  b: {{kind: train, actions: [{{type: snapshot, name: s}}], transitions: [
      {{target: c, when: "{guard}"}}]}}
  c: {{kind: final}}
""")
            .step(m=1.0)
            .step(m=9.0)
        )
        assert run.stage == "b"


def test_lasting_in_epochs_is_not_missed_by_a_rounding():
    """0.1 to 0.3 is 0.2, though not in floats."""
    run = run_of("regressed(m, by=5%, since=s, lasting=0.2 epochs)").step(m=1.0, epoch=0)
    run.step(m=2.0, epoch=0.1).step(m=2.0, epoch=0.3)
    assert 0.3 - 0.1 < 0.2 and run.stage == "c"


def test_boundless_regression_is_told_without_a_number():
    run = run_of("regressed(m, by=5%, since=s)").step(m=1e-300).step(m=1e300)
    assert run.stage == "c"
    assert run.of_type("move", "evidence")[-1]["sees"]["worse_by"] is None


def test_it_is_no_trend_and_outlives_a_disturbance():
    run = (
        Run("""
metrics: {m: {goal: minimize}}
regions:
  main:
    initial: b
    stages:
      a: {kind: train}
      b: {kind: train, transitions: [{target: a, when: m == m, actions: [
          {type: snapshot, name: s}]}]}
    interrupts: [{name: i, within: [a], when: "regressed(m, by=5%, since=s, lasting=4 steps)",
                  target: b}]
  other:
    initial: a
    stages:
      a: {kind: train, duration: 4 steps, next: b}
      b: {kind: train, during: [{type: difficulty, level: 1}]}
""")
        .step(m=1.0)
        .step(m=2.0)
        .step(3)
        .step(m=2.0)
    )
    assert run.moves[-1] == (6, "main:interrupts.i")
