"""What can be proved of guards: contradictions, certainty, implication, and no more than that."""

from __future__ import annotations

from fractions import Fraction

import pytest

from stagegraph.graph.compile import compile_graph
from stagegraph.graph.linear import Interval, constraint
from stagegraph.graph.truth import Truth
from stagegraph.schema.guard_text import parse_guard
from stagegraph.schema.load import load
from stagegraph.schema.stagegraph import Budget

BUDGET = Budget(steps=20_000, params=3_000_000)


def truth_of(*guards: str, **train):
    """The truth of a graph whose first stage has these transitions, with that stage."""
    graph = load(
        {
            "stagegraph": 1,
            "name": "guards",
            "metrics": {"loss": {"goal": "minimize", "every": "10 steps"}},
            "events": ["go"],
            "budget": {"steps": 20_000, "params": 3_000_000},
            "regions": {
                "main": {
                    "initial": "train",
                    "stages": {
                        "train": {
                            "kind": "train",
                            "transitions": [{"target": "other", "when": text} for text in guards],
                            **train,
                        },
                        "other": {"kind": "train"},
                        "done": {"kind": "final"},
                    },
                },
                "data": {
                    "initial": "easy",
                    "stages": {"easy": {"kind": "train"}, "hard": {"kind": "train"}},
                },
            },
        }
    )
    compiled, _ = compile_graph(graph)
    stage = compiled.stages["main:train"]
    return Truth(compiled), stage.ways, stage


@pytest.mark.parametrize(
    "guard",
    [
        "loss < 1 and loss > 2",
        "loss < 1 and not loss < 1",
        "loss < loss - 1 or 2 < 1",
        "left(steps) > 6k and spent(steps) > 14k",
        "loss < best(loss) * 2 and loss > 2 * best(loss)",
        "visits(train) < 1",
        "visits(train) > 2 and visits(train) < 3",
        "in(data:easy) and in(data:hard)",
        "done(data)",
        "done(main)",
        "in(other)",
        "in(data:hard) and not in(data:hard)",
        "step < 0",
        "not elapsed(1 step)",
        "elapsed(9 steps) and not elapsed(9 steps)",
        "event(go) and not (loss < 3 or event(go))",
        "loss == 1 and loss != 1",
    ],
)
def test_contradictions_are_proved(guard):
    truth, (edge,), stage = truth_of(guard)
    assert truth.never(edge, stage, limited=False)


@pytest.mark.parametrize(
    "guard",
    [
        "loss < 2 and loss > 1",
        "loss < 1 or loss > 2",
        "loss < 1 and last(loss) > 2",
        "left(steps) > 6k and spent(steps) < 14k",
        "visits(other) > 2 and visits(other) <= 3",
        "in(data:easy) or in(data:hard)",
        "in(train)",
        "not done(data)",
        "loss / best(loss) > 2 and loss < 1",
        "loss * loss < 0",
        "plateau(loss, worth=1%) and not plateau(loss, worth=2%)",
        "step >= 50k",
        "loss == 1",
    ],
)
def test_what_may_be_true_in_some_run_is_left_alone(guard):
    truth, (edge,), stage = truth_of(guard)
    assert truth.never(edge, stage, limited=False) is None


@pytest.mark.parametrize(
    ("guard", "train"),
    [
        ("step > 20k", {}),
        ("left(steps) < 0", {}),
        ("left(params) < 0", {}),
        ("elapsed(10 steps)", {"duration": "9 steps", "next": "done"}),
        ("elapsed(10 steps)", {"min_duration": "5 steps", "duration": "9 steps", "next": "done"}),
    ],
)
def test_budgets_and_durations_bound_what_is_reached(guard, train):
    truth, ways, stage = truth_of(guard, **train)
    assert truth.never(ways[0], stage, limited=False) is None
    assert truth.never(ways[0], stage, limited=True)


