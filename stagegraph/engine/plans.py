"""Plans: what asking in one stage takes, made once per stage and only when it is entered.

A graph of a thousand stages costs nothing for the 999 it is not in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from stagegraph.engine.comparing import ComparedSpec
from stagegraph.engine.conditions import Condition, compile_guard
from stagegraph.engine.memories import MemoryLeaf, Remembering, memory_leaf
from stagegraph.engine.slots import Slot, read
from stagegraph.engine.state import State
from stagegraph.engine.values import SlotTable, Test, memory_key
from stagegraph.graph.compiled import CompiledGraph, CompiledStage, Edge
from stagegraph.progress import Unit
from stagegraph.schema.base import Model
from stagegraph.schema.expressions import Arithmetic, Gain, Negative
from stagegraph.schema.guards import All, Any_, Compare, Not, Plateau
from stagegraph.schema.since_guards import Improved, Recovered, Regressed, Unstable

_CLOCKS = ("fact", "spent", "left")

__all__ = ["Plans", "StagePlan", "remembering"]


_AT_ONCE = ("metric", "nonfinite")
"""Slots that change with each value of their metric, and are followed as the values come."""

_LOOKED_UP = ("last", "best")
"""Slots that change with each value of their metric, and are read from the state."""


@dataclass(frozen=True, slots=True)
class Watch:
    """A number in a frame that changes with each value of a metric.

    Attributes:
        metric: The metric.
        index: The number's slot.
        counts: Whether it counts values that are not finite, or is the value itself.
        tests: Per edge that reads it: what else must be true for it, and its guard.
    """

    metric: str
    index: int
    counts: bool
    tests: tuple[tuple[Edge, tuple[Test, ...], Test], ...]


@dataclass(frozen=True)
class StagePlan:
    """One stage, ready to be asked.

    Attributes:
        stage: The stage.
        ways: Its edges in order, with their conditions.
        slots: The numbers of its frame.
        leaves: Its remembering guards by memory key.
    """

    stage: CompiledStage
    ways: tuple[tuple[Edge, Condition], ...]
    slots: tuple[Slot, ...]
    leaves: Mapping[str, MemoryLeaf]

    def frame(self, graph: CompiledGraph, state: State) -> list[float]:
        """The numbers that this stage's guards see in a state."""
        return [read(slot, graph, state, self.stage) for slot in self.slots]

    @cached_property
    def restless(self) -> bool:
        """Whether every update must be looked at."""
        return any(condition.restless for _, condition in self.ways)

    @cached_property
    def remembered(self) -> frozenset[str]:
        """Metrics whose every value must be looked at, because a guard remembers them."""
        looked_up = {slot.name for slot in self.slots if slot.kind in _LOOKED_UP}
        compared = {
            leaf.metric for leaf in self.leaves.values() if isinstance(leaf.spec, ComparedSpec)
        }
        return frozenset(looked_up | compared)

    @cached_property
    def times_metrics(self) -> bool:
        """Whether a guard remembers by the wall clock when a metric came."""
        return any(leaf.unit is Unit.SECONDS for leaf in self.leaves.values())

    @cached_property
    def reckons_with_clock(self) -> bool:
        """Whether a guard computes with the wall clock, so that its very reading matters."""
        clocks = {i for i, s in enumerate(self.slots) if s.name == "seconds" and s.kind in _CLOCKS}
        return any(condition.restless and clocks & condition.slots for _, condition in self.ways)

    @cached_property
    def trends(self) -> Mapping[str, MemoryLeaf]:
        """The guards whose memories look at no more values than they need."""
        return {
            key: leaf
            for key, leaf in self.leaves.items()
            if not isinstance(leaf.spec, ComparedSpec)
        }

    @cached_property
    def watched(self) -> tuple[Watch, ...]:
        """The numbers that change with each value of a metric, and what they can make true."""
        return tuple(
            Watch(
                slot.name,
                index,
                slot.kind == "nonfinite",
                tuple(
                    (edge, self._gate(edge), condition.test)
                    for edge, condition in self.ways
                    if index in condition.slots
                ),
            )
            for index, slot in enumerate(self.slots)
            if slot.kind in _AT_ONCE
        )

    def _gate(self, edge: Edge) -> tuple[Test, ...]:
        """What else must be true in an edge's guard, and does not change as metrics come."""
        parts = edge.guard.of if isinstance(edge.guard, All) else ()
        table = SlotTable({slot: index for index, slot in enumerate(self.slots)})
        conditions = [compile_guard(part, edge.scope, table) for part in parts]
        return tuple(
            condition.test
            for condition in conditions
            if not any(self.slots[index].kind in _AT_ONCE for index in condition.slots)
        )

    @cached_property
    def readers(self) -> Mapping[str, tuple[str, ...]]:
        """Per metric, the edges whose guards read it."""
        found: dict[str, tuple[str, ...]] = {}
        for edge, condition in self.ways:
            names = {self._metric(self.slots[index]) for index in condition.slots}
            for name in sorted(names - {None}, key=str):
                found[str(name)] = (*found.get(str(name), ()), edge.id)
        return found

    def _metric(self, slot: Slot) -> str | None:
        if slot.kind in ("memory", "gain"):
            return self.leaves[slot.name].metric
        return slot.name if slot.kind in (*_AT_ONCE, *_LOOKED_UP) else None


class Plans:
    """The plans of a graph's stages, made when they are first asked for.

    Attributes:
        graph: The graph.
        minimizes: Per metric, whether lower is better.
    """

    def __init__(self, graph: CompiledGraph) -> None:
        self.graph = graph
        self.minimizes = {
            name: metric.goal == "minimize" for name, metric in graph.graph.metrics.items()
        }
        self._made: dict[str, StagePlan] = {}

    @cached_property
    def before(self) -> Mapping[str, MemoryLeaf]:
        """The guards whose reference is made of a metric's newest values, by the values' key.

        Those values are followed in every stage: the reference is taken before the guard is asked.
        """
        found: dict[str, MemoryLeaf] = {}
        for edge in self.graph.edges.values():
            for part in remembering(edge.guard):
                if isinstance(part, Unstable):
                    leaf = memory_leaf(part, self.graph.graph.metrics[part.metric])
                    found.setdefault(leaf.before or "", leaf)
        return found

    def __getitem__(self, key: str) -> StagePlan:
        plan = self._made.get(key)
        if plan is None:
            plan = self._made[key] = self._make(self.graph.stages[key])
        return plan

    def _make(self, stage: CompiledStage) -> StagePlan:
        table = SlotTable()
        ways = tuple((edge, compile_guard(edge.guard, edge.scope, table)) for edge in stage.ways)
        leaves: dict[str, MemoryLeaf] = {}
        for edge in stage.ways:
            for leaf in remembering(edge.guard):
                metric = self.graph.graph.metrics[leaf.metric]
                leaves[memory_key(edge.scope, leaf)] = memory_leaf(leaf, metric)
        return StagePlan(stage, ways, tuple(table.slots), leaves)


def remembering(guard: Model | float | None) -> tuple[Remembering, ...]:
    """The parts of a guard that remember."""
    match guard:
        case Plateau() | Regressed() | Recovered() | Improved() | Unstable() | Gain():
            return (guard,)
        case Not() | Negative():
            return remembering(guard.of)
        case Compare() | Arithmetic():
            return (*remembering(guard.left), *remembering(guard.right))
        case All() | Any_():
            return tuple(leaf for part in guard.of for leaf in remembering(part))
    return ()
