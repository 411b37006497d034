"""What bends the curves, and what is forgotten then (S4, S8)."""

import pytest

from tests.engine.driving import Run

WATCHING = """
metrics: {{m: {{goal: minimize}}}}
activities:
  f: {{type: freeze, of: "x.*"}}
  r: {{type: lr_ramp, start: 0, over: 2 steps}}
regions:
  main:
    initial: a
    stages:
      a: {{kind: train, transitions: [
          {{target: done, when: "plateau(m, patience=4 steps)"}},
          {{target: low, when: m < 1}}]}}
      low: {{kind: final}}
      done: {{kind: final}}
  other:
    initial: a
    stages:
      a: {{kind: train, during: {first}, duration: 3 steps, next: {target}}}
      b: {{kind: train, during: {second}}}
      g: {{kind: grow, actions: [{{type: deepen, stack: s, add: 1}}], next: b}}
"""


def plateau_at(first="[]", second="[]", target="b"):
    """When a constant metric is told to be a plateau; 5 if nothing disturbs it at 3."""
    run = Run(
        WATCHING.format(first=first, second=second, target=target), params=1, costs={"other:g": 1}
    )
    for _ in range(20):
        run.step(m=2.0)
    return run.moves[-1][0]


@pytest.mark.parametrize(
    ("first", "second", "target"),
    [
        ("[]", "[{type: difficulty, level: 1}]", "b"),
        ("[{type: difficulty, level: 1}]", "[]", "b"),
        ("[{type: difficulty, level: 1}]", "[{type: difficulty, level: 2}]", "b"),
        ("[f]", "[]", "b"),
        ("[]", "[{type: lr_factor, factor: 0.5}]", "b"),
        ("[]", "[]", "g"),
    ],
)
def test_disturbance_in_another_region_restarts_trends(first, second, target):
    """The first value after boundary 3 comes at 4; four more are 8."""
    assert plateau_at(first, second, target) == 8


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("[]", "[]"),
        ("[f]", "[f]"),
        ("[f]", '[{type: freeze, of: "x.*"}]'),
        ("[{type: lr_factor, factor: 0.5}]", "[{type: lr_factor, factor: 0.5}]"),
    ],
)
def test_what_goes_on_across_a_boundary_disturbs_nothing(first, second):
    assert plateau_at(first, second) == 5


def test_a_ramp_bends_the_curve_until_it_has_ended():
    """It begins at 3 and has ended at 12: the first value that counts; four more are 16."""
    assert plateau_at("[]", "[{type: lr_ramp, start: 0, over: 9 steps}]") == 16


def test_a_named_ramp_that_goes_on_across_a_boundary_disturbs_no_more():
    """It has ended at 2, the first value that counts."""
    assert plateau_at("[r]", "[r]") == 6


def test_a_ramp_that_begins_again_bends_the_curve_again():
    """At 3 the factor jumps back to 0, and is 1 again at 5."""
    ramp = "[{type: lr_ramp, start: 0, over: 2 steps}]"
    assert plateau_at(ramp, ramp) == 9


@pytest.mark.parametrize(
    ("activity", "first"),
    [
        ("{type: lr_ramp, start: 0, over: 9 steps}", 10),
        ("{type: lr_ramp, start: 1, end: 0, over: 9 steps, curve: cosine}", 10),
        ("{type: lr_factor, factor: 0.1}", 1),
    ],
)
def test_gain_looks_at_no_slope_that_a_ramp_makes(activity, first):
    """Boundary 1 enters; the ramp ends at 10, and the line needs 7/8 of its eight updates."""
    run = Run(f"""
metrics: {{m: {{goal: minimize}}}}
initial: a
stages:
  a: {{kind: train, during: [{activity}], transitions: [
      {{target: done, when: "gain(m, over=8 steps) < 1"}}]}}
  done: {{kind: final}}
""")
    for step in range(1, 40):
        run.step(m=3 - step / 100)
    assert run.moves == [(max(first - 1, 1) + 7, "main:a.transitions[0]")]


