"""A region as a networkx graph: who leads where, and what is known on every path to a stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import networkx as nx

from stagegraph.graph.compiled import BACK, STOP, CompiledRegion, CompiledStage, Edge
from stagegraph.schema.actions import RollBack

__all__ = ["Move", "RegionView", "rolls_back"]

How = Literal["way", "fallback", "back"]


@dataclass(frozen=True, slots=True)
class Move:
    """One step from stage to stage that an edge allows.

    Attributes:
        source: The key of the stage that is left.
        target: The key of the stage that is entered, or ``stop``.
        edge: The edge that allows it.
        how: ``way`` is the edge itself, ``fallback`` what follows when its actions fail, ``back``
            the return to where an interrupt came from.
    """

    source: str
    target: str
    edge: Edge
    how: How = "way"


def rolls_back(edge: Edge) -> RollBack | None:
    """The rollback among an edge's actions."""
    found = (a.action for a in edge.actions if isinstance(a.action, RollBack))
    return next(found, None)


class RegionView:
    """One region's moves as graphs.

    Args:
        region: The region.
        dead: Pairs of a stage's key and an edge's id: ways that can never be taken.
    """

    def __init__(self, region: CompiledRegion, dead: frozenset[tuple[str, str]]) -> None:
        self.region = region
        self._dead = dead

    @cached_property
    def ends(self) -> frozenset[str]:
        """The stages in which the region is done, and ``stop``."""
        return frozenset({STOP, *(s.key for s in self.region.stages.values() if s.final)})

    @cached_property
    def moves(self) -> tuple[Move, ...]:
        """Every move, those that can never be taken included."""
        return tuple(self._all_moves())

    @cached_property
    def live_moves(self) -> tuple[Move, ...]:
        """Every move that is not proved to be impossible."""
        return tuple(m for m in self.moves if (m.source, m.edge.id) not in self._dead)

    def _all_moves(self) -> Iterator[Move]:
        returns = self._returns()
        for stage in self.region.stages.values():
            for edge in leaving(stage):
                if edge.target == BACK:
                    for origin in returns:
                        yield Move(stage.key, origin, edge, "back")
                else:
                    yield Move(stage.key, edge.target, edge)
                if edge.fallback is not None:
                    yield Move(stage.key, edge.fallback.then, edge, "fallback")

    def _returns(self) -> list[str]:
        """Where ``back`` can lead: the stages that interrupts leave."""
        found: dict[str, None] = {}
        for stage in self.region.stages.values():
            for edge in leaving(stage):
                if edge.kind == "interrupt" and edge.target not in (BACK, STOP):
                    found[stage.key] = None
        return list(found)

    @cached_property
    def all(self) -> nx.DiGraph[str]:
        """All moves."""
        return self._graph(self.moves)

    @cached_property
    def live(self) -> nx.DiGraph[str]:
        """The moves that are not proved to be impossible."""
        return self._graph(self.live_moves)

    def _graph(self, moves: tuple[Move, ...]) -> nx.DiGraph[str]:
        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from(self.region.stages)
        graph.add_node(STOP)
        graph.add_edges_from((move.source, move.target) for move in moves)
        return graph

    @cached_property
    def reached(self) -> frozenset[str]:
        """The stages that some path from the initial one leads to."""
        return self.from_stage(self.region.initial)

    @cached_property
    def onward(self) -> nx.DiGraph[str]:
        """All moves but the returns to what an interrupt has left."""
        return self._graph(tuple(move for move in self.moves if move.how != "back"))

    def from_stage(
        self, key: str, without: frozenset[str] = frozenset(), *, back: bool = True
    ) -> frozenset[str]:
        """A stage and all that some path from it leads to.

        Args:
            key: Where to start.
            without: Stages that are reached but not gone through.
            back: Whether returns to what an interrupt has left count.
        """
        graph = self.all if back else self.onward
        if key not in graph:
            return frozenset()
        seen, todo = {key}, [key]
        while todo:
            here = todo.pop()
            if here in without and here != key:
                continue
            for after in graph.successors(here):
                if after not in seen:
                    seen.add(after)
                    todo.append(after)
        return frozenset(seen)

    @cached_property
    def ending(self) -> frozenset[str]:
        """The stages from which a live path leads to an end."""
        backwards = self.live.reverse(copy=False)
        found: set[str] = set()
        for end in self.ends:
            if end in backwards:
                found |= {end, *nx.descendants(backwards, end)}
        return frozenset(found)

    @cached_property
    def looping(self) -> frozenset[str]:
        """The stages that some path leads back to."""
        return frozenset(
            key
            for part in nx.strongly_connected_components(self.all)
            for key in part
            if len(part) > 1 or self.all.has_edge(key, key)
        )


def leaving(stage: CompiledStage) -> Iterator[Edge]:
    """The edges that can really leave a stage: a ``grow`` has its ``next`` only, a final none."""
    for edge in stage.ways:
        if not stage.final and (not stage.instant or edge.kind == "next"):
            yield edge
