"""Matching: which edge, and which activity, of an edited graph is which of the one that ran.

An interrupt has a name and ``next`` is one per stage; transitions and activities that are written
in place are known by what they say, wherever they stand in their list.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from stagegraph.graph.compiled import CompiledStage, Edge, HeldActivity
from stagegraph.schema.differences import meaning

__all__ = ["Matches", "does", "match_activities", "match_edges"]

T = TypeVar("T")


@dataclass(slots=True)
class Matches:
    """The edges of one graph in another.

    Attributes:
        same: Per edge of the first, the edge of the second that does the same.
        ambiguous: Ids of edges of the first that could be several of the second.
    """

    same: dict[str, Edge] = field(default_factory=dict)
    ambiguous: set[str] = field(default_factory=set)


def does(edge: Edge) -> Hashable:
    """What an edge does when it is taken, and when that is: by this it is known again."""
    actions = tuple(meaning(placed.action) for placed in edge.actions)
    return (edge.kind, meaning(edge.guard), edge.target, actions)


def _whole(edge: Edge) -> Hashable:
    return (does(edge), edge.at_most, edge.fallback)


def match_edges(before: Iterable[Edge], after: Iterable[Edge]) -> Matches:
    """Find the edges of one stage, or the interrupts, among those of the edited graph.

    Edges that say the very same are told apart by ``at_most`` and ``on_error``, then by their
    order; if their number has changed, nothing tells them apart.
    """
    found = Matches()
    named_before, named_after = _named(before), _named(after)
    for edge_id, edge in named_before.items():
        other = named_after.get(edge_id)
        if other is not None and does(edge) == does(other):
            found.same[edge_id] = other
    old = [edge for edge in before if edge.kind == "transition"]
    new = [edge for edge in after if edge.kind == "transition"]
    for a, b in _pairs(old, new, _whole):
        found.same[a.id] = b
    taken = {edge.id for edge in found.same.values()}
    left = _grouped([edge for edge in old if edge.id not in found.same], does)
    free = _grouped([edge for edge in new if edge.id not in taken], does)
    for key, edges in left.items():
        others = free.get(key, [])
        if len(edges) == len(others) == 1:
            found.same[edges[0].id] = others[0]
        elif others:
            found.ambiguous |= {edge.id for edge in edges}
    return found


def _named(edges: Iterable[Edge]) -> dict[str, Edge]:
    return {edge.id: edge for edge in edges if edge.kind != "transition"}


def match_activities(
    before: CompiledStage, after: CompiledStage
) -> tuple[Mapping[str, str], list[HeldActivity], list[HeldActivity]]:
    """Find the activities of a stage in the edited stage.

    Returns:
        Per place the new place, then what of the first is not in the second, and the other way.
    """
    pairs = _pairs(before.during, after.during, _holds)
    same = {a.place: b.place for a, b in pairs}
    kept = set(same.values())
    gone = [held for held in before.during if held.place not in same]
    come = [held for held in after.during if held.place not in kept]
    return same, gone, come


def _holds(held: HeldActivity) -> Hashable:
    return (held.place if held.named else None, meaning(held.activity))


def _grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> dict[Hashable, list[T]]:
    groups: dict[Hashable, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def _pairs(
    before: Sequence[T], after: Sequence[T], key: Callable[[T], Hashable]
) -> list[tuple[T, T]]:
    """Equal things in the order in which they stand."""
    groups = _grouped(after, key)
    pairs: list[tuple[T, T]] = []
    for item in before:
        others = groups.get(key(item))
        if others:
            pairs.append((item, others.pop(0)))
    return pairs
