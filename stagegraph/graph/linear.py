"""Comparisons as constraints: ``left(steps) <= 6000`` is ``spent(steps) >= 14000``.

Exact arithmetic over named quantities, so that two spellings of one condition are one constraint
and constraints on the same quantity can be set against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from stagegraph.schema.expressions import (
    Arithmetic,
    Best,
    Gain,
    Last,
    Left,
    NameExpr,
    Negative,
    Nonfinite,
    Spent,
    Visits,
)
from stagegraph.schema.guard_text import format_guard
from stagegraph.schema.guards import Compare
from stagegraph.schema.names import PROGRESS_NAMES
from stagegraph.schema.stagegraph import Budget

__all__ = ["Constraint", "Interval", "budget_of", "constraint", "is_known"]

_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_NEGATED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}
_WHOLE = (
    *("step", "samples", "tokens", "params", "visits(", "nonfinite("),
    *("spent(steps)", "elapsed(steps)"),
)
_KNOWN = ("spent(", "visits(", "nonfinite(", "elapsed(")

Form = tuple[tuple[str, Fraction], ...]
"""A sum of quantities with their factors; the first factor is 1."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """A sum of quantities compared with a number.

    Attributes:
        form: The quantities, sorted; empty if the comparison is between numbers alone.
        op: The comparison.
        bound: The number.
        doubtful: What it reads that may be unknown, even where that cancels out.
    """

    form: Form
    op: str
    bound: Fraction
    doubtful: frozenset[str] = frozenset()

    def negated(self) -> Constraint:
        """What holds when this does not."""
        return Constraint(self.form, _NEGATED[self.op], self.bound, self.doubtful)

    @property
    def constant(self) -> bool | None:
        """Its truth, if it reads nothing."""
        return None if self.form else not Interval.of(self.op, self.bound).excludes(Fraction(0))

    @property
    def grows_true(self) -> bool:
        """Whether it comes true for good when its quantities only grow."""
        return self.op in (">", ">=") and all(factor > 0 for _, factor in self.form)


@dataclass(slots=True)
class Interval:
    """The numbers that several constraints leave over."""

    low: Fraction | None = None
    high: Fraction | None = None
    low_open: bool = False
    high_open: bool = False
    holes: set[Fraction] = field(default_factory=set)

    @classmethod
    def of(cls, op: str, bound: Fraction) -> Interval:
        """The numbers that one comparison allows."""
        interval = cls()
        interval.narrow(op, bound)
        return interval

    def narrow(self, op: str, bound: Fraction) -> None:
        """Keep only what also satisfies a comparison."""
        if op in (">", ">=", "=="):
            is_open = op == ">"
            if self.low is None or bound > self.low or (bound == self.low and is_open):
                self.low, self.low_open = bound, is_open
        if op in ("<", "<=", "=="):
            is_open = op == "<"
            if self.high is None or bound < self.high or (bound == self.high and is_open):
                self.high, self.high_open = bound, is_open
        if op == "!=":
            self.holes.add(bound)

    def excludes(self, value: Fraction) -> bool:
        """Whether a number is not among them."""
        if value in self.holes:
            return True
        if self.low is not None and (value < self.low or (value == self.low and self.low_open)):
            return True
        return self.high is not None and (
            value > self.high or (value == self.high and self.high_open)
        )

    def is_empty(self, *, whole: bool) -> bool:
        """Whether nothing is left, among the whole numbers if only those count."""
        if self.low is None or self.high is None:
            return False
        low, high = self.low, self.high
        if whole:
            first = -((-low.numerator) // low.denominator)
            last = high.numerator // high.denominator
            first += self.low_open and first == low
            last -= self.high_open and last == high
            return first > last or (
                last - first < 8 and all(n in self.holes for n in range(first, last + 1))
            )
        return low > high or (low == high and self.excludes(low))


def is_whole(form: Form) -> bool:
    """Whether a sum of quantities is always a whole number."""
    return all(factor.denominator == 1 and name.startswith(_WHOLE) for name, factor in form)


def is_known(quantity: str) -> bool:
    """Whether a quantity always has a value; metrics and quotients may have none."""
    return quantity in PROGRESS_NAMES or quantity.startswith(_KNOWN)


def budget_of(budget: Budget, amount: str) -> Fraction | None:
    """How much of something a budget allows, exactly."""
    value = getattr(budget, amount, None)
    return None if value is None else Fraction(str(value))


def constraint(compare: Compare, budget: Budget) -> Constraint:
    """A comparison as a constraint, quantities on the left and a number on the right."""
    sides = _linear(compare.left, budget)
    _add(sides, _linear(compare.right, budget), Fraction(-1))
    number = -sides.pop("", Fraction(0))
    terms = sorted((name, factor) for name, factor in sides.items() if factor)
    doubtful = frozenset(name for name in sides if not is_known(name))
    if not terms:
        return Constraint((), _FLIPPED[compare.op], -number, doubtful)
    scale = terms[0][1]
    form = tuple((name, factor / scale) for name, factor in terms)
    op = compare.op if scale > 0 else _FLIPPED[compare.op]
    return Constraint(form, op, number / scale, doubtful)


def _add(into: dict[str, Fraction], more: Mapping[str, Fraction], factor: Fraction) -> None:
    for name, value in more.items():
        into[name] = into.get(name, Fraction(0)) + factor * value


def _linear(node: Any, budget: Budget) -> dict[str, Fraction]:
    """An expression as factors by quantity; the number alone stands under ``""``."""
    match node:
        case NameExpr():
            return {node.name: Fraction(1)}
        case Last() | Best() | Nonfinite() | Gain() | Visits():
            return {format_guard(node): Fraction(1)}
        case Spent():
            return {_spent(node.amount): Fraction(1)}
        case Left():
            limit = budget_of(budget, node.amount)
            if limit is None:
                return {format_guard(node): Fraction(1)}
            return {"": limit, _spent(node.amount): Fraction(-1)}
        case Negative():
            return {name: -factor for name, factor in _linear(node.of, budget).items()}
        case Arithmetic():
            return _combined(node, budget)
    return {"": Fraction(str(node))}


def _spent(amount: str) -> str:
    return "params" if amount == "params" else f"spent({amount})"


def _combined(node: Arithmetic, budget: Budget) -> dict[str, Fraction]:
    left, right = _linear(node.left, budget), _linear(node.right, budget)
    if node.op in ("+", "-"):
        _add(left, right, Fraction(1 if node.op == "+" else -1))
        return left
    if node.op == "*" and set(left) <= {""}:
        left, right = right, left
    if set(right) <= {""}:
        factor = right.get("", Fraction(0))
        if node.op == "*":
            return {name: value * factor for name, value in left.items()}
        if factor:
            return {name: value / factor for name, value in left.items()}
    return {format_guard(node): Fraction(1)}
