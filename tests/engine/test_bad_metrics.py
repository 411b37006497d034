"""Bad metrics: what each does, what the journal says, and that a refused call leaves no trace.

The rows are those of docs/metrics.md.
"""

import json
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from stagegraph.engine.metrics import as_number
from stagegraph.engine.state import MetricState, State
from stagegraph.errors import MetricError, MissingFact, ProgressError
from tests.engine.driving import Run
from tests.engine.on_device import OnDevice

PLAIN = """
metrics: {m: {goal: minimize, source: [eval_m]}, n: {goal: minimize}}
initial: a
stages: {a: {kind: train, transitions: [{target: b, when: 'm < 1'}]}, b: {kind: final}}
"""


def everything(run):
    """All that a call could have changed."""
    return (json.dumps(run.core.state_dict()), run.core.progress, run.core.loss, list(run))


# Values that are not finite


NOT_FINITE = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("kept", [float, OnDevice])
def test_not_finite_is_unknown_never_best_and_recorded(bad, kept):
    run = Run(PLAIN).step(m=kept(2.0)).step(m=kept(bad))
    run.core.explain()
    metric = run.core.state.metrics["m"]
    assert (metric.value, metric.last, metric.best, metric.nonfinite) == (None, 2.0, 2.0, 1)
    assert run.core.explain()[0].value is None
    assert run.of_type("metric", "value", "name")[1] == (None, "m")
    assert run.of_type("metric")[1]["raw"] == str(bad)


def test_first_value_that_is_not_finite_is_no_best():
    run = Run(PLAIN).step(m=math.nan).step(m=3.0)
    run.core.explain()
    assert run.core.state.metrics["m"].best == 3.0


def test_not_finite_is_in_no_window():
    document = PLAIN.replace("m < 1", "plateau(m, worth=1%, over=16 steps, confirm=1)")
    with_gaps, without = Run(document), Run(document)
    for n in range(1, 30):
        bad = n % 3 == 0
        with_gaps.step(m=math.nan if bad else 1.0)
        without.step(**({} if bad else {"m": 1.0}))
    assert with_gaps.moves == without.moves != []


COUNTING = """
metrics: {m: {goal: minimize}}
budget: {steps: 100}
initial: a
stages:
  a: {kind: train, actions: [{type: snapshot, name: s}], transitions: [
      {target: b, when: nonfinite(m) >= 3, at_most: 1,
       actions: [{type: roll_back, to: s, data: skip}]}]}
  b: {kind: train}
"""


@pytest.mark.parametrize("kept", [float, OnDevice])
def test_so_many_in_a_row_can_lead_back(kept):
    run = Run(COUNTING).step(10)
    for value in (math.nan, math.inf, 1.0, math.nan, math.nan, -math.inf):
        run.step(m=kept(value))
    assert run.moves == [(16, "main:a.transitions[0]")]
    assert run.core.progress.step == 0
    move = run.of_type("move")[-1]
    assert move["evidence"]["sees"] == {"nonfinite(m)": 3.0}


def test_count_of_what_is_not_finite_is_known_from_the_start():
    run = Run(COUNTING.replace("nonfinite(m) >= 3", "nonfinite(m) == 0 and step >= 4"))
    assert run.step(4).core.explain() is not None
    assert [boundary for boundary, _ in run.moves] == [4]


def test_count_goes_on_after_a_resume():
    run = Run(COUNTING).step(5).step(m=math.nan).step(m=math.nan)
    other = run.resumed()
    assert other.core.state.metrics["m"].nonfinite == 2
    other.step(m=math.nan)
    assert other.moves == [(8, "main:a.transitions[0]")]


STRICT = PLAIN.replace("source:", "nonfinite: error, source:")


@pytest.mark.parametrize("kept", [float, OnDevice])
def test_not_finite_is_an_error_where_the_graph_says_so(kept):
    run = Run(STRICT).step(3)
    with pytest.raises(MetricError, match=r"'m' was nan at step 4, and .* 'nonfinite: error' of i"):
        run.step(m=kept(math.nan))
    assert run.core.progress.step == 4
    assert run.of_type("metric", "raw", "step") == [("nan", 4)]
    run.step(m=kept(0.5))
    assert run.moves == [(5, "main:a.transitions[0]")]


def test_not_finite_of_another_metric_is_no_error():
    assert Run(STRICT).step(n=math.nan).core.progress.step == 1


def test_error_of_an_evaluation_leaves_the_boundary_to_be_decided():
    run = Run(STRICT.replace("goal: minimize, nonf", "goal: minimize, every: 2 steps, nonf")).step(
        2
    )
    with pytest.raises(MetricError, match=r"'m' was inf at step 2"):
        run.core.observe(m=math.inf)
    assert run.core.wants_evaluation
    run.core.observe(m=0.5)
    assert run.moves == [(2, "main:a.transitions[0]")]