def test_the_journal_says_which_detectors_start_a_new_reference_and_why():
    run = Run(
        WATCHING.format(
            first="[f]", second="[{type: lr_ramp, start: 0, over: 9 steps}]", target="g"
        ),
        params=1,
        costs={"other:g": 1},
    )
    run.step(6, m=2.0)
    assert run.of_type("reference", "boundary", "because", "restarted", "until_end_of") == [
        (
            3,
            [
                "growth of other:g#1",
                "end of freeze",
                "start of lr_ramp 0 to 1",
            ],
            ["main:a|plateau(m, patience=4 steps)"],
            ["other:b.during[0]"],
        )
    ]


def test_where_nobody_looks_at_a_trend_no_reference_is_told_of():
    run = Run("""
initial: a
stages:
  a: {kind: train, duration: 2 steps, next: b}
  b: {kind: train, during: [{type: lr_factor, factor: 0.5}]}
""").step(5)
    assert run.of_type("reference") == []


def test_metric_from_before_a_disturbance_is_unknown_after_it():
    run = Run(WATCHING.format(first="[]", second="[f]", target="b"))
    run.core.start()
    run.step(2).step(m=2.0)
    ways = {e.target: e.value for e in run.core.explain()}
    assert ways["main:low"] is None
    run.step(m=2.0)
    assert {e.target: e.value for e in run.core.explain()}["main:low"] is False


def test_rollback_restarts_trends_of_all_regions():
    run = Run("""
metrics: {m: {goal: minimize}}
regions:
  main:
    initial: a
    stages:
      a: {kind: train, transitions: [{target: done, when: "plateau(m, patience=4 steps)"}]}
      done: {kind: final}
  other:
    initial: a
    stages:
      a: {kind: train, duration: 1 step, next: b}
      b: {kind: train, actions: [{type: snapshot, name: s}], transitions: [
          {target: c, when: step == 4, at_most: 1, actions: [
          {type: roll_back, to: s, rng: fork}]}]}
      c: {kind: train}
""")
    run.step(12, m=2.0)
    assert run.of_type("roll_back", "boundary", "to") == [(4, 1)]
    assert run.moves[-1] == (9, "main:a.transitions[0]"), "first value at 5, four updates more"


def test_memory_begins_at_each_entry_of_its_stage():
    run = Run("""
metrics: {m: {goal: minimize}}
initial: a
stages:
  a:
    kind: train
    transitions: [{target: done, when: "plateau(m, patience=4 steps)"}]
    duration: 3 steps
    next: b
  b: {kind: train, duration: 1 step, next: c}
  c: {kind: train, transitions: [{target: done, when: "plateau(m, patience=4 steps)"}]}
  done: {kind: final}
""")
    run.step(12, m=2.0)
    assert run.moves[-1] == (9, "main:c.transitions[0]")


def test_interrupts_keep_their_memory_from_stage_to_stage():
    run = Run("""
metrics: {m: {goal: minimize}}
initial: a
stages:
  a: {kind: train, duration: 2 steps, next: b}
  b: {kind: train, duration: 2 steps, next: a}
  done: {kind: final}
interrupts: [{name: i, when: "plateau(m, patience=4 steps)", target: done}]
""")
    run.step(12, m=2.0)
    assert run.moves[-1] == (5, "main:interrupts.i")


def test_equal_leaves_of_one_scope_share_their_memory():
    run = Run("""
metrics: {m: {goal: minimize}}
initial: a
stages:
  a:
    kind: train
    transitions:
      - {target: b, when: "plateau(m, patience=4 steps) and step > 90"}
      - {target: c, when: "plateau(m,  patience = 4 steps)"}
  b: {kind: final}
  c: {kind: final}
""").step(3, m=1.0)
    assert list(run.core.state.memories) == ["main:a|plateau(m, patience=4 steps)"]


@pytest.mark.parametrize("gap", [None, float("nan")])
def test_gaps_and_nan_never_count_as_waiting(gap):
    """Patience is progress between finite values; silence alone tells nothing."""
    run = Run("""
metrics: {m: {goal: minimize}}
initial: a
stages:
  a: {kind: train, transitions: [{target: done, when: "plateau(m, patience=4 steps)"}]}
  done: {kind: final}
""").step(m=1.0)
    run.step(9, **({} if gap is None else {"m": gap}))
    assert run.stage == "a"
    run.step(m=1.0)
    assert run.stage == "done"
