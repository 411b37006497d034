"""What rules look at: the compiled graph and what can be derived from it, each made once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from stagegraph.graph.compiled import (
    BACK,
    STOP,
    CompiledGraph,
    CompiledStage,
    Edge,
    HeldActivity,
    PlacedAction,
)
from stagegraph.graph.history import History, histories
from stagegraph.graph.problems import Problems
from stagegraph.graph.structure import RegionView
from stagegraph.graph.truth import Truth
from stagegraph.schema.base import Model
from stagegraph.schema.guard_text import format_guard
from stagegraph.schema.stagegraph import StageGraph

__all__ = ["Context", "leaves"]


class Context:
    """A compiled graph, seen by the rules.

    Args:
        compiled: The graph.
        problems: What compiling left over.
    """

    def __init__(self, compiled: CompiledGraph, problems: Problems) -> None:
        self.compiled = compiled
        self.problems = problems

    @property
    def graph(self) -> StageGraph:
        """The document."""
        return self.compiled.graph

    @property
    def stages(self) -> dict[str, CompiledStage]:
        """All stages by key."""
        return dict(self.compiled.stages)

    @cached_property
    def truth(self) -> Truth:
        """What the guards can become."""
        return Truth(self.compiled)

    @cached_property
    def views(self) -> dict[str, RegionView]:
        """The regions as graphs, by name."""
        return {region.name: RegionView(region, self.dead) for region in self.compiled.regions}

    @cached_property
    def dead(self) -> frozenset[tuple[str, str]]:
        """Pairs of a stage's key and the id of a way out that can never be taken in any run."""
        found: set[tuple[str, str]] = set()
        for stage in self.compiled.stages.values():
            for index, edge in enumerate(stage.ways if stage.kind != "trial" else ()):
                if self.truth.never(edge, stage, limited=False) is not None or any(
                    self.truth.covers(earlier, edge, stage) for earlier in stage.ways[:index]
                ):
                    found.add((stage.key, edge.id))
        return frozenset(found)

    @cached_property
    def history(self) -> dict[str, History]:
        """What has happened before each stage, by region and stage."""
        return {name: histories(view) for name, view in self.views.items()}

    @cached_property
    def guarded(self) -> tuple[tuple[Edge, tuple[CompiledStage, ...]], ...]:
        """Every edge once, with the stages it may leave."""
        found: dict[str, tuple[Edge, list[CompiledStage]]] = {}
        for stage, edge in self.compiled.all_edges():
            found.setdefault(edge.id, (edge, []))[1].append(stage)
        return tuple((edge, tuple(stages)) for edge, stages in found.values())

    @cached_property
    def growing(self) -> dict[str, tuple[CompiledStage, ...]]:
        """The stages that grow or try growths, by region; regions without any are left out."""
        found = {
            region.name: tuple(s for s in region.stages.values() if s.structural)
            for region in self.compiled.regions
        }
        return {name: stages for name, stages in found.items() if stages}

    def actions(self) -> Iterator[tuple[PlacedAction, Edge | None, CompiledStage | None]]:
        """Every action, with the edge or the stage that it belongs to."""
        for stage in self.compiled.stages.values():
            yield from ((placed, None, stage) for placed in stage.actions)
            for option in stage.options:
                yield from ((placed, None, stage) for placed in option.actions)
        for edge in self.compiled.edges.values():
            for placed in edge.actions:
                yield placed, edge, None

    def held(self) -> Iterator[tuple[CompiledStage, HeldActivity]]:
        """Every activity of every stage."""
        for stage in self.compiled.stages.values():
            for held in stage.during:
                yield stage, held

    def name(self, key: str) -> str:
        """How a stage is called in messages, quoted."""
        if key in (BACK, STOP):
            return repr(key)
        return repr(key if self.graph.regions is not None else key.removeprefix("main:"))

    def way(self, edge: Edge) -> str:
        """How an edge is called in messages."""
        if edge.kind == "interrupt":
            return f"interrupt {edge.id.partition(':interrupts.')[2]!r}"
        if edge.kind == "next":
            return f"{edge.id.rpartition('.')[2]!r} of {self.name(edge.scope)}"
        return f"the transition from {self.name(edge.scope)} to {self.name(edge.target)}"

    def shown(self, guard: Model | None) -> str:
        """A guard as text, quoted."""
        text = "always" if guard is None else format_guard(guard)
        return repr(text if self.graph.regions is not None else text.replace("main:", ""))


def leaves(guard: Model | None) -> Iterator[Model]:
    """Every model inside a guard, itself included, from left to right."""
    if guard is None:
        return
    yield guard
    for field in ("left", "right", "of"):
        inner = getattr(guard, field, None)
        for part in inner if isinstance(inner, tuple) else (inner,):
            if isinstance(part, Model):
                yield from leaves(part)
