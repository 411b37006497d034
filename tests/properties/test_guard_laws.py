"""The closures that are asked and the trace that is told give one answer (laws 9 and 11)."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagegraph.engine.conditions import compile_guard
from stagegraph.engine.trace import trace
from stagegraph.engine.values import SlotTable
from stagegraph.schema.guard_text import parse_guard
from stagegraph.schema.guards import Not

_NUMBERS = ("metric", "fact", "last", "best", "nonfinite", "left")
names = st.sampled_from(["m", "n", "step", "last(m)", "left(steps)", "best(n)", "nonfinite(m)"])
constants = st.sampled_from(["0", "1", "2", "0.5", "3", "1e15", "1e-15"])
operators = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
flags = st.sampled_from(
    [
        "in(a)",
        "done(a)",
        "event(e)",
        "elapsed(3 steps)",
        "completed()",
        "plateau(m, patience=3 steps)",
        "affordable(g)",
        "harmful(m, by=1%)",
    ]
)


def compound(inner):
    return st.builds("({} {} {})".format, inner, st.sampled_from("+-*/"), inner) | inner.map(
        "(-{})".format
    )


numbers = st.recursive(names | constants, compound, max_leaves=5)
comparisons = st.builds("({} {} {})".format, numbers, operators, numbers) | st.builds(
    "({} {} {} {} {})".format, numbers, operators, numbers, operators, numbers
)


def joined(inner):
    several = st.lists(inner, min_size=2, max_size=5)
    return (
        inner.map("(not {})".format)
        | several.map(lambda parts: f"({' and '.join(parts)})")
        | several.map(lambda parts: f"({' or '.join(parts)})")
    )


guards = st.recursive(comparisons | flags, joined, max_leaves=8)
slot_values = st.sampled_from(
    [math.nan, 0.0, -0.0, 1.0, 2.0, 0.5, 3.0, -1.0, 1e300, -1e300, 5e-324]
) | st.floats(allow_nan=False, allow_infinity=False)
flag_values = st.sampled_from([0.0, 1.0, math.nan])


@st.composite
def asked(draw):
    """A guard, its closure's answer, and its trace's, on one frame."""
    guard = parse_guard(draw(guards))
    table = SlotTable()
    condition = compile_guard(guard, "s", table)
    opposite = compile_guard(Not(type="not", of=guard), "s", table)
    frame = {
        slot: draw(slot_values if slot.kind in _NUMBERS else flag_values) for slot in table.slots
    }
    numbers_in_order = [frame[slot] for slot in table.slots]
    tree = trace(guard, "s", frame.__getitem__, lambda slot: None)
    return condition, opposite, numbers_in_order, tree["value"], condition.slots, frame


def closures_say_true_where_the_trace_does(case):
    condition, opposite, frame, value, _, _ = case
    assert condition.test(frame) is (value is True)
    assert opposite.test(frame) is (value is False), "not of unknown is unknown"


@settings(max_examples=200)
@given(asked())
def test_closures_say_true_where_the_trace_does(case):
    closures_say_true_where_the_trace_does(case)


@pytest.mark.slow
@settings(max_examples=6000)
@given(asked())
def test_closures_say_true_where_the_trace_does_in_many_guards(case):
    closures_say_true_where_the_trace_does(case)


@settings(max_examples=300)
@given(st.builds("{} {} {}".format, names, operators, numbers), slot_values)
def test_comparison_with_an_unknown_is_true_in_no_polarity(text, value):
    guard = parse_guard(text)
    for positive in (guard, Not(type="not", of=guard)):
        table = SlotTable()
        condition = compile_guard(positive, "s", table)
        for at in range(len(table.slots)):
            frame = [value] * len(table.slots)
            frame[at] = math.nan
            assert not condition.test(frame)


@settings(max_examples=300)
@given(asked(), st.data())
def test_intervals_tell_every_change_of_a_guard_without_arithmetic(case, data):
    """Between the bounds of its intervals no slot can change what a guard says."""
    condition, _, frame, _, _, _ = case
    if not condition.intervals or condition.restless or not frame:
        return
    if {interval.slot for interval in condition.intervals} != set(condition.slots):
        return
    at = data.draw(st.sampled_from(sorted(condition.slots)))
    bounds = [i for i in condition.intervals if i.slot == at]
    moved = data.draw(slot_values)
    inside = [i.low <= frame[at] <= i.high for i in bounds]
    if inside == [i.low <= moved <= i.high for i in bounds]:
        after = [*frame[:at], moved, *frame[at + 1 :]]
        assert condition.test(after) == condition.test(frame)
