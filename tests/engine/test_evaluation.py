"""Who asks for an evaluation, when a boundary waits for it, and late metrics (S2, S4)."""

import math

import pytest

from stagegraph.errors import MetricError
from tests.engine.driving import Run

EVERY = """
metrics: {m: {goal: minimize, every: 3 steps, source: [val/m, eval_m]}}
initial: a
stages: {a: {kind: train, transitions: [{target: b, when: m < 1}]}, b: {kind: final}}
"""
PLAIN = EVERY.replace(", every: 3 steps", "")


def wanted(run, steps):
    """After which of so many updates an evaluation was asked for, nobody answering."""
    found = []
    for n in range(1, steps + 1):
        run.step()
        if run.core.wants_evaluation:
            found.append(n)
    return found


def test_evaluation_is_asked_for_at_every_interval():
    assert wanted(Run(EVERY), 10) == [3, 6, 9]


def test_boundary_waits_for_the_evaluation_and_is_decided_by_it():
    run = Run(EVERY).step(3)
    assert run.core.wants_evaluation and run.stage == "a"
    run.core.observe(m=0.5)
    assert not run.core.wants_evaluation
    assert run.moves == [(3, "main:a.transitions[0]")]


def test_waiting_boundary_is_decided_by_the_next_update_at_the_latest():
    run = Run(EVERY.replace("m < 1", "step >= 3")).step(3)
    assert run.moves == []
    run.step()
    assert run.moves == [(3, "main:a.transitions[0]")]


def test_waiting_boundary_is_decided_by_the_end_of_training():
    run = Run(EVERY.replace("m < 1", "step >= 3")).step(3)
    run.core.finish()
    assert run.moves == [(3, "main:a.transitions[0]")]


def test_unsolicited_metric_is_seen_at_the_next_boundary():
    run = Run(PLAIN).step(2)
    run.core.observe(m=0.5)
    assert run.moves == []
    run.step()
    assert run.moves == [(3, "main:a.transitions[0]")]
    assert run.of_type("metric", "boundary", "late") == [(2, True)]


def test_second_observe_at_one_boundary_comes_late():
    run = Run(EVERY).step(3)
    run.core.observe()
    run.core.observe(m=0.5)
    run.step()
    assert run.moves == [(4, "main:a.transitions[0]")]


def test_metric_that_comes_with_the_update_is_seen_at_once():
    assert Run(PLAIN).step(4).step(m=0.5).moves == [(5, "main:a.transitions[0]")]


def test_metric_is_known_by_every_name_it_has():
    for name in ("m", "val/m", "eval_m"):
        assert Run(PLAIN).step(**{name: 0.5}).moves == [(1, "main:a.transitions[0]")]


def test_intervals_are_counted_on_the_clock():
    """Back from 8 to 4: asked for at 6 again."""
    run = Run("""
metrics: {m: {goal: minimize, every: 3 steps}}
initial: a
stages:
  a: {kind: train, duration: 4 steps, next: b}
  b: {kind: train, actions: [{type: snapshot, name: s}], transitions: [
      {target: c, when: step == 8, at_most: 1, actions: [{type: roll_back, to: s, data: skip}]}]}
  c: {kind: train}
""")
    assert wanted(run, 12) == [3, 6, 10]


def test_interval_in_samples_and_epochs():
    text = EVERY.replace("3 steps", "100 samples")
    run = Run(text)
    assert [n for n in range(1, 9) if run.step(samples=40) and run.core.wants_evaluation] == [
        3,
        5,
        8,
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("when", ["m < 1", "m > 1", "not m < 1", "not m > 1", "m != 1", "m == m"])
def test_value_that_is_not_finite_never_fires(value, when):
    run = Run(PLAIN.replace("m < 1", when)).step(m=value).step(2)
    run.core.observe(m=value)
    run.step(2)
    assert run.moves == []
    assert run.core.explain()[0].value is None
    assert run.of_type("metric", "value", "raw") == [(None, str(value))] * 2


def test_missing_metric_is_unknown_in_both_polarities():
    for when in ("m < 1", "not m < 1", "not (m < 1 and step > 0)"):
        assert Run(PLAIN.replace("m < 1", when)).step(3).moves == []


def test_not_finite_value_makes_the_metric_unknown_but_last_and_best_stay():
    run = (
        Run("""
metrics: {m: {goal: maximize}}
initial: a
stages:
  a:
    kind: train
    min_duration: 4 steps
    transitions: [{target: x, when: m > 0}, {target: b, when: best(m) == 5 and last(m) == 3}]
  x: {kind: final}
  b: {kind: final}
""")
        .step(m=5.0)
        .step(m=3.0)
        .step(m=math.nan)
        .step()
    )
    assert run.moves == [(4, "main:a.transitions[1]")]


def test_metric_of_the_stage_before_is_unknown_after_the_entry():
    run = (
        Run("""
metrics: {m: {goal: minimize}}
initial: a
stages:
  a: {kind: train, duration: 2 steps, next: b}
  b: {kind: train, transitions: [
      {target: c, when: m < 1}, {target: d, when: last(m) < 1 and step > 4}]}
  c: {kind: final}
  d: {kind: final}
""")
        .step(m=0.5)
        .step(5)
    )
    assert run.moves == [(2, "main:a.next"), (5, "main:b.transitions[1]")]


def test_undeclared_metric_is_refused_with_a_suggestion():
    message = r"metric 'val_m' is not declared in the graph's 'metrics'; did you mean 'eval_m'\?"
    with pytest.raises(MetricError, match=message):
        Run(PLAIN).step(val_m=1.0)
    with pytest.raises(MetricError, match=message):
        Run(PLAIN).core.observe(val_m=1.0)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("0.5", "str"),
        (None, "NoneType"),
        ([0.5], "list"),
        (1j, "complex"),
        (type("Tensor", (), {"shape": (2, 3)})(), r"Tensor of shape \(2, 3\)"),
    ],
)
def test_value_that_is_no_number_is_refused(value, what):
    with pytest.raises(MetricError, match=f"metric 'm' must be one number, got {what}; reduce it"):
        Run(PLAIN).step(m=value)


def test_loss_is_a_metric_only_if_declared():
    silent = Run(PLAIN).step(loss=3)
    assert silent.core.loss is not None and silent.of_type("metric") == []
    run = Run(PLAIN.replace("{m:", "{loss: {goal: minimize}, m:").replace("m < 1", "loss < 1"))
    run.step(loss=2.0).step(loss=0.5)
    assert run.moves == [(2, "main:a.transitions[0]")]


def test_metric_may_be_called_like_an_argument():
    run = Run(PLAIN.replace("{m:", "{self: {goal: minimize}, m:")).step(self=1.0)
    run.core.observe(self=2.0)
    assert run.core.state.metrics["self"].value == 2.0
