"""Conditions: guard trees as closures over frames, specialised by shape.

``not`` is pushed to the leaves, and a leaf is an interval test on one slot wherever it can be:
``x < 3`` is ``-inf <= x <= 2.999…``. A closure answers "is it true?"; unknown is not true in
either polarity, which is all that an edge asks (law 11).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stagegraph.engine.slots import Slot, moves_with_time
from stagegraph.schema.base import Model
from stagegraph.schema.expressions import (
    Arithmetic,
    Best,
    Last,
    Left,
    NameExpr,
    Negative,
    Spent,
    Visits,
)
from stagegraph.schema.guard_text import format_guard
from stagegraph.schema.guards import (
    Affordable,
    All,
    Any_,
    Compare,
    Completed,
    Done,
    Elapsed,
    EventSeen,
    InStage,
    Not,
    Plateau,
    Regressed,
)
from stagegraph.schema.names import PROGRESS_NAMES

__all__ = ["Condition", "Frame", "Interval", "SlotTable", "compile_guard", "compile_number",
           "leaf_slot", "memory_key"]

Frame = Sequence[float]
Test = Callable[[Frame], bool]
Value = Callable[[Frame], float]

INF = math.inf
NAN = math.nan


@dataclass(frozen=True, slots=True)
class Interval:
    """The test ``low <= frame[slot] <= high``; with NaN it is false."""

    slot: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled guard.

    Attributes:
        test: True if and only if the guard is true.
        intervals: The interval tests in it.
        slots: Every slot it reads.
        restless: Whether progress alone can change it in a way that no interval tells.
        single: The interval, if the guard is nothing but one.
    """

    test: Test
    intervals: tuple[Interval, ...] = ()
    slots: frozenset[int] = frozenset()
    restless: bool = False
    single: Interval | None = None


@dataclass(slots=True)
class SlotTable:
    """The slots of one frame, numbered as they are asked for."""

    slots: dict[Slot, int] = field(default_factory=dict)

    def index(self, slot: Slot) -> int:
        """The slot's number."""
        return self.slots.setdefault(slot, len(self.slots))


def memory_key(scope: str, leaf: Model) -> str:
    """The key of a remembering leaf's memory: equal leaves of one scope share it (rule S7)."""
    return f"{scope}|{format_guard(leaf)}"


def leaf_slot(leaf: Model, scope: str) -> Slot | None:
    """The slot in which a leaf that is no comparison finds its answer."""
    match leaf:
        case Plateau() | Regressed():
            return Slot("memory", memory_key(scope, leaf))
        case Elapsed():
            return Slot("elapsed", str(leaf.duration), leaf.duration)
        case Completed():
            return Slot("completed", "")
        case InStage():
            return Slot("in", leaf.stage)
        case Done():
            return Slot("done", leaf.region)
        case EventSeen():
            return Slot("event", leaf.event)
        case Affordable():
            return Slot("affordable", leaf.stage)
    return None


def number_slot(node: Model) -> Slot | None:
    """The slot of a number that is looked up, not computed."""
    match node:
        case NameExpr():
            return Slot("fact" if node.name in PROGRESS_NAMES else "metric", node.name)
        case Last():
            return Slot("last", node.metric)
        case Best():
            return Slot("best", node.metric)
        case Spent():
            return Slot("spent", node.amount)
        case Left():
            return Slot("left", node.amount)
        case Visits():
            return Slot("visits", node.stage)
    return None


def compile_guard(guard: Model | None, scope: str, table: SlotTable) -> Condition:
    """A guard tree as a condition; none is always true.

    Args:
        guard: The tree, names resolved.
        scope: Whose memories it uses.
        table: The frame's slots; those it needs are added.
    """
    if guard is None:
        return Condition(lambda frame: True)
    return _compile(guard, scope, table, positive=True)


def _compile(guard: Model, scope: str, table: SlotTable, *, positive: bool) -> Condition:
    match guard:
        case Not():
            return _compile(guard.of, scope, table, positive=not positive)
        case All() | Any_():
            parts = [_compile(part, scope, table, positive=positive) for part in guard.of]
            return _join(parts, every=isinstance(guard, All) == positive)
        case Compare():
            return _compare(guard, table, positive=positive)
    slot = leaf_slot(guard, scope)
    assert slot is not None, f"no slot for {guard!r}"
    index = table.index(slot)
    return _interval(Interval(index, 0.5, INF) if positive else Interval(index, -INF, 0.5))


