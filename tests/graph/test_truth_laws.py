"""What is proved of guards holds for every value of what they read (by plain evaluation)."""

from __future__ import annotations

import operator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stagegraph.schema.expressions import Arithmetic, Negative, Visits
from stagegraph.schema.guard_text import format_guard
from stagegraph.schema.guards import All, Any_, Compare, Elapsed, Not
from tests.graph.test_truth import truth_of

OPS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
NUMBERS = ("loss", "last(loss)", "spent(steps)", "step", "visits(other)", "left(steps)")
TERMS = (*NUMBERS, "1", "2", "3", "2 * step", "3 - loss", "step / 2", "loss / step", "step * loss")
LEAVES = ("event(go)", "in(data:easy)", "in(data:hard)", "plateau(loss, worth=1%)")

terms = st.sampled_from(TERMS)
leaf = st.one_of(
    st.builds(lambda a, op, b: f"{a} {op} {b}", terms, st.sampled_from(tuple(OPS)), terms),
    st.sampled_from((*LEAVES, "elapsed(2 steps)", "elapsed(3 steps)")),
)
guards = st.recursive(
    leaf,
    lambda inner: st.one_of(
        inner.map(lambda g: f"not ({g})"),
        st.tuples(inner, inner).map(lambda gs: f"({gs[0]}) and ({gs[1]})"),
        st.tuples(inner, inner).map(lambda gs: f"({gs[0]}) or ({gs[1]})"),
    ),
    max_leaves=6,
)
metric = st.one_of(st.none(), st.integers(-2, 5).map(float))
worlds = st.fixed_dictionaries(
    {
        "loss": metric,
        "last(loss)": metric,
        "step": st.integers(0, 5),
        "spent(steps)": st.integers(0, 5),
        "visits(main:other)": st.integers(0, 5),
        "elapsed": st.integers(1, 5),
        "event(go)": st.booleans(),
        "place": st.sampled_from(("data:easy", "data:hard")),
        "plateau(loss, worth=0.01, over=80 steps)": st.one_of(st.none(), st.booleans()),
    }
)


def value(node: Any, world: dict[str, Any]) -> float | None:
    if isinstance(node, int | float):
        return node
    if isinstance(node, Negative):
        inner = value(node.of, world)
        return None if inner is None else -inner
    if isinstance(node, Arithmetic):
        left, right = value(node.left, world), value(node.right, world)
        if left is None or right is None or (node.op == "/" and right == 0):
            return None
        ops = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
        return ops[node.op](left, right)
    if isinstance(node, Visits):
        return world[f"visits({node.stage})"]
    text = format_guard(node)
    return 20_000 - world["spent(steps)"] if text == "left(steps)" else world[text]


def holds(node: Any, world: dict[str, Any]) -> bool | None:
    if isinstance(node, Not):
        inner = holds(node.of, world)
        return None if inner is None else not inner
    if isinstance(node, All | Any_):
        parts = [holds(part, world) for part in node.of]
        strong = isinstance(node, Any_)
        return strong if strong in parts else None if None in parts else not strong
    if isinstance(node, Compare):
        left, right = value(node.left, world), value(node.right, world)
        return None if left is None or right is None else OPS[node.op](left, right)
    if isinstance(node, Elapsed):
        return world["elapsed"] >= node.duration.amount
    text = format_guard(node)
    return world["place"] == text[3:-1] if text.startswith("in(") else world[text]


@settings(max_examples=150)
@given(guards, st.lists(worlds, min_size=20, max_size=20))
def test_what_is_never_true_is_true_in_no_world(guard, many):
    truth, (edge,), stage = truth_of(guard)
    if truth.never(edge, stage, limited=False):
        assert not any(holds(edge.guard, world) for world in many)
    if truth.always(edge, stage, limited=False):
        assert all(holds(edge.guard, world) for world in many)


@settings(max_examples=150)
@given(guards, guards, st.lists(worlds, min_size=20, max_size=20))
def test_what_is_covered_is_never_true_alone(first, second, many):
    truth, (earlier, later), stage = truth_of(first, second)
    if truth.covers(earlier, later, stage):
        for world in many:
            assert holds(earlier.guard, world) or not holds(later.guard, world)
