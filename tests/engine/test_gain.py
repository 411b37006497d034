"""``gain``: how much better a metric would be after more progress, by the line through its past."""

import math

import pytest

from tests.engine.driving import Run


def run_of(guard, goal="minimize", every=""):
    return Run(f"""
metrics: {{m: {{goal: {goal}{every}}}}}
initial: a
stages:
  a: {{kind: train, transitions: [{{target: done, when: "{guard}"}}]}}
  done: {{kind: final}}
""")


def gain_of(run):
    (found,) = run.core.explain()
    return next(iter(found.guard["sees"].values()))


@pytest.mark.parametrize(
    ("goal", "slope", "level"),
    [
        ("minimize", -0.01, 2.0),
        ("minimize", 0.01, 2.0),
        ("maximize", 0.01, 2.0),
        ("maximize", -0.01, -2.0),
        ("minimize", -0.01, -2.0),
    ],
)
def test_it_is_the_slope_over_the_value_at_the_end(goal, slope, level):
    """A straight line: its relative rise over the window, towards the goal."""
    run = run_of("gain(m, over=16 steps) < -90%", goal)
    for step in range(1, 17):
        run.step(m=level + slope * step)
    assert run.core.stages["main"] == "a"
    (memory,) = run.core.state.memories.values()
    end = level + slope * memory.reading.end
    expected = (-1 if goal == "minimize" else 1) * slope * 16 / abs(end)
    assert gain_of(run) == pytest.approx(expected, rel=1e-9)


def test_a_window_widened_to_eight_evaluations_still_speaks_of_over():
    run = run_of("gain(m, over=8 steps) < -90%", every=", every: 4 steps")
    for step in range(1, 60):
        run.step()
        if run.core.wants_evaluation:
            run.core.observe(m=2 - 0.01 * step)
    (memory,) = run.core.state.memories.values()
    end = 2 - 0.01 * memory.reading.end
    assert gain_of(run) == pytest.approx(0.08 / end, rel=1e-9)


def test_it_is_unknown_until_the_window_is_full():
    for guard in ("gain(m, over=16 steps) < 1", "gain(m, over=16 steps) > -1"):
        run = run_of(guard)
        for step in range(1, 14):
            run.step(m=2 - 0.01 * step)
        assert run.stage == "a" and gain_of(run) is None
        run.step(m=1.86).step(m=1.85)
        assert run.stage == "done"


def test_few_values_and_a_level_of_nothing_are_unknown():
    few = run_of("gain(m, over=16 steps) < 1")
    for _ in range(7):
        few.step(4).step(m=2.0)
    assert few.stage == "a"
    zero = run_of("gain(m, over=16 steps) < 1")
    for step in range(40):
        zero.step(m=(-1.0) ** step)
    assert zero.stage == "a"


def test_nan_and_gaps_do_not_move_it():
    run = run_of("gain(m, over=16 steps) < -90%")
    for step in range(1, 17):
        run.step(m=2 - 0.01 * step)
    before = gain_of(run)
    run.step(m=math.nan).step().step(m=math.inf)
    assert gain_of(run) == before


def test_it_computes_with_other_numbers_and_shares_its_memory():
    run = run_of("gain(m, over=16 steps) * 2 + 0 < 1% and gain(m, over=16 steps) < 1%")
    run.step(12, m=2.0)
    assert len(run.core.state.memories) == 1
    run.step(4, m=2.0)
    assert run.stage == "done"


def test_a_stay_too_long_with_budget_left_and_little_to_gain():
    """Growing too slow, which the sketch names without code."""
    text = """
metrics: {m: {goal: minimize}}
budget: {steps: 400}
initial: a
stages:
  a:
    kind: train
    transitions:
      - target: grow
        when: elapsed(100 steps) and gain(m, over=40 steps) < 1% and left(steps) > 150
        at_most: 1
    duration: 300 steps
    next: done
  grow: {kind: grow, actions: [{type: deepen, stack: x, add: 1}], next: a}
  done: {kind: final}
"""
    slow = Run(text, params=1, costs={"main:grow": 1})
    for step in range(1, 120):
        slow.step(m=2 + math.exp(-step / 10))
    assert slow.moves == [(100, "main:a.transitions[0]")]
    quick = Run(text, params=1, costs={"main:grow": 1})
    for step in range(1, 250):
        quick.step(m=4 - step / 100)
    assert quick.moves == []


def test_a_plateau_of_even_odds_is_more_sensitive():
    """Half a share of noise: the bound needs long, the estimate does not."""
    noise = [0.01, -0.01, 0.02, -0.02, 0.0, 0.015, -0.015, 0.01]

    def told(confidence):
        run = run_of(f"plateau(m, worth=2%, over=16 steps, confirm=1, confidence={confidence})")
        run.core.start()
        for step in range(400):
            if run.stage == "done":
                return run.moves[0][0]
            run.step(m=2 + noise[(step * 5 + step // 8) % 8])
        return None

    even, usual = told("50%"), told("95%")
    assert even is not None and (usual is None or even < usual)


@pytest.mark.parametrize("cut", range(1, 70, 5))
def test_it_goes_on_from_any_cut(cut):
    text = """
metrics: {m: {goal: minimize}}
events: [e]
initial: a
stages:
  a: {kind: train, transitions: [{target: b, when: "gain(m, over=16 steps) < 4%"}]}
  b: {kind: train, during: [{type: lr_ramp, end: 0, over: 9 steps}],
      transitions: [{target: done, when: "gain(m, over=8 steps) < 1%"}]}
  done: {kind: final}
"""
    whole, parts = Run(text), Run(text)
    for step in range(75):
        if step == cut:
            parts = parts.resumed()
        value = 2 + 2 * math.exp(-step / 10)
        whole.step(m=value)
        parts.step(m=value)
    assert len(whole.moves) == 2
    assert parts.core.state_dict() == whole.core.state_dict()