@pytest.mark.parametrize(
    ("guard", "train"),
    [
        ("step >= 20k", {}),
        ("elapsed(9 steps)", {"duration": "9 steps", "next": "done"}),
        ("elapsed(2 epochs)", {"duration": "9 steps", "next": "done"}),
        ("elapsed(10 steps)", {"min_duration": "1 epoch", "duration": "9 steps", "next": "done"}),
    ],
)
def test_the_last_boundary_counts(guard, train):
    truth, ways, stage = truth_of(guard, **train)
    assert truth.never(ways[0], stage, limited=True) is None


@pytest.mark.parametrize(
    ("guard", "holds"),
    [
        ("step >= 0", True),
        ("visits(train) >= 1", True),
        ("in(train) and not in(other)", True),
        ("elapsed(1 step)", True),
        ("step <= 20k", True),
        ("loss < 1 or loss >= 1", False),  # it may be unknown
        ("loss == loss", False),  # the same
        ("step / 2 >= 0", True),
        ("step >= 1", False),
        ("not event(go) or event(go)", True),
    ],
)
def test_always_true_needs_certainty(guard, holds):
    truth, (edge,), stage = truth_of(guard)
    assert truth.always(edge, stage, limited=True) is holds


@pytest.mark.parametrize(
    ("earlier", "later", "covered"),
    [
        ("loss < 1", "loss < 0.5", True),
        ("loss < 0.5", "loss < 1", False),
        ("loss < 1", "loss < 1 and step > 9", True),
        ("loss < 1 or step > 5", "step > 9", True),
        ("loss < 1 or loss >= 1", "step > 9", False),  # the first may be unknown
        ("loss < 1 or loss >= 1", "step > 9 and loss > 7", True),
        ("plateau(loss, worth=1%)", "plateau(loss, worth=1%) and in(data:hard)", True),
        ("plateau(loss, worth=1%)", "plateau(loss, worth=2%)", False),
        ("elapsed(5 steps)", "elapsed(9 steps)", True),
        ("elapsed(5 steps)", "elapsed(9 epochs)", False),
        ("last(loss) < 1", "loss < 1", False),
        ("left(steps) <= 9k", "spent(steps) >= 12k", True),
    ],
)
def test_an_earlier_way_covers_what_it_implies(earlier, later, covered):
    truth, (first, second), stage = truth_of(earlier, later)
    assert truth.covers(first, second, stage) is covered


@pytest.mark.parametrize(
    ("text", "form", "op", "bound"),
    [
        ("left(steps) <= 6k", [("spent(steps)", 1)], ">=", 14_000),
        ("left(params) > 1M", [("params", 1)], "<", 2_000_000),
        ("2 * a < b + 3", [("a", 1), ("b", Fraction(-1, 2))], "<", Fraction(3, 2)),
        ("-a >= 0.1", [("a", 1)], "<=", Fraction(-1, 10)),
        ("a / 4 == 0.5", [("a", 1)], "==", 2),
        ("(a - 1) * 3 > 2 * a", [("a", 1)], ">", 3),
    ],
)
def test_comparisons_become_linear(text, form, op, bound):
    found = constraint(parse_guard(text), BUDGET)
    assert (list(found.form), found.op, found.bound) == (form, op, bound)


@pytest.mark.parametrize(
    ("text", "truth"), [("1 < 2", True), ("2 < 1", False), ("2 >= 2", True), ("a - a != 0", False)]
)
def test_numbers_alone_are_true_or_false(text, truth):
    assert constraint(parse_guard(text), BUDGET).constant is truth


@pytest.mark.parametrize(
    ("parts", "whole", "empty"),
    [
        ([(">", 1), ("<", 2)], False, False),
        ([(">", 1), ("<", 2)], True, True),
        ([(">=", 1), ("<=", 1)], False, False),
        ([(">=", 1), ("<", 1)], False, True),
        ([("==", 1), ("!=", 1)], False, True),
        ([(">=", 1), ("<=", 2), ("!=", 1), ("!=", 2)], True, True),
        ([(">=", 1)], True, False),
    ],
)
def test_intervals_know_when_they_are_empty(parts, whole, empty):
    interval = Interval()
    for op, bound in parts:
        interval.narrow(op, Fraction(bound))
    assert interval.is_empty(whole=whole) is empty