# Comparisons

_OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


def _compare(guard: Compare, table: SlotTable, *, positive: bool) -> Condition:
    op: str = guard.op if positive else _OPPOSITE[guard.op]
    left, right = _fold(guard.left), _fold(guard.right)
    if isinstance(left, float) and isinstance(right, Model):
        left, right, op = right, left, _MIRRORED[op]
    slot = number_slot(left) if isinstance(left, Model) else None
    if slot is not None and isinstance(right, float) and math.isfinite(right):
        return _against_constant(table.index(slot), op, right)
    test = _linear_test(left, op, right, table)
    first, second = compile_number(left, table), compile_number(right, table)
    read = _slots_of(left, table) | _slots_of(right, table)
    restless = any(moves_with_time(slot) for slot, index in table.slots.items() if index in read)
    compare = _COMPARE[op]

    def general(frame: Frame) -> bool:
        a, b = first(frame), second(frame)
        return -INF < a < INF and -INF < b < INF and compare(a, b)

    return Condition(test or general, slots=frozenset(read), restless=restless)


def _linear_test(
    left: Model | float, op: str, right: Model | float, table: SlotTable
) -> Test | None:
    """``x < k * y`` as one closure; ``None`` for other shapes. A slot's number is finite or NaN,
    so only the product can run over, and then the answer is unknown."""
    if not isinstance(left, Model) or not isinstance(right, Model):
        return None
    slot, scaled = number_slot(left), _scaled_slot(right)
    if slot is None or scaled is None:
        return None
    i, (other, k) = table.index(slot), scaled
    j = table.index(other)
    match op:
        case "<":
            return lambda frame: frame[i] < k * frame[j] < INF
        case "<=":
            return lambda frame: frame[i] <= k * frame[j] < INF
        case ">":
            return lambda frame: frame[i] > k * frame[j] > -INF
        case ">=":
            return lambda frame: frame[i] >= k * frame[j] > -INF
    return None


def _scaled_slot(node: Model) -> tuple[Slot, float] | None:
    """``y`` or ``k * y`` as its slot and factor."""
    slot = number_slot(node)
    if slot is not None:
        return slot, 1.0
    if isinstance(node, Arithmetic) and node.op == "*":
        for factor, inner in ((_fold(node.left), node.right), (_fold(node.right), node.left)):
            if isinstance(factor, float) and isinstance(inner, Model):
                slot = number_slot(inner)
                return None if slot is None else (slot, factor)
    return None


def _against_constant(index: int, op: str, constant: float) -> Condition:
    below, above = math.nextafter(constant, -INF), math.nextafter(constant, INF)
    match op:
        case "<":
            return _interval(Interval(index, -INF, below))
        case "<=":
            return _interval(Interval(index, -INF, constant))
        case ">":
            return _interval(Interval(index, above, INF))
        case ">=":
            return _interval(Interval(index, constant, INF))
        case "==":
            return _interval(Interval(index, constant, constant))
    outside = [Interval(index, -INF, below), Interval(index, above, INF)]
    return _join([_interval(interval) for interval in outside], every=False)


# Numbers


def _fold(node: Model | float) -> Model | float:
    """A number without variables, computed."""
    match node:
        case Negative():
            inner = _fold(node.of)
            return -inner if isinstance(inner, float) else node
        case Arithmetic():
            left, right = _fold(node.left), _fold(node.right)
            if isinstance(left, float) and isinstance(right, float):
                return _ARITHMETIC[node.op](left, right)
    return node


def _divide(a: float, b: float) -> float:
    return a / b if b else NAN


_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _divide,
}


def compile_number(node: Model | float, table: SlotTable) -> Value:
    """An expression tree as a closure; unknown is NaN."""
    node = _fold(node)
    if isinstance(node, float):
        constant = node
        return lambda frame: constant
    slot = number_slot(node)
    if slot is not None:
        return operator.itemgetter(table.index(slot))
    if isinstance(node, Negative):
        inner = compile_number(node.of, table)
        return lambda frame: -inner(frame)
    assert isinstance(node, Arithmetic), f"no number {node!r}"
    return _arithmetic(node.op, _fold(node.left), _fold(node.right), table)


