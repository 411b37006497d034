"""Conditions: guard trees as closures over frames, specialised by shape.

``not`` is pushed to the leaves, and a leaf is an interval test on one slot wherever it can be:
``x < 3`` is ``-inf <= x <= 2.999…``. A closure answers "is it true?"; unknown is not true in
either polarity, which is all that an edge asks (law 11).
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stagegraph.engine.slots import Slot, moves_with_time
from stagegraph.engine.values import (
    Frame,
    SlotTable,
    Test,
    Value,
    between,
    compile_number,
    fold,
    memory_key,
    number_slot,
    scaled_slot,
    slots_of,
)
from stagegraph.schema.base import Model
from stagegraph.schema.expressions import Arithmetic
from stagegraph.schema.guards import (
    Affordable,
    All,
    Any_,
    Compare,
    Completed,
    Done,
    Elapsed,
    EventSeen,
    Exhausted,
    Harmful,
    Improved,
    InStage,
    Not,
    Plateau,
    Recovered,
    Regressed,
    Unstable,
)

__all__ = ["Condition", "Interval", "compile_guard", "leaf_slot", "memory_key"]

INF = math.inf
LARGEST = sys.float_info.max


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


def leaf_slot(leaf: Model, scope: str) -> Slot | None:
    """The slot in which a leaf that is no comparison finds its answer."""
    match leaf:
        case Plateau() | Regressed() | Recovered() | Improved() | Unstable():
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
        case Exhausted():
            return Slot("exhausted", leaf.stage)
        case Harmful():
            return Slot("harmful", f"{leaf.metric} {leaf.by!r}")
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
    table.scope = scope
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
    left, right = fold(guard.left), fold(guard.right)
    if isinstance(left, float) and isinstance(right, Model):
        left, right, op = right, left, _MIRRORED[op]
    slot = number_slot(left, table.scope) if isinstance(left, Model) else None
    if slot is not None and isinstance(right, float) and math.isfinite(right):
        return _against_constant(table.index(slot), op, right)
    read = slots_of(left, table) | slots_of(right, table)
    restless = any(moves_with_time(slot) for slot, index in table.slots.items() if index in read)
    test = _against_number(left, op, right, table) or _against_slot(left, op, right, table)
    return Condition(test or _general(left, op, right, table), (), frozenset(read), restless)


def _general(left: Model | float, op: str, right: Model | float, table: SlotTable) -> Test:
    first, second = compile_number(left, table), compile_number(right, table)
    compare = _COMPARE[op]

    def general(frame: Frame) -> bool:
        a, b = first(frame), second(frame)
        return -INF < a < INF and -INF < b < INF and compare(a, b)

    return general


def _bounds(op: str, constant: float) -> tuple[float, float] | None:
    """The interval in which a number compares so with a constant; ``None`` if it is not one."""
    match op:
        case "<":
            return -INF, math.nextafter(constant, -INF)
        case "<=":
            return -INF, constant
        case ">":
            return math.nextafter(constant, INF), INF
        case ">=":
            return constant, INF
        case "==":
            return constant, constant
    return None


def _against_constant(index: int, op: str, constant: float) -> Condition:
    bounds = _bounds(op, constant)
    if bounds is not None:
        return _interval(Interval(index, *bounds))
    outside = [_bounds("<", constant), _bounds(">", constant)]
    return _join([_interval(Interval(index, *side)) for side in outside if side], every=False)


def _against_number(
    left: Model | float, op: str, right: Model | float, table: SlotTable
) -> Test | None:
    """``x + y < 3`` as one closure; ``None`` for other shapes."""
    if not isinstance(left, Arithmetic) or not isinstance(right, float):
        return None
    bounds = _bounds(op, right) if math.isfinite(right) else None
    if bounds is None:
        return None
    low, high = max(bounds[0], -LARGEST), min(bounds[1], LARGEST)
    return between(left, low, high, table)


def _against_slot(
    left: Model | float, op: str, right: Model | float, table: SlotTable
) -> Test | None:
    """``x < y``, ``x < k * y`` and ``x + 1 < y`` as one closure; ``None`` for other shapes.

    A slot's number is finite or NaN, so only what is computed can run over, and then the answer
    is unknown.
    """
    if not isinstance(left, Model) or not isinstance(right, Model):
        return None
    slot, other = number_slot(left, table.scope), number_slot(right, table.scope)
    if slot is not None and other is not None:
        return _slots_test(table.index(slot), op, table.index(other))
    scaled = scaled_slot(right, table)
    if slot is not None and scaled is not None:
        return _scaled_test(table.index(slot), op, *scaled)
    if slot is not None:
        return _value_test(compile_number(right, table), _MIRRORED[op], table.index(slot))
    if other is not None:
        return _value_test(compile_number(left, table), op, table.index(other))
    return None


def _slots_test(i: int, op: str, j: int) -> Test | None:
    match op:
        case "<":
            return lambda frame: frame[i] < frame[j]
        case "<=":
            return lambda frame: frame[i] <= frame[j]
        case ">":
            return lambda frame: frame[i] > frame[j]
        case ">=":
            return lambda frame: frame[i] >= frame[j]
        case "==":
            return lambda frame: frame[i] == frame[j]
    return None


def _scaled_test(i: int, op: str, j: int, k: float) -> Test | None:
    match op:
        case "<":
            return lambda frame: frame[i] < frame[j] * k < INF
        case "<=":
            return lambda frame: frame[i] <= frame[j] * k < INF
        case ">":
            return lambda frame: frame[i] > frame[j] * k > -INF
        case ">=":
            return lambda frame: frame[i] >= frame[j] * k > -INF
    return None


def _value_test(value: Value, op: str, j: int) -> Test | None:
    match op:
        case "<":
            return lambda frame: -INF < value(frame) < frame[j]
        case "<=":
            return lambda frame: -INF < value(frame) <= frame[j]
        case ">":
            return lambda frame: frame[j] < value(frame) < INF
        case ">=":
            return lambda frame: frame[j] <= value(frame) < INF
    return None


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
    tests: list[Test] = []
    rest = list(parts)
    while rest:
        fused = _fuse(rest[0], rest[1], every=every) if len(rest) > 1 else None
        tests.append(rest[0].test if fused is None else fused)
        del rest[: 1 if fused is None else 2]
    return _all_of(tests) if every else _any_of(tests)


def _all_of(tests: Sequence[Test]) -> Test:
    match tests:
        case [only]:
            return only
        case [first, second]:
            return lambda frame: first(frame) and second(frame)
        case [first, second, third]:
            return lambda frame: first(frame) and second(frame) and third(frame)
    half = len(tests) // 2
    return _all_of([_all_of(tests[:half]), _all_of(tests[half:])])


def _any_of(tests: Sequence[Test]) -> Test:
    match tests:
        case [only]:
            return only
        case [first, second]:
            return lambda frame: first(frame) or second(frame)
        case [first, second, third]:
            return lambda frame: first(frame) or second(frame) or third(frame)
    half = len(tests) // 2
    return _any_of([_any_of(tests[:half]), _any_of(tests[half:])])


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