def test_value_that_is_not_looked_at_is_no_error():
    document = STRICT.replace("nonfinite:", "look_every: 5 steps, nonfinite:")
    run = Run(document).step(m=2.0).step(3, m=math.nan)
    with pytest.raises(MetricError, match="at step 5"):
        run.step(m=math.nan)


# How often values are looked at


def test_values_that_come_sooner_are_in_the_journal_alone():
    run = Run(PLAIN.replace("source:", "look_every: 5 steps, source:"))
    for value in (3.0, 0.5, 0.5, 2.0, 0.8, 0.1):
        run.step(m=value)
    assert run.moves == [(5, "main:a.transitions[0]")]
    looked = [(r["value"], r.get("looked_at", True)) for r in run.of_type("metric")]
    assert looked == [(3.0, True), (0.5, False), (0.5, False), (2.0, False), (0.8, True)]
    assert run.core.state.metrics["m"].best == 0.8


def test_intervals_of_looking_are_counted_on_the_clock():
    run = Run(PLAIN.replace("source:", "look_every: 100 samples, source:"))
    for _ in range(9):
        run.core.step(samples=40, m=2.0)
    run.core.explain()
    looked = [n for n, r in enumerate(run.of_type("metric"), 1) if r.get("looked_at", True)]
    assert looked == [1, 3, 5, 8]


def test_unit_of_looking_must_be_counted():
    run = Run(PLAIN.replace("source:", "look_every: 100 samples, source:"))
    with pytest.raises(MissingFact, match=r"the graph reads samples; give step\(samples=\)"):
        run.step(m=2.0)


def test_patience_looks_as_often_as_its_metric_declares():
    document = PLAIN.replace("m < 1", "plateau(m, patience=20 steps)")
    sparse = Run(document.replace("source:", "every: 5 steps, source:"))
    each = Run(document)
    for n in range(5, 60):
        value = 1.0 if n % 5 == 0 else 0.9 - n / 1000
        for run in (sparse, each):
            run.core.step(m=value)
    assert [boundary for boundary, _ in sparse.moves] == [21]
    assert each.moves == []


# Missing


WAITING = """
metrics: {m: {goal: minimize, every: 3 steps}, n: {goal: minimize, every: 3 steps}}
initial: a
stages: {a: {kind: train, transitions: [{target: b, when: m < 1}]}, b: {kind: train}}
"""


def test_metric_that_was_asked_for_twice_and_did_not_come_is_told_once():
    run = Run(WAITING)
    for _ in range(20):
        run.step()
        if run.core.wants_evaluation:
            run.core.observe(n=1.0)
    assert run.of_type("missing", "boundary", "name", "asked", "waited", "edges") == [
        (6, "m", 2, "6 steps", ["main:a.transitions[0]"])
    ]


def test_metric_that_nobody_evaluates_is_told_too():
    run = Run(WAITING).step(20)
    assert run.of_type("missing", "boundary", "name") == [(6, "m")]


def test_metric_that_no_guard_waits_for_may_stay_away():
    run = Run(WAITING).step(m=0.5).step(20)
    assert run.stage == "b" and run.of_type("missing") == []


def test_metric_that_comes_again_and_stays_away_again_is_told_again():
    run = Run(WAITING).step(8).step(m=2.0).step(12)
    assert run.of_type("missing", "boundary", "name") == [(6, "m"), (15, "m")]


@pytest.mark.parametrize("how", ["with_step", "late", "not finite", "in time", "twice a value"])
def test_metric_that_comes_somehow_is_not_missing(how):
    run = Run(WAITING)
    for _ in range(20):
        run.step(**({"m": 2.0} if how == "with_step" else {}))
        wanted = run.core.wants_evaluation
        if wanted and how == "late":
            run.core.observe()
        if wanted and how != "with_step":
            run.core.observe(m=math.nan if how == "not finite" else 2.0)
        if wanted and how == "twice a value":
            run.core.observe(m=2.0)
    assert run.of_type("missing") == []


def test_what_was_told_stays_told_after_a_resume():
    run = Run(WAITING).step(7)
    assert len(run.of_type("missing")) == 1
    assert run.resumed().step(20).of_type("missing") == []


# Twice, and late


def test_same_value_twice_at_one_boundary_counts_once():
    run = Run(PLAIN).step(m=2.0)
    before = run.core.state.metrics["m"]
    run.core.observe(eval_m=2.0)
    after = run.core.state.metrics["m"]
    assert (after.value, after.seen, after.boundary) == (2.0, before.seen, before.boundary)
    told = [(r["value"], r.get("again"), r.get("looked_at")) for r in run.of_type("metric")]
    assert told == [(2.0, None, None), (2.0, True, False)]


