"""Traces: a guard with the values it sees, for the journal and for ``explain``.

The same three-valued logic as the closures of :mod:`stagegraph.engine.conditions`, written the
plain way: ``None`` is unknown (Kleene). A property test holds the two against each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from stagegraph.engine.conditions import leaf_slot
from stagegraph.engine.slots import Slot
from stagegraph.engine.state import State
from stagegraph.engine.values import number_slot
from stagegraph.schema.base import Model
from stagegraph.schema.expressions import Arithmetic, Negative
from stagegraph.schema.guard_text import format_guard
from stagegraph.schema.guards import All, Any_, Compare, Not

__all__ = ["Trace", "trace"]

Trace = dict[str, Any]
"""JSON data: ``guard`` (text), ``value`` (true, false, null), ``sees``, and ``of`` for parts."""

Look = Callable[[Slot], float]
Evidence = Callable[[Slot], Mapping[str, Any] | None]


def trace(guard: Model | None, scope: str, look: Look, evidence: Evidence) -> Trace:
    """A guard as a tree with values.

    Args:
        guard: The tree, names resolved; ``None`` is always true.
        scope: Whose memories it uses.
        look: The number in a slot.
        evidence: What lies behind the answer in a slot, if more is known.
    """
    match guard:
        case None:
            return {"guard": "always", "value": True}
        case Not():
            inner = trace(guard.of, scope, look, evidence)
            value = None if inner["value"] is None else not inner["value"]
            return _node(guard, value, of=[inner])
        case All() | Any_():
            parts = [trace(part, scope, look, evidence) for part in guard.of]
            decisive = isinstance(guard, Any_)
            values = [part["value"] for part in parts]
            joined = decisive if decisive in values else None if None in values else not decisive
            return _node(guard, joined, of=parts)
        case Compare():
            return _compare(guard, scope, look)
    slot = leaf_slot(guard, scope)
    assert slot is not None, f"no slot for {guard!r}"
    number = look(slot)
    answer = None if math.isnan(number) else bool(number)
    seen = evidence(slot)
    return _node(guard, answer, sees=dict(seen) if seen else None)


def _node(
    guard: Model,
    value: bool | None,  # noqa: FBT001 - three values, not a switch
    *,
    sees: dict[str, Any] | None = None,
    of: list[Trace] | None = None,
) -> Trace:
    node: Trace = {"guard": format_guard(guard), "value": value}
    if sees:
        node["sees"] = sees
    if of:
        node["of"] = of
    return node


def _compare(guard: Compare, scope: str, look: Look) -> Trace:
    sees: dict[str, float | None] = {}
    left = _number(guard.left, scope, look, sees)
    right = _number(guard.right, scope, look, sees)
    if left is None or right is None:
        return _node(guard, None, sees=sees)
    value = {
        "<": left < right,
        "<=": left <= right,
        ">": left > right,
        ">=": left >= right,
        "==": left == right,
        "!=": left != right,
    }[guard.op]
    return _node(guard, value, sees=sees)


def _number(
    node: Model | float, scope: str, look: Look, sees: dict[str, float | None]
) -> float | None:
    """A number, or ``None`` if it is unknown; what was looked up goes into ``sees``."""
    if isinstance(node, float):
        return node
    slot = number_slot(node, scope)
    if slot is not None:
        found = _finite(look(slot))
        sees[format_guard(node)] = found
        return found
    if isinstance(node, Negative):
        inner = _number(node.of, scope, look, sees)
        return None if inner is None else -inner
    assert isinstance(node, Arithmetic), f"no number {node!r}"
    left = _number(node.left, scope, look, sees)
    right = _number(node.right, scope, look, sees)
    if left is None or right is None or (node.op == "/" and right == 0):
        return None
    match node.op:
        case "+":
            return _finite(left + right)
        case "-":
            return _finite(left - right)
        case "*":
            return _finite(left * right)
    return _finite(left / right)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def attribution_evidence(state: State, metric: str, region: str) -> dict[str, Any] | None:
    """What a region's newest attribution of a metric has found, as JSON data; the best first."""
    own = (one for one in state.attributions if one.metric == metric and one.is_of(region))
    found = next(own, None)
    if found is None:
        return None
    worst = found.worst
    return {
        "worst": None if worst is None else worst.module,
        "base": found.base,
        "measured_at": found.boundary,
        **{one.module: one.value for one in found.ranked},
    }