def _arithmetic(
    op: str, left: Model | float, right: Model | float, table: SlotTable
) -> Value:
    if op == "*" and isinstance(left, float):
        left, right = right, left
    first = compile_number(left, table)
    if isinstance(right, float) and op != "/":
        constant = right
        match op:
            case "+":
                return lambda frame: first(frame) + constant
            case "-":
                return lambda frame: first(frame) - constant
            case "*":
                return lambda frame: first(frame) * constant
    second = compile_number(right, table)
    match op:
        case "+":
            return lambda frame: first(frame) + second(frame)
        case "-":
            return lambda frame: first(frame) - second(frame)
        case "*":
            return lambda frame: first(frame) * second(frame)
    return lambda frame: _divide(first(frame), second(frame))


def _slots_of(node: Model | float, table: SlotTable) -> set[int]:
    if isinstance(node, float):
        return set()
    slot = number_slot(node)
    if slot is not None:
        return {table.index(slot)}
    match node:
        case Negative():
            return _slots_of(node.of, table)
        case Arithmetic():
            return _slots_of(node.left, table) | _slots_of(node.right, table)
    return set()


# Shapes


def _interval(interval: Interval) -> Condition:
    slots = frozenset({interval.slot})
    return Condition(_interval_test(interval), (interval,), slots, single=interval)


def _interval_test(interval: Interval) -> Test:
    index, low, high = interval.slot, interval.low, interval.high
    if low == -INF:
        return lambda frame: frame[index] <= high
    if high == INF:
        return lambda frame: frame[index] >= low
    return lambda frame: low <= frame[index] <= high


def _join(parts: Sequence[Condition], *, every: bool) -> Condition:
    return Condition(
        _joined_test(parts, every=every),
        tuple(interval for part in parts for interval in part.intervals),
        frozenset().union(*(part.slots for part in parts)),
        any(part.restless for part in parts),
    )


def _joined_test(parts: Sequence[Condition], *, every: bool) -> Test:
    if len(parts) == 2:
        fused = _fuse(parts[0], parts[1], every=every)
        if fused is not None:
            return fused
        first, second = parts[0].test, parts[1].test
        if every:
            return lambda frame: first(frame) and second(frame)
        return lambda frame: first(frame) or second(frame)
    if len(parts) == 3:
        head = _joined_test(parts[:2], every=every)
        tail = parts[2].test
        if every:
            return lambda frame: head(frame) and tail(frame)
        return lambda frame: head(frame) or tail(frame)
    tests = tuple(part.test for part in parts)

    def test_every(frame: Frame) -> bool:
        for test in tests:
            if not test(frame):
                return False
        return True

    def test_some(frame: Frame) -> bool:
        for test in tests:
            if test(frame):
                return True
        return False

    return test_every if every else test_some


def _fuse(first: Condition, second: Condition, *, every: bool) -> Test | None:
    """Two one-sided interval tests as one closure; ``None`` for other shapes."""
    sides = [_one_sided(part) for part in (first, second)]
    if sides[0] is None or sides[1] is None:
        return None
    (i, up_i, a), (j, up_j, b) = sides[0], sides[1]
    match every, up_i, up_j:
        case True, False, False:
            return lambda frame: frame[i] <= a and frame[j] <= b
        case True, False, True:
            return lambda frame: frame[i] <= a and frame[j] >= b
        case True, True, False:
            return lambda frame: frame[i] >= a and frame[j] <= b
        case True, True, True:
            return lambda frame: frame[i] >= a and frame[j] >= b
        case False, False, False:
            return lambda frame: frame[i] <= a or frame[j] <= b
        case False, False, True:
            return lambda frame: frame[i] <= a or frame[j] >= b
        case False, True, False:
            return lambda frame: frame[i] >= a or frame[j] <= b
    return lambda frame: frame[i] >= a or frame[j] >= b


def _one_sided(part: Condition) -> tuple[int, bool, float] | None:
    interval = part.single
    if interval is None:
        return None
    if interval.low == -INF:
        return interval.slot, False, interval.high
    if interval.high == INF:
        return interval.slot, True, interval.low
    return None