def test_not_finite_twice_at_one_boundary_counts_once():
    run = Run(PLAIN).step(m=math.nan)
    run.core.observe(m=math.nan)
    assert run.core.state.metrics["m"].nonfinite == 1


def test_same_value_twice_is_one_observation_of_a_plateau():
    document = PLAIN.replace("m < 1", "plateau(m, worth=1%, over=8 steps, confirm=1)")
    once, twice = Run(document), Run(document)
    for _ in range(20):
        once.step(m=1.0)
        twice.step(m=1.0)
        twice.core.observe(m=1.0)
    assert once.moves == twice.moves != []


def test_another_value_at_one_boundary_is_another_observation_and_the_last_counts():
    run = Run(PLAIN).step(m=0.9, eval_m=2.0).step(2)
    assert run.moves == []
    metric = run.core.state.metrics["m"]
    assert (metric.value, metric.best) == (2.0, 0.9)
    assert [r.get("again") for r in run.of_type("metric")] == [None, True]


def test_same_value_after_a_move_is_another_observation():
    """What was measured before a growth says nothing about the model after it."""
    run = Run("""
metrics: {m: {goal: minimize}}
initial: a
stages:
  a: {kind: train, duration: 3 steps, next: b}
  b: {kind: train, transitions: [{target: c, when: m < 1}]}
  c: {kind: final}
""")
    run.step(2).step(m=0.5)
    assert run.stage == "b"
    run.core.observe(m=0.5)
    assert run.step().stage == "c"


def test_late_value_is_of_the_boundary_at_which_it_comes():
    run = Run(PLAIN).step(3)
    run.core.observe(m=0.5)
    assert run.stage == "a"
    run.step()
    assert run.moves == [(4, "main:a.transitions[0]")]
    assert run.of_type("metric", "step", "boundary", "late") == [(3, 3, True)]


# Types


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (True, 1.0),
        (False, 0.0),
        (3, 3.0),
        (2**60 + 1, float(2**60 + 1)),
        (Fraction(1, 4), 0.25),
        (Decimal("0.1"), 0.1),
        (Decimal("Infinity"), math.inf),
        (np.float32(0.5), 0.5),
        (np.float16(0.5), 0.5),
        (np.int8(-3), -3.0),
        (np.bool_(True), 1.0),
        (np.array(0.5), 0.5),
        (np.array([0.5]), 0.5),
        (np.array([[7]]), 7.0),
    ],
)
def test_whatever_is_one_number_is_taken(value, number):
    assert as_number("m", value) == number


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("0.5", "str"),
        ("nan", "str"),
        (b"1", "bytes"),
        (None, "NoneType"),
        ([0.5], "list"),
        ((0.5,), "tuple"),
        ({"m": 0.5}, "dict"),
        ({0.5}, "set"),
        (1j, "complex"),
        (np.complex64(1), "complex64"),
        (np.ma.masked, "MaskedConstant"),
        (np.array([1.0, 2.0]), r"ndarray of shape \(2,\)"),
        (np.array([]), r"ndarray of shape \(0,\)"),
        (np.array("x"), "ndarray"),
        (np.array(None), "ndarray"),
        (np.datetime64("2020-01-01"), "datetime64"),
        (10**400, "int"),
        (Decimal("sNaN"), "Decimal"),
        (object(), "object"),
        (float, "type"),
        (lambda: 1.0, "function"),
    ],
)
def test_whatever_is_not_is_refused_by_name_type_and_shape(value, what):
    message = f"^metric 'm' must be one number, got {what}; reduce it first, or convert it$"
    with pytest.raises(MetricError, match=message):
        as_number("m", value)
    run = Run(PLAIN).step(n=1.0)
    before = everything(run)
    for call in (run.core.step, run.core.observe):
        with pytest.raises(MetricError, match=message):
            call(n=2.0, m=value)
    assert everything(run) == before


