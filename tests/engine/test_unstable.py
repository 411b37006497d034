"""``unstable``: a lasting excess over what was before a growth, and nothing less."""

import json
import math
from itertools import cycle, islice

import pytest

from stagegraph.engine.unstable import KEPT_BEFORE, PER_WINDOW, Level
from tests.engine.driving import Run

BEFORE = [2.0, 2.1, 1.9, 2.0, 2.2, 1.8, 2.0, 2.1, 1.9, 2.0, 2.0, 2.1, 1.9, 2.0, 2.2, 1.8]
"""Median 2, MAD 0.1: a spread of 0.14826, so that 2 spreads are 2.29652."""


def run_of(guard="unstable(m, since=s, over=8 steps)", goal="minimize", before=16, more=""):
    """Trains for a while, remembers the metrics, and watches them from then on."""
    return Run(f"""
metrics: {{m: {{goal: {goal}}}}}
initial: a
stages:
  a: {{kind: train, duration: {before} steps, next: b}}
  b: {{kind: train, actions: [{{type: baseline, name: s}}]}}
  done: {{kind: final}}
interrupts: [{{name: i, within: [b], when: "{guard}", target: done}}]
{more}""")


def fed(run, values):
    for value in values:
        run.step(m=value)
    return run


def evidence(run):
    guard = next(way.guard for way in run.core.explain() if way.edge == "main:interrupts.i")
    return guard.get("of", [guard])[0]["sees"]


# The reference


def test_the_reference_is_median_and_mad_by_hand():
    assert Level.of(BEFORE) == Level(2.0, pytest.approx(0.14826), 16)
    run = fed(run_of(), [*BEFORE, 2.0, 2.0, 2.0])
    seen = evidence(run)
    assert (seen["center"], seen["spread"]) == (2.0, pytest.approx(0.14826))
    assert seen["verdict"] == "stable" and seen["came_back"]


def test_few_values_before_make_no_reference():
    """The sketch took a negative slice when growth came early, and compared with the end."""
    for guard in (
        "unstable(m, since=s, over=8 steps)",
        "not unstable(m, since=s, over=8 steps)",
    ):
        run = fed(run_of(guard, before=7), [*BEFORE[:7], *[9.0] * 30])
        assert run.stage == "b"
        assert evidence(run)["verdict"] == "cannot tell"


def test_a_constant_has_no_spread_and_still_a_measure():
    """The sketch compared variances; that of a constant is 0 and everything is more."""
    run = fed(run_of(), [2.0] * 16 + [2.03] * 40)
    assert run.stage == "b", "1.5 % of excess is under the least that is too much"
    run = fed(run_of(), [2.0] * 16 + [2.05] * 40)
    assert run.stage == "done"


def test_zero_throughout_can_measure_nothing():
    run = fed(run_of(), [0.0] * 16 + [1e-9] * 40)
    assert run.stage == "b" and evidence(run)["verdict"] == "cannot tell"


@pytest.mark.parametrize(("goal", "sign"), [("minimize", 1), ("maximize", -1)])
@pytest.mark.parametrize("level", [0.0, 2.0, -2.0])
def test_both_goals_and_any_level(goal, sign, level):
    def values(jump):
        return [level + sign * (v - 2.0) for v in BEFORE] + [
            level + sign * (v - 2.0 + jump) for v in islice(cycle(BEFORE), 40)
        ]

    assert fed(run_of(goal=goal), values(0.2)).stage == "b"
    assert fed(run_of(goal=goal), values(0.5)).stage == "done"
    assert fed(run_of(goal=goal), values(-5.0)).stage == "b", "better is not unstable"


def test_the_reference_is_of_the_newest_values_alone_and_bounded():
    old = [9.0] * 200
    run = fed(run_of("unstable(m, since=s, over=16 steps)", before=240), [*old, *BEFORE, *BEFORE])
    fed(run, BEFORE[:8])
    (kept,) = run.core.state.recent.values()
    assert len(kept.values) == KEPT_BEFORE
    (before,) = run.core.state.baselines["s"].recent.values() if run.stage == "b" else [kept]
    assert 9.0 not in before.values


