"""Memories: what a guard that looks at a metric over time remembers.

Each kind of memory has a spec (what the guard says, in numbers), and is moved by ``remember``
when its metric arrives; between arrivals nothing changes. Trend memories start again at every
disturbance, the others do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stagegraph.engine.plateau import (
    PatienceMemory,
    PatienceSpec,
    PlateauMemory,
    PlateauSpec,
    fresh,
    looks,
    observe,
)
from stagegraph.progress import Duration, Progress, Unit
from stagegraph.schema.guards import Plateau, Regressed
from stagegraph.schema.stagegraph import Metric

__all__ = [
    "Memory",
    "MemoryLeaf",
    "RegressedMemory",
    "heeds",
    "is_trend",
    "memory_from_json",
    "memory_leaf",
    "memory_to_json",
    "remember",
    "truth",
]

_SLACK = 1e-9
"""A third of an epoch counted in floats may fall short of a third by its last bit."""

WINDOW = 8
"""How many declared evaluations the window of a plateau holds at the least."""


@dataclass(frozen=True, slots=True)
class RegressedMemory:
    """Since when a metric has been worse than its reference.

    Attributes:
        since: Progress at the first bad observation of the present run of them, or ``None``.
        count: How many bad observations in a row.
        truth: Whether it holds; ``None`` before the first comparison.
        excess: How much worse the newest value was, as a share of the reference.
    """

    since: float | None = None
    count: int = 0
    truth: bool | None = None
    excess: float | None = None

    def evidence(self) -> dict[str, Any]:
        """What the guard saw."""
        return {"worse_by": self.excess, "since": self.since, "observations": self.count}


Memory = PlateauMemory | PatienceMemory | RegressedMemory


@dataclass(frozen=True, slots=True)
class MemoryLeaf:
    """A guard that remembers, in numbers.

    Attributes:
        guard: What the user wrote, names resolved.
        metric: The metric it looks at.
        unit: The unit its durations are counted in.
        spec: For plateaus, what is tested.
        worse: For ``regressed``, the sign of getting worse: 1 if lower is better.
    """

    guard: Plateau | Regressed
    metric: str
    unit: Unit
    spec: PlateauSpec | PatienceSpec | None
    worse: int = 1


def memory_leaf(guard: Plateau | Regressed, metric: Metric) -> MemoryLeaf:
    """What a remembering guard means for its metric."""
    if isinstance(guard, Regressed):
        unit = guard.lasting.unit if guard.lasting is not None else Unit.STEPS
        worse = 1 if metric.goal == "minimize" else -1
        return MemoryLeaf(guard, guard.metric, unit, None, worse)
    span = guard.patience or guard.over
    assert span is not None, "compiling gives every plateau its window"
    spec: PlateauSpec | PatienceSpec
    if guard.patience is not None:
        spec = PatienceSpec(
            goal=metric.goal,
            span=float(span.amount),
            delta=guard.delta,
            spacing=_spacing(metric, span.unit),
        )
    else:
        spec = _plateau_spec(guard, span, metric)
    return MemoryLeaf(guard, guard.metric, span.unit, spec)


def _plateau_spec(guard: Plateau, over: Duration, metric: Metric) -> PlateauSpec:
    """The test in numbers (rule S8).

    ``worth`` is the improvement over ``over``; the window looked at is ``over``, or as wide as
    eight declared evaluations if that is wider. Values that come more often than the metric
    declares are not looked at: how often something is logged decides nothing.
    """
    assert guard.worth is not None
    spacing = _spacing(metric, over.unit)
    window = max(float(over.amount), spacing * WINDOW)
    return PlateauSpec(
        goal=metric.goal,
        worth=guard.worth * window / float(over.amount),
        span=window,
        confirm=guard.confirm,
        spacing=spacing,
    )


def _spacing(metric: Metric, unit: Unit) -> float:
    """How often the metric is declared to be evaluated, in a unit; 0 if that is not said in it."""
    every = metric.every
    return float(every.amount) if every is not None and every.unit is unit else 0.0


def heeds(memory: Memory | None, leaf: MemoryLeaf, at: float) -> bool:
    """Whether a finite value that comes at this progress would be looked at.

    It depends on when the value comes and not on what it is, so that one that is still on a
    device need not be read to know.
    """
    if leaf.spec is None or not isinstance(memory, PlateauMemory | PatienceMemory):
        return True
    return looks(memory, leaf.spec, at)


def is_trend(memory: Memory) -> bool:
    """Whether a disturbance makes the memory worthless."""
    return not isinstance(memory, RegressedMemory)


def truth(memory: Memory | None) -> float:
    """The memory's answer as a number: 1 true, 0 false, NaN unknown."""
    answer = None if memory is None else memory.truth
    return float("nan") if answer is None else float(answer)


def remember(
    memory: Memory | None,
    leaf: MemoryLeaf,
    clock: Progress,
    value: float,
    reference: float | None,
) -> Memory | None:
    """The memory after one more finite value of its metric.

    Args:
        memory: The memory so far; ``None`` if there is none yet.
        leaf: What it remembers for.
        clock: Progress at the observation.
        value: The value, finite.
        reference: For ``regressed``: the value before the snapshot, if there is one.
    """
    at = float(clock.of(leaf.unit))
    match leaf.spec, memory:
        case PlateauSpec(), (PlateauMemory() | None):
            return observe(memory or fresh(leaf.spec), leaf.spec, at, value)
        case PatienceSpec(), (PatienceMemory() | None):
            return observe(memory or fresh(leaf.spec), leaf.spec, at, value)
        case None, (RegressedMemory() | None):
            return _regressed(memory or RegressedMemory(), leaf, at, value, reference)
    raise AssertionError(f"memory {memory!r} does not belong to {leaf!r}")


def _regressed(
    memory: RegressedMemory, leaf: MemoryLeaf, at: float, value: float, reference: float | None
) -> RegressedMemory:
    guard = leaf.guard
    assert isinstance(guard, Regressed)
    if reference is None:
        return memory
    excess = leaf.worse * (value - reference)
    share = excess / abs(reference) if reference else math.inf
    worse_by = share if math.isfinite(share) else None
    if excess <= guard.by * abs(reference):
        return RegressedMemory(None, 0, False, worse_by)
    since = at if memory.since is None else memory.since
    count = memory.count + 1
    if guard.lasting is None:
        return RegressedMemory(since, count, True, worse_by)
    lasted = at - since >= guard.lasting.amount * (1 - _SLACK)
    return RegressedMemory(since, count, count >= 2 and lasted, worse_by)


def memory_to_json(memory: Memory) -> dict[str, Any]:
    """A memory as JSON data that says of which kind it is."""
    match memory:
        case PlateauMemory():
            return {"type": "plateau", **memory.to_json()}
        case PatienceMemory():
            return {"type": "patience", **memory.to_json()}
        case RegressedMemory():
            return {
                "type": "regressed",
                "since": memory.since,
                "count": memory.count,
                "truth": memory.truth,
                "excess": memory.excess,
            }


def memory_from_json(data: Mapping[str, Any]) -> Memory:
    """The inverse of :func:`memory_to_json`.

    Raises:
        ValueError: The data is no memory.
    """
    values = {key: value for key, value in data.items() if key != "type"}
    match data.get("type"):
        case "plateau":
            return PlateauMemory.from_json(values)
        case "patience":
            return PatienceMemory.from_json(values)
        case "regressed":
            return RegressedMemory(**values)
    raise ValueError(f"{data.get('type')!r} is no kind of guard memory")
