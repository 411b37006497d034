"""Progress in every unit: what is counted, and when a duration is due (S1)."""

from fractions import Fraction

import pytest

from stagegraph.errors import MissingFact, ProgressError
from tests.engine.driving import Run


def lasting(duration):
    stages = f"{{a: {{kind: train, duration: {duration}, next: b}}, b: {{kind: final}}}}"
    return f"initial: a\nstages: {stages}\n"


@pytest.mark.parametrize(
    ("duration", "given", "due"),
    [
        ("5 steps", {}, 5),
        ("100 samples", {"samples": 30}, 4),
        ("90 samples", {"samples": 30}, 3),
        ("1k tokens", {"tokens": 300}, 4),
        ("1 min", {"seconds": 7.5}, 8),
    ],
)
def test_duration_is_due_when_its_amount_is_reached(duration, given, due):
    assert Run(lasting(duration)).step(due + 2, **given).moves == [(due, "main:a.next")]


@pytest.mark.parametrize(
    ("epochs", "per_epoch", "due"),
    [("1 epoch", 10, 10), ("0.3 epochs", 10, 3), ("0.1 epochs", 30, 3), ("2.5 epochs", 3, 8)],
)
def test_epochs_are_exact_fractions(epochs, per_epoch, due):
    for epoch in (lambda n: Fraction(n, per_epoch), lambda n: n / per_epoch):
        run = Run(lasting(epochs))
        for n in range(1, due + 2):
            run.step(epoch=epoch(n))
        assert run.moves == [(due, "main:a.next")]


def test_ten_tenths_of_an_epoch_are_one_epoch():
    run = Run(lasting("1 epoch"))
    epoch = 0.0
    for _ in range(10):
        epoch += 0.1
        run.step(epoch=epoch)
    assert epoch < 1 and run.core.progress.epoch == 1 and run.core.done


def test_seconds_come_from_the_clock_evaluation_and_boundaries_included():
    now = [0.0]

    def clock():
        now[0] += 0.25  # looking at the clock takes its time, too
        return now[0]

    run = Run(lasting("1 h"), clock=clock)
    run.core.start()
    begin = now[0]
    for _ in range(7):
        now[0] += 1.0
        run.step()
        now[0] += 2.0
        run.core.observe()
    counted = run.core.progress.seconds
    assert counted == pytest.approx(now[0] - begin, abs=0.5)
    assert counted >= 7 * 3.0


def test_clock_and_elapsed_read_progress_on_the_present_branch():
    run = Run("""
initial: a
stages:
  a: {kind: train, duration: 3 steps, next: b}
  b: {kind: train, transitions: [{target: c, when: elapsed(2 steps) and step >= 4}]}
  c: {kind: train, transitions: [{target: d, when: step > 6.5}]}
  d: {kind: train, transitions: [{target: e, when: 9 > step * 1 and step * 2 > 15}]}
  e: {kind: final}
""")
    run.step(9)
    assert [boundary for boundary, _ in run.moves] == [3, 5, 7, 8]


@pytest.mark.parametrize(
    ("when", "due"),
    [
        ("left(steps) <= 6", 4),
        ("left(steps) < 6", 5),
        ("spent(steps) == 3", 3),
        ("spent(steps) > 3", 4),
        ("not step < 7", 7),
        ("step != 0", 1),
        ("2 <= step <= 3", 2),
        ("left(steps) + 1 == 8", 3),
        ("step / 2 >= 2.5", 5),
        ("step - 1 > 3 or step == 3", 3),
        ("any_of", 2),
    ],
)
def test_guards_on_time_fire_at_their_first_boundary(when, due):
    if when == "any_of":
        when = "step > 100 or samples >= 20 or seconds > 50"
    run = Run(
        "budget: {steps: 10}\ninitial: a\nstages: "
        f"{{a: {{kind: train, transitions: [{{target: b, when: '{when}'}}]}}, b: {{kind: final}}}}"
    )
    run.step(9, samples=10)
    assert run.moves == [(due, "main:a.transitions[0]")]


def test_progress_shows_what_no_look_has_absorbed_yet():
    run = Run(lasting("100 steps")).step(7, samples=3, tokens=2)
    progress = run.core.progress
    assert (progress.step, progress.samples, progress.tokens) == (7, 21, 14)
    assert run.core.state.clock.step < 7


@pytest.mark.parametrize(
    ("duration", "message"),
    [
        ("100 samples", r"the graph reads samples; give step\(samples=\)"),
        ("100 tokens", r"the graph reads tokens; give step\(tokens=\)"),
        ("3 epochs", r"the graph reads epochs; give step\(epoch= \(or loop over engine.epochs"),
    ],
)
def test_fact_that_nobody_counts_is_missed_at_the_first_update(duration, message):
    with pytest.raises(MissingFact, match=message):
        Run(lasting(duration)).step()


def test_several_missing_facts_are_named_together():
    run = Run(f"budget: {{flops: 9, tokens: 5}}\n{lasting('9 samples')}")
    with pytest.raises(MissingFact, match=r"flops, tokens; give step\(flops=, tokens=\)"):
        run.step(samples=1)


@pytest.mark.parametrize(
    "given", [{"samples": -1}, {"tokens": -5}, {"flops": -1}, {"seconds": -1.0}]
)
def test_progress_that_goes_backwards_is_refused(given):
    with pytest.raises(ProgressError, match="progress goes backwards"):
        Run(lasting("9 steps")).step(**given)


def test_epoch_that_goes_backwards_is_refused():
    run = Run(lasting("9 epochs")).step(epoch=1.5)
    with pytest.raises(ProgressError, match=r"epoch goes backwards: 1\.25 after 1\.5"):
        run.step(epoch=1.25)


@pytest.mark.parametrize("epoch", [float("nan"), float("inf")])
def test_epoch_that_is_no_number_is_refused(epoch):
    with pytest.raises(ProgressError, match="is no number of passes"):
        Run(lasting("9 epochs")).step(epoch=epoch)


ROLLING = """
initial: a
stages:
  a: {kind: train, duration: 2 steps, next: b}
  b:
    kind: train
    actions: [{type: snapshot, name: s}]
    duration: 1 epoch
    next: done
    transitions:
      - {target: b, when: step == 5, at_most: 1, actions: [{type: roll_back, to: s, data: skip}]}
  done: {kind: final}
"""


def test_hosts_reading_of_epochs_need_not_go_back_at_a_rollback():
    run = Run(ROLLING)
    for n in range(1, 12):
        run.step(epoch=Fraction(n, 4))
    assert run.of_type("roll_back", "boundary", "to") == [(5, 2)]
    assert run.moves[-1] == (9, "main:b.next"), "an epoch is four updates after the return"
    assert run.core.state.clock.epoch == Fraction(6, 4)
    assert run.core.state.spent.epoch == Fraction(9, 4)


def test_host_that_rewinds_its_epochs_is_followed_back():
    run = Run(ROLLING)
    for n in (1, 2, 3, 4, 5, 3, 4):
        run.step(epoch=Fraction(n, 4))
    assert run.core.progress.epoch == Fraction(4, 4)