def test_a_disturbance_before_the_growth_begins_the_reference_anew():
    run = Run("""
metrics: {m: {goal: minimize}}
initial: a
stages:
  a: {kind: train, duration: 16 steps, next: c}
  c: {kind: settle, lr_factor: 0.1, duration: 4 steps, next: b}
  b: {kind: train, actions: [{type: baseline, name: s}]}
  done: {kind: final}
interrupts: [{name: i, within: [b], when: "unstable(m, since=s, over=8 steps)", target: done}]
""")
    fed(run, [*BEFORE, 1.0, 1.0, 1.0, 1.0, *[9.0] * 30])
    assert run.stage == "b" and evidence(run)["verdict"] == "cannot tell"


# The reading


@pytest.mark.parametrize("outlier", [9.0, 1e300, -1e300, math.inf, math.nan])
def test_a_single_outlier_is_nothing(outlier):
    """Not in the reference, not after it, whatever its size."""
    run = run_of("unstable(m, since=s, over=8 steps, lasting=1 step)")
    fed(run, [*BEFORE[:8], outlier, *BEFORE[8:15]])
    after = list(islice(cycle(BEFORE), 60))
    for at in range(3, 60, 5):
        after[at] = outlier
    assert fed(run, after).stage == "b"


def test_an_excess_must_last():
    """Bad readings begin when half of the window is bad, and must last for a window."""
    jump = [3.0] * 40
    run = fed(run_of(), [*BEFORE, *BEFORE, *jump])
    told = run.moves[-1][0]
    assert 32 + 8 <= told <= 32 + 16
    short = fed(run_of(), [*BEFORE, *BEFORE, *[3.0] * 6, *BEFORE, *BEFORE])
    assert short.stage == "b"


def test_the_transient_of_a_growth_is_allowed():
    guard = "unstable(m, since=s, over=8 steps, allow=30 steps)"
    bump = [5.0] * 20 + [2.5] * 6
    run = fed(run_of(guard), [*BEFORE, *bump, *BEFORE, *BEFORE])
    assert run.stage == "b" and evidence(run)["verdict"] == "stable"
    run = fed(run_of(guard), [*BEFORE, *[5.0] * 29])
    assert run.stage == "b" and evidence(run)["verdict"] == "transient"
    fed(run, [5.0] * 20)
    assert run.moves[-1][0] == 16 + 30 + 8, "judged from 30 on, and bad for a window"


def test_unknown_while_the_transient_lasts():
    guard = "not unstable(m, since=s, over=8 steps, allow=30 steps)"
    run = fed(run_of(guard), [*BEFORE, *BEFORE])
    assert run.stage == "b"
    fed(run, BEFORE)
    assert run.moves[-1][0] == 16 + 30


def test_what_has_not_come_back_by_the_deadline_is_unstable_at_once():
    guard = "unstable(m, since=s, over=8 steps, allow=10 steps, within=40 steps, lasting=500 steps)"
    run = fed(run_of(guard), [*BEFORE, *[3.0] * 60])
    assert run.moves[-1][0] == 16 + 40
    came_back = fed(run_of(guard), [*BEFORE, *[3.0] * 16, *BEFORE, *[3.0] * 60])
    assert came_back.stage == "b" and evidence(came_back)["came_back"]


BESIDE = """
metrics: {m: {goal: minimize}}
regions:
  main:
    initial: a
    stages:
      a: {kind: train, duration: 16 steps, next: b}
      b: {kind: train, actions: [{type: baseline, name: s}]}
      done: {kind: final}
    interrupts: [{name: i, within: [b], when: "unstable(m, since=s, over=8 steps)", target: done}]
  other:
    initial: a
    stages:
      a: {kind: train, duration: 30 steps, next: b}
      b: {kind: train, during: [ACTIVITY]}
"""
"""Another region begins an activity at 30, while the first one watches a metric since 16."""


