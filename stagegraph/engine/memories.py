"""Memories: what a guard that looks at a metric over time remembers.

Each kind of memory has a spec (what the guard says, in numbers), and is moved by ``remember``
when its metric arrives; between arrivals nothing changes. Trend memories start again at every
disturbance, the others do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from stagegraph.engine.comparing import ComparedMemory, ComparedSpec, compare
from stagegraph.engine.plateau import (
    PatienceMemory,
    PatienceSpec,
    PlateauMemory,
    PlateauSpec,
    fresh,
    looks,
    observe,
)
from stagegraph.engine.references import Reference
from stagegraph.engine.unstable import (
    PER_WINDOW,
    Level,
    Recent,
    UnstableMemory,
    UnstableSpec,
    watch,
)
from stagegraph.progress import Duration, Progress, Unit
from stagegraph.schema.expressions import Gain
from stagegraph.schema.guards import Plateau
from stagegraph.schema.since_guards import Compared, Since, Unstable
from stagegraph.schema.stagegraph import Metric

__all__ = [
    "ComparedMemory",
    "Memory",
    "MemoryLeaf",
    "Remembering",
    "Spec",
    "disturbed",
    "evidence",
    "gain",
    "heeds",
    "memory_from_json",
    "memory_leaf",
    "memory_to_json",
    "remember",
    "truth",
    "verdict",
]

WINDOW = 8
"""How many declared evaluations the window of a plateau holds at the least."""

Memory = PlateauMemory | PatienceMemory | ComparedMemory | UnstableMemory
Spec = PlateauSpec | PatienceSpec | ComparedSpec | UnstableSpec
Remembering = Plateau | Since | Gain
"""What in a guard remembers."""


@dataclass(frozen=True, slots=True)
class MemoryLeaf:
    """A part of a guard that remembers, in numbers.

    Attributes:
        guard: What the user wrote, names resolved.
        metric: The metric it looks at.
        unit: The unit its durations are counted in.
        spec: What is tested.
    """

    guard: Remembering
    metric: str
    unit: Unit
    spec: Spec

    @property
    def since(self) -> str | None:
        """The snapshot or baseline that it compares with, if it does."""
        return self.guard.since if isinstance(self.guard, Since) else None

    @property
    def before(self) -> str | None:
        """The key of the newest values that its reference is made of, if it is."""
        if not isinstance(self.spec, UnstableSpec):
            return None
        return f"{self.metric}, {self.spec.spacing!r} {self.unit}"


def memory_leaf(guard: Remembering, metric: Metric) -> MemoryLeaf:
    """What a remembering guard means for its metric."""
    worse = 1 if metric.goal == "minimize" else -1
    if isinstance(guard, Compared):
        lasting = guard.lasting
        unit = lasting.unit if lasting is not None else Unit.STEPS
        share = guard.within if guard.type == "recovered" else guard.by
        lasts = None if lasting is None else float(lasting.amount)
        return MemoryLeaf(guard, guard.metric, unit, ComparedSpec(guard.type, worse, share, lasts))
    if isinstance(guard, Unstable):
        return MemoryLeaf(guard, guard.metric, guard.over.unit, _unstable_spec(guard, metric))
    if isinstance(guard, Gain):
        line = _plateau_spec(guard.over, metric, worth=1.0)
        return MemoryLeaf(guard, guard.metric, guard.over.unit, line)
    span = guard.patience or guard.over
    assert span is not None, "compiling gives every plateau its window"
    if guard.patience is not None:
        patience = PatienceSpec(
            goal=metric.goal,
            span=float(span.amount),
            delta=guard.delta,
            spacing=_spacing(metric, span.unit),
        )
        return MemoryLeaf(guard, guard.metric, span.unit, patience)
    assert guard.worth is not None
    test = _plateau_spec(
        span, metric, worth=guard.worth, confirm=guard.confirm, confidence=guard.confidence
    )
    return MemoryLeaf(guard, guard.metric, span.unit, test)


def _plateau_spec(
    over: Duration, metric: Metric, *, worth: float, confirm: int = 1, confidence: float = 0.95
) -> PlateauSpec:
    """The test in numbers (rule S8).

    ``worth`` is the improvement over ``over``; the window looked at is ``over``, or as wide as
    eight declared evaluations if that is wider. Values that come more often than the metric
    declares are not looked at: how often something is logged decides nothing.
    """
    window = _window(over, metric)
    return PlateauSpec(
        goal=metric.goal,
        worth=worth * window / float(over.amount),
        span=window,
        confirm=confirm,
        confidence=confidence,
        spacing=_spacing(metric, over.unit),
    )


def _window(over: Duration, metric: Metric) -> float:
    """The span that a line is fitted over."""
    return max(float(over.amount), _spacing(metric, over.unit) * WINDOW)


def _unstable_spec(guard: Unstable, metric: Metric) -> UnstableSpec:
    span = float(guard.over.amount)
    return UnstableSpec(
        worse=1 if metric.goal == "minimize" else -1,
        spreads=guard.spreads,
        share=guard.by,
        span=span,
        allow=0.0 if guard.allow is None else float(guard.allow.amount),
        within=None if guard.within is None else float(guard.within.amount),
        lasting=span if guard.lasting is None else float(guard.lasting.amount),
        spacing=max(_spacing(metric, guard.over.unit), span / PER_WINDOW),
    )


def _spacing(metric: Metric, unit: Unit) -> float:
    """How often the metric is declared to be evaluated, in a unit; 0 if that is not said in it."""
    every = metric.every
    return float(every.amount) if every is not None and every.unit is unit else 0.0


def heeds(memory: Memory | Recent | None, leaf: MemoryLeaf, at: float) -> bool:
    """Whether a finite value that comes at this progress would be looked at.

    It depends on when the value comes and not on what it is, so that one that is still on a
    device need not be read to know.
    """
    match leaf.spec, memory:
        case UnstableSpec(spacing=spacing), Recent():
            return memory.due(spacing, at)
        case UnstableSpec(spacing=spacing), UnstableMemory():
            return Recent((), memory.at).due(spacing, at)
        case ((PlateauSpec() | PatienceSpec() as spec), (PlateauMemory() | PatienceMemory())):
            return looks(memory, spec, at)
    return True


def disturbed(memory: Memory) -> Memory | None:
    """What is left of a memory when the curves are bent; ``None``: nothing (rule S8)."""
    match memory:
        case ComparedMemory():
            return memory
        case UnstableMemory():
            return memory.disturbed()
    return None


def truth(memory: Memory | None) -> float:
    """The memory's answer as a number: 1 true, 0 false, NaN unknown."""
    answer = None if memory is None else memory.truth
    return float("nan") if answer is None else float(answer)


