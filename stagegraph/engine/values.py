"""Values: expression trees as closures over frames, specialised by shape.

A frame is a list of floats, one per slot. Unknown is NaN, and what is computed from it is NaN by
itself; a number that runs over is unknown to whoever compares it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from stagegraph.engine.slots import Slot
from stagegraph.schema.base import Model
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
from stagegraph.schema.names import PROGRESS_NAMES

__all__ = [
    "Frame",
    "SlotTable",
    "Test",
    "Value",
    "between",
    "compile_number",
    "fold",
    "memory_key",
    "number_slot",
    "scaled_slot",
    "slots_of",
]

Frame = Sequence[float]
Test = Callable[[Frame], bool]
Value = Callable[[Frame], float]

INF = math.inf
NAN = math.nan


@dataclass(slots=True)
class SlotTable:
    """The slots of one frame, numbered as they are asked for.

    Attributes:
        slots: Their numbers.
        scope: Whose memories are meant where a number is remembered.
    """

    slots: dict[Slot, int] = field(default_factory=dict)
    scope: str = ""

    def index(self, slot: Slot) -> int:
        """The slot's number."""
        return self.slots.setdefault(slot, len(self.slots))


def memory_key(scope: str, leaf: Model) -> str:
    """The key of a remembering leaf's memory: equal leaves of one scope share it (rule S7)."""
    return f"{scope}|{format_guard(leaf)}"


def number_slot(node: Model, scope: str) -> Slot | None:
    """The slot of a number that is looked up, not computed."""
    match node:
        case NameExpr():
            return Slot("fact" if node.name in PROGRESS_NAMES else "metric", node.name)
        case Last():
            return Slot("last", node.metric)
        case Best():
            return Slot("best", node.metric)
        case Nonfinite():
            return Slot("nonfinite", node.metric)
        case Gain():
            return Slot("gain", memory_key(scope, node), node.over, node.metric)
        case Spent():
            return Slot("spent", node.amount)
        case Left():
            return Slot("left", node.amount)
        case Visits():
            return Slot("visits", node.stage)
    return None


def fold(node: Model | float) -> Model | float:
    """A number without variables, computed; any other as it is."""
    match node:
        case Negative():
            inner = fold(node.of)
            return -inner if isinstance(inner, float) else node
        case Arithmetic():
            left, right = fold(node.left), fold(node.right)
            if isinstance(left, float) and isinstance(right, float):
                return _ARITHMETIC[node.op](left, right)
    return node


def _divide(a: float, b: float) -> float:
    """An overflow is unknown for good: divided by, it would come back as zero."""
    return a / b if b and -INF < b < INF else NAN


_ARITHMETIC: Mapping[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _divide,
}

_SLOTS: Mapping[str, Callable[[int, int], Value]] = {
    "+": lambda i, j: lambda frame: frame[i] + frame[j],
    "-": lambda i, j: lambda frame: frame[i] - frame[j],
    "*": lambda i, j: lambda frame: frame[i] * frame[j],
    "/": lambda i, j: lambda frame: frame[i] / frame[j] if frame[j] else NAN,
}
_SLOT_AND_NUMBER: Mapping[str, Callable[[int, float], Value]] = {
    "+": lambda i, k: lambda frame: frame[i] + k,
    "-": lambda i, k: lambda frame: frame[i] - k,
    "*": lambda i, k: lambda frame: frame[i] * k,
}
_VALUE_AND_NUMBER: Mapping[str, Callable[[Value, float], Value]] = {
    "+": lambda value, k: lambda frame: value(frame) + k,
    "-": lambda value, k: lambda frame: value(frame) - k,
    "*": lambda value, k: lambda frame: value(frame) * k,
}
_VALUE_AND_SLOT: Mapping[str, Callable[[Value, int], Value]] = {
    "+": lambda value, j: lambda frame: value(frame) + frame[j],
    "-": lambda value, j: lambda frame: value(frame) - frame[j],
    "*": lambda value, j: lambda frame: value(frame) * frame[j],
    "/": lambda value, j: lambda frame: value(frame) / frame[j] if frame[j] else NAN,
}
_VALUES: Mapping[str, Callable[[Value, Value], Value]] = {
    "+": lambda one, other: lambda frame: one(frame) + other(frame),
    "-": lambda one, other: lambda frame: one(frame) - other(frame),
    "*": lambda one, other: lambda frame: one(frame) * other(frame),
    "/": lambda one, other: lambda frame: _divide(one(frame), other(frame)),
}
_BETWEEN: Mapping[str, Callable[[int, int, float, float], Test]] = {
    "+": lambda i, j, low, high: lambda frame: low <= frame[i] + frame[j] <= high,
    "-": lambda i, j, low, high: lambda frame: low <= frame[i] - frame[j] <= high,
    "*": lambda i, j, low, high: lambda frame: low <= frame[i] * frame[j] <= high,
}


def compile_number(node: Model | float, table: SlotTable) -> Value:
    """An expression tree as a closure; unknown is NaN."""
    node = fold(node)
    if isinstance(node, float):
        constant = node
        return lambda frame: constant
    slot = number_slot(node, table.scope)
    if slot is not None:
        return operator.itemgetter(table.index(slot))
    if isinstance(node, Negative):
        inner = compile_number(node.of, table)
        return lambda frame: -inner(frame)
    assert isinstance(node, Arithmetic), f"no number {node!r}"
    return _arithmetic(node.op, fold(node.left), fold(node.right), table)


def _arithmetic(op: str, left: Model | float, right: Model | float, table: SlotTable) -> Value:
    if isinstance(left, float) and op in ("+", "*"):
        left, right = right, left
    i, j = _index(left, table), _index(right, table)
    if isinstance(right, float) and op != "/":
        if i is not None:
            return _SLOT_AND_NUMBER[op](i, right)
        return _VALUE_AND_NUMBER[op](compile_number(left, table), right)
    if j is not None:
        if i is not None:
            return _SLOTS[op](i, j)
        return _VALUE_AND_SLOT[op](compile_number(left, table), j)
    return _VALUES[op](compile_number(left, table), compile_number(right, table))


def between(node: Arithmetic, low: float, high: float, table: SlotTable) -> Test:
    """Whether a number lies between two finite ones; unknown does not."""
    i, j = _index(fold(node.left), table), _index(fold(node.right), table)
    if i is not None and j is not None and node.op in _BETWEEN:
        return _BETWEEN[node.op](i, j, low, high)
    value = compile_number(node, table)
    return lambda frame: low <= value(frame) <= high


def scaled_slot(node: Model, table: SlotTable) -> tuple[int, float] | None:
    """``y * k`` or ``k * y`` as its slot and factor."""
    if isinstance(node, Arithmetic) and node.op == "*":
        left, right = fold(node.left), fold(node.right)
        if isinstance(left, float):
            left, right = right, left
        index = _index(left, table)
        if index is not None and isinstance(right, float):
            return index, right
    return None


def _index(node: Model | float, table: SlotTable) -> int | None:
    slot = None if isinstance(node, float) else number_slot(node, table.scope)
    return None if slot is None else table.index(slot)


def slots_of(node: Model | float, table: SlotTable) -> set[int]:
    """The slots that a number is computed from."""
    if isinstance(node, float):
        return set()
    index = _index(node, table)
    if index is not None:
        return {index}
    match node:
        case Negative():
            return slots_of(node.of, table)
        case Arithmetic():
            return slots_of(node.left, table) | slots_of(node.right, table)
    return set()