def test_a_disturbance_restarts_the_window_and_not_what_came_back():
    run = Run(BESIDE.replace("ACTIVITY", "{type: lr_factor, factor: 0.5}"))
    fed(run, [*BEFORE, *BEFORE[:6], *[3.0] * 7])
    assert evidence(run)["verdict"] == "excess"
    fed(run, [3.0] * 3)
    assert evidence(run)["came_back"] and evidence(run)["observations"] < 4
    assert run.of_type("reference", "boundary", "because") == [(30, ["start of lr_factor 0.5"])]
    fed(run, [3.0] * 10)
    assert run.stages["main"] == "done"


DATA = [
    "{type: difficulty, level: 1}",
    "{type: mixture, weights: {a: 1}}",
    "{type: sequence_length, length: 64}",
    "{type: batch_size, size: 16}",
]


@pytest.mark.parametrize("activity", DATA)
def test_what_was_before_is_no_reference_for_other_data(activity):
    """That the loss is higher on harder data is no evidence against a growth."""
    run = fed(Run(BESIDE.replace("ACTIVITY", activity)), [*BEFORE, *BEFORE[:15], *[3.0] * 40])
    assert run.stages == {"main": "b", "other": "b"}
    assert evidence(run)["verdict"] == "cannot tell"
    assert evidence(run)["came_back"]
    (told,) = run.of_type("reference", "boundary", "because")
    assert told[0] == 30


def test_that_the_data_has_changed_is_known_after_a_resume():
    text = BESIDE.replace("ACTIVITY", "{type: difficulty, level: 1}")
    run = fed(Run(text), [*BEFORE, *BEFORE[:15], *[3.0] * 3])
    state = json.loads(json.dumps(run.core.state_dict()))
    assert state["engine"]["data_changed"] == 30
    known, unknown = Run(text), Run(text)
    known.core.load_state_dict(state)
    state["engine"]["data_changed"] = -1
    unknown.core.load_state_dict(state)
    for resumed, stage in ((known, "b"), (unknown, "done")):
        assert fed(resumed, [3.0] * 40).stages["main"] == stage


@pytest.mark.parametrize("taken", ["snapshot", "baseline"])
def test_a_reference_that_is_taken_anew_is_of_the_new_data(taken):
    text = BESIDE.replace("ACTIVITY", "{type: difficulty, level: 1}").replace("baseline", taken)
    text = text.replace("name: s}]}", "name: s}], duration: 34 steps, next: c}", 1)
    text = text.replace(
        "      done:",
        f"      c: {{kind: train, actions: [{{type: {taken}, name: s}}]}}\n      done:",
    ).replace("within: [b]", "within: [b, c]")
    run = fed(Run(text), [*BEFORE, *BEFORE[:15], *[3.0, 3.1, 2.9] * 9])
    assert (run.stages["main"], evidence(run)["verdict"]) == ("c", "stable")
    fed(run, [5.0] * 20)
    assert run.stages["main"] == "done"


def test_a_return_brings_back_the_data_and_its_reference():
    text = """
metrics: {m: {goal: minimize}}
regions:
  main:
    initial: a
    stages:
      a: {kind: train, duration: 16 steps, next: b}
      b: {kind: train, actions: [{type: snapshot, name: s}], duration: 40 steps, next: done}
      c: {kind: train, duration: 40 steps, next: done}
      done: {kind: final}
    interrupts:
      - name: undo
        within: [b]
        when: elapsed(20 steps)
        actions: [{type: roll_back, to: s, rng: fork}]
        target: c
        at_most: 1
      - {name: i, within: [b, c], when: "unstable(m, since=s, over=8 steps)", target: done}
  other:
    initial: a
    stages:
      a: {kind: train, duration: 30 steps, next: b}
      b: {kind: train, during: [{type: difficulty, level: 1}]}
"""
    run = fed(Run(text), [*BEFORE, *BEFORE[:15], *[3.0] * 4])
    assert evidence(run)["verdict"] == "cannot tell"
    fed(run, [3.0] * 8)  # it returns at update 36
    assert run.stages == {"main": "c", "other": "a"}
    assert evidence(run)["verdict"] == "excess"
    fed(run, [3.0] * 8)
    assert run.stages == {"main": "done", "other": "a"}