def gain(memory: Memory | None, over: Duration, metric: Metric) -> float:
    """The relative improvement that ``over`` more progress would bring; NaN: nothing is known.

    The line is fitted over the window, which may be wider.
    """
    if not isinstance(memory, PlateauMemory) or memory.reading is None:
        return float("nan")
    rate = memory.reading.rate
    return float("nan") if rate is None else rate * float(over.amount) / _window(over, metric)


def verdict(memory: Memory | None, leaf: MemoryLeaf) -> str:
    """The memory's answer in a word or two."""
    if memory is None:
        return "waiting"
    if isinstance(leaf.guard, Gain):
        known = isinstance(memory, PlateauMemory) and memory.reading is not None
        return "told" if known else "waiting"
    if isinstance(memory, ComparedMemory):
        word = leaf.guard.type
        return {None: "waiting", True: word, False: f"not {word}"}[memory.truth]
    return memory.verdict


def evidence(memory: Memory | None, leaf: MemoryLeaf | None) -> dict[str, Any] | None:
    """What a memory has seen, as JSON data."""
    match memory, None if leaf is None else leaf.spec:
        case PlateauMemory(), PlateauSpec() as spec:
            return memory.evidence(spec)
        case PatienceMemory(), PatienceSpec() as spec:
            return memory.evidence(spec)
        case ComparedMemory(), ComparedSpec() as spec:
            return memory.evidence(spec)
        case UnstableMemory(), UnstableSpec() as spec:
            return memory.evidence(spec)
    return None


def remember(
    memory: Memory | None,
    leaf: MemoryLeaf,
    clock: Progress,
    value: float,
    reference: Reference | None,
) -> Memory | None:
    """The memory after one more finite value of its metric.

    Args:
        memory: The memory so far; ``None`` if there is none yet.
        leaf: What it remembers for.
        clock: Progress at the observation.
        value: The value, finite.
        reference: For guards with ``since``: what was known then, if that has happened.
    """
    at = float(clock.of(leaf.unit))
    match leaf.spec, memory:
        case PlateauSpec() as spec, (PlateauMemory() | None):
            return observe(memory or fresh(spec), spec, at, value)
        case PatienceSpec() as spec, (PatienceMemory() | None):
            return observe(memory or fresh(spec), spec, at, value)
        case ComparedSpec() as spec, (ComparedMemory() | None):
            before = None if reference is None else reference.value
            return compare(memory or ComparedMemory(), spec, at, value, before)
        case UnstableSpec() as spec, (UnstableMemory() | None):
            level = None if reference is None else Level.of(reference.recent.values)
            taken = None if reference is None else float(reference.taken.of(leaf.unit))
            return watch(memory or UnstableMemory(), spec, at, value, level, taken)
    raise AssertionError(f"memory {memory!r} does not belong to {leaf!r}")


def memory_to_json(memory: Memory) -> dict[str, Any]:
    """A memory as JSON data that says of which kind it is."""
    match memory:
        case PlateauMemory():
            return {"type": "plateau", **memory.to_json()}
        case PatienceMemory():
            return {"type": "patience", **memory.to_json()}
        case UnstableMemory():
            return {"type": "unstable", **memory.to_json()}
    return {"type": "regressed", **asdict(memory)}


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
        case "regressed":  # of all that compare with one value
            return ComparedMemory(**values)
        case "unstable":
            return UnstableMemory.from_json(values)
    raise ValueError(f"{data.get('type')!r} is no kind of guard memory")
