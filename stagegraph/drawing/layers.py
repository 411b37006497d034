"""Layers: which node stands above which; ways back are turned round for as long as it takes.

The first half of a layered drawing (Sugiyama, Tagawa and Toda 1981). Nodes stand on even layers;
the odd ones between them are for the edges' labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Arc", "layers_of", "turned_round"]

Arc = tuple[str, str, str]
"""An edge's id, its tail and its head."""


def turned_round(nodes: Sequence[str], arcs: Iterable[Arc]) -> set[str]:
    """The edges to turn round so that no cycle is left: those that lead back on the way down.

    Edges from a node to itself do not count.

    >>> sorted(turned_round(["a", "b"], [("1", "a", "b"), ("2", "b", "a")]))
    ['2']

    Args:
        nodes: In the order in which to begin.
        arcs: In the order in which to follow them.
    """
    out: dict[str, list[tuple[str, str]]] = {node: [] for node in nodes}
    for name, tail, head in arcs:
        if tail != head:
            out[tail].append((name, head))
    turned: set[str] = set()
    on_the_way: set[str] = set()
    seen: set[str] = set()
    for root in nodes:
        if root in seen:
            continue
        seen.add(root)
        on_the_way.add(root)
        trail = [(root, iter(out[root]))]
        while trail:
            node, following = trail[-1]
            step = next(following, None)
            if step is None:
                on_the_way.discard(node)
                trail.pop()
            elif step[1] in on_the_way:
                turned.add(step[0])
            elif step[1] not in seen:
                seen.add(step[1])
                on_the_way.add(step[1])
                trail.append((step[1], iter(out[step[1]])))
    return turned


def layers_of(nodes: Sequence[str], arcs: Sequence[Arc], *, first: int = 0) -> dict[str, int]:
    """The layer of every node: as high as possible, sources close above what they lead to.

    Args:
        nodes: All nodes.
        arcs: Edges without cycles.
        first: The uppermost layer.

    Returns:
        Layers ``first``, ``first + 2`` and so on.
    """
    after: dict[str, list[str]] = {node: [] for node in nodes}
    before: dict[str, list[str]] = {node: [] for node in nodes}
    for _, tail, head in arcs:
        if tail != head:
            after[tail].append(head)
            before[head].append(tail)
    order = _topological(nodes, before, after)
    layer = dict.fromkeys(nodes, first)
    for node in order:
        layer[node] = max((layer[tail] + 2 for tail in before[node]), default=first)
    for node in reversed(order):
        if after[node] and len(after[node]) > len(before[node]):
            layer[node] = max(layer[node], min(layer[head] for head in after[node]) - 2)
    return layer


def _topological(
    nodes: Sequence[str], before: Mapping[str, list[str]], after: Mapping[str, list[str]]
) -> list[str]:
    waiting = {node: len(before[node]) for node in nodes}
    order = [node for node in nodes if not waiting[node]]
    for node in order:
        for head in after[node]:
            waiting[head] -= 1
            if not waiting[head]:
                order.append(head)
    assert len(order) == len(nodes), "the edges have a cycle"
    return order