def test_gaps_and_nan_neither_advance_nor_reset():
    values = [*BEFORE, *BEFORE, *[3.0] * 9]
    run = fed(run_of(), values)
    gaps = fed(run_of(), [*values, *[math.nan] * 30])
    assert run.stage == gaps.stage == "b"
    assert run.core.state.memories == gaps.core.state.memories
    assert fed(gaps, [3.0] * 12).stage == "done"


def test_the_memory_is_bounded_however_often_one_logs():
    guard = "unstable(m, since=s, over=1000 steps)"
    run = fed(run_of(guard, before=3000), islice(cycle(BEFORE), 6000))
    (memory,) = run.core.state.memories.values()
    assert len(memory.values) <= PER_WINDOW + 1
    assert len(json.dumps(run.core.state_dict())) < 12_000


def test_it_is_asked_anew_for_each_growth():
    """Second entry: the newer baseline counts, and what was excess before is forgotten."""
    run = Run("""
metrics: {m: {goal: minimize}}
initial: a
stages:
  a: {kind: train, duration: 16 steps, next: b}
  b: {kind: train, actions: [{type: baseline, name: s}], duration: 30 steps, next: b2}
  b2: {kind: train, duration: 1 step, next: b}
  done: {kind: final}
interrupts: [{name: i, within: [b], when: "unstable(m, since=s, over=8 steps, lasting=40 steps)",
              target: done}]
""")
    fed(run, [*BEFORE, *BEFORE, *BEFORE[:14]])
    fed(run, [v + 3 for v in islice(cycle(BEFORE), 55)])
    centers = [kept["metrics"]["m"] for kept in run if kept["type"] == "baseline"]
    assert len(centers) == 3
    assert run.stage == "b" and evidence(run)["center"] > 4


def test_it_watches_the_norm_of_the_gradient_too():
    """The sketch named gradient norms and never looked at them."""
    run = Run("""
metrics: {grad_norm: {goal: minimize}}
initial: a
stages:
  a: {kind: train, duration: 16 steps, next: b}
  b: {kind: train, actions: [{type: baseline, name: s}]}
  done: {kind: final}
interrupts: [{name: i, within: [b], when: "unstable(grad_norm, since=s, over=8 steps, by=50%)",
              target: done}]
""")
    for value in [*BEFORE, *[7.0] * 20]:
        run.step(grad_norm=value)
    assert run.stage == "done"


# Resume

LONG = """
metrics: {m: {goal: minimize, every: 2 steps}}
initial: a
stages:
  a: {kind: train, duration: 24 steps, next: g}
  g: {kind: grow, actions: [{type: snapshot, name: s}, {type: deepen, stack: x, add: 1}], next: w}
  w: {kind: warmup, during: [{type: lr_ramp, of: grown, start: 0, over: 8 steps}], next: c}
  c: {kind: consolidate, duration: 60 steps, next: a}
  done: {kind: final}
interrupts:
  - name: i
    within: [w, c]
    when: "unstable(m, since=s, over=16 steps, allow=6 steps, within=40 steps)"
    target: a
    at_most: 1
    actions: [{type: roll_back, to: s, rng: fork}]
"""


def driven(cut):
    run = Run(LONG, params=1, costs={"main:g": 1})
    for step in range(90):
        if step == cut:
            run = run.resumed()
        run.step()
        if run.core.wants_evaluation:
            value = 2 + BEFORE[step % 16] / 10 + (1 if 30 < run.core.state.spent.step < 60 else 0)
            run.core.observe(m=math.nan if step % 17 == 0 else value)
    return run.core


@pytest.fixture(scope="module")
def whole():
    core = driven(None)
    assert core.state.fired["main:interrupts.i"] == 1
    return core.state_dict()


@pytest.mark.parametrize("cut", [*range(22, 90, 6), 24, 25, 30, 59, 63])
def test_it_goes_on_from_any_cut(cut, whole):
    assert driven(cut).state_dict() == whole