# Progress


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"samples": -1}, ProgressError, "progress goes backwards"),
        ({"tokens": -5, "samples": 2}, ProgressError, "progress goes backwards"),
        ({"flops": -1}, ProgressError, "progress goes backwards"),
        ({"seconds": -1.0}, ProgressError, "progress goes backwards"),
        ({"seconds": math.nan}, ProgressError, "progress goes backwards"),
        ({"seconds": math.inf}, ProgressError, "at most 1e.18"),
        ({"samples": 10**400}, ProgressError, "at most 1e.18"),
        ({"tokens": -(10**5000)}, ProgressError, "at most 1e.18"),
        ({"samples": 1.5}, ProgressError, "samples are counted in whole numbers, got a float"),
        ({"tokens": math.nan}, ProgressError, "tokens are counted in whole numbers"),
        ({"flops": "9"}, ProgressError, "flops are counted in whole numbers, got a str"),
        ({"epoch": 0.25}, ProgressError, "epoch goes backwards: 0.25 after 0.5"),
        ({"epoch": math.nan}, ProgressError, "nan is no number of passes"),
        ({"epoch": math.inf}, ProgressError, "inf is no number of passes"),
        ({"epoch": -1.0}, ProgressError, "no number of passes: it lies from 0"),
        ({"epoch": "0.75"}, ProgressError, "'0.75' is no number of passes"),
        ({"epoch": 1e300}, ProgressError, "no number of passes: it lies from 0"),
        ({"k": 1.0}, MetricError, "metric 'k' is not declared"),
        ({"m": None}, MetricError, "must be one number"),
        ({"loss": [1.0, 2.0]}, MetricError, "metric 'loss' must be one number, got list"),
    ],
)
def test_refused_update_leaves_no_trace(given, error, message):
    run = Run(PLAIN).step(samples=4, epoch=0.5, loss=1.5, n=2.0)
    before = everything(run)
    for with_it in ({}, {"samples": 3, "epoch": 0.75, "n": 1.0, "loss": 0.5}):
        with pytest.raises(error, match=message):
            run.step(**{**with_it, **given})
        assert everything(run) == before
    run.step(samples=4, epoch=0.75, n=1.0)
    assert (run.core.progress.step, run.core.progress.samples) == (2, 8)


def test_update_that_lacks_what_the_graph_reads_is_refused_and_not_counted():
    run = Run(
        "initial: a\nstages: {a: {kind: train, duration: 9 tokens, next: b}, b: {kind: final}}"
    )
    for _ in range(3):
        with pytest.raises(MissingFact, match=r"the graph reads tokens; give step\(tokens=\)"):
            run.step(samples=5, epoch=0.5)
    assert run.core.progress.step == run.core.progress.samples == 0
    run.step(3, tokens=3)
    assert run.core.done and run.core.state.spent.step == 3


def test_progress_may_jump():
    document = """
initial: a
stages:
  a: {kind: train, duration: 1k samples, next: b}
  b: {kind: train, duration: 1 epoch, next: c}
  c: {kind: final}
"""
    run = Run(document).step(samples=10**9, epoch=0.5).step(samples=1, epoch=Fraction(7))
    assert [boundary for boundary, _ in run.moves] == [1, 2]
    assert run.core.progress.samples == 10**9 + 1


def test_counts_beyond_what_a_float_can_hold_stay_exact():
    run = Run("budget: {steps: 50}\ninitial: a\nstages: {a: {kind: train}}")
    run.step(9, tokens=2**53 + 1)
    assert run.core.progress.tokens == 9 * (2**53 + 1)
    assert run.resumed().core.progress.tokens == 9 * (2**53 + 1)


def test_leap_of_the_clock_is_told_and_counts():
    now = [0.0]
    document = PLAIN.replace("m < 1", "m < 1 or step > 0 and n < 0")
    run = Run(document, clock=lambda: now[0])
    for n in range(1, 12):
        now[0] += 3600.0 if n == 8 else 2.0
        run.step(m=2.0, n=1.0)
        run.core.explain()
    (leap,) = run.of_type("clock")
    assert (leap["step"], leap["seconds"], leap["usual"], leap["updates"]) == (8, 3600.0, 2.0, 1)
    assert run.core.progress.seconds == pytest.approx(3618)


def test_slow_updates_are_no_leap():
    now = [0.0]
    run = Run(PLAIN, clock=lambda: now[0])
    for n in range(1, 30):
        now[0] += 50.0 * n
        run.step(m=2.0)
        run.core.explain()
    assert run.of_type("clock") == []


def test_clock_that_goes_back_stands_still():
    now = [100.0]
    run = Run(PLAIN, clock=lambda: now[0])
    for seconds in (100.0, 90.0, 95.0):
        now[0] = seconds
        run.step(m=2.0)
        run.core.explain()
    assert run.core.progress.seconds == 5.0


# States of earlier versions


def test_state_without_these_counts_still_loads():
    run = Run(PLAIN).step(5, m=2.0)
    state = run.core.state_dict()
    state["engine"]["metrics"] = {n: v[:4] for n, v in state["engine"]["metrics"].items()}
    del state["engine"]["asked"]
    other = Run(PLAIN)
    other.core.load_state_dict(json.loads(json.dumps(state)))
    assert other.core.state.metrics["m"] == MetricState(2.0, 2.0, 2.0, 5)
    assert isinstance(other.core.state, State)
    assert other.step(m=0.5).moves == [(6, "main:a.transitions[0]")]
