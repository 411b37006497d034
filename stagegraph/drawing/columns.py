"""Columns: where across the page the nodes of ordered layers stand.

Brandes and Köpf, "Fast and simple horizontal coordinate assignment" (GD 2001): four alignments,
leaning up or down and left or right, each packed tightly; every node takes the middle of its two
median places. Long edges become straight, and nothing overlaps.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Extent", "columns_of"]

Layers = Sequence[Sequence[int]]
Near = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Extent:
    """How far a node reaches to both sides of its column, and how much air it wants."""

    left: float
    right: float
    air: float


def columns_of(
    layers: Layers,
    up: Near,
    down: Near,
    extents: Sequence[Extent],
    inner: Sequence[bool],
    weak: Set[tuple[int, int]] = frozenset(),
) -> list[float]:
    """The column of every node.

    Args:
        layers: The nodes of each layer in order.
        up: Of every node, its neighbours above.
        down: Of every node, its neighbours below.
        extents: The width of every node.
        inner: Whether a node is only a bend of a long edge, which should be straight.
        weak: Segments, upper end first, that need not be straight where others could be.
    """
    weak_up = {(below, above) for above, below in weak}
    clashes = _clashes(layers, up, inner)
    placings: list[list[float]] = []
    for near, bent, flip in ((up, weak_up, False), (down, weak, True)):
        towards = _strong(near, bent)
        for mirror in (False, True):
            rows = [list(reversed(row)) if mirror else list(row) for row in layers]
            if flip:
                rows.reverse()
            sides = [Extent(e.right, e.left, e.air) for e in extents] if mirror else extents
            root = _aligned(rows, towards, clashes)
            place = _packed(rows, root, sides)
            placings.append([-x for x in place] if mirror else place)
    return _balanced(placings, extents)


def _strong(near: Near, weak: Set[tuple[int, int]]) -> list[list[int]]:
    """The neighbours that a node would stand in line with."""
    strong = [
        [other for other in own if (node, other) not in weak] for node, own in enumerate(near)
    ]
    taken = {other for own in strong for other in own}
    return [
        own or [other for other in near[node] if other not in taken]
        for node, own in enumerate(strong)
    ]


def _clashes(layers: Layers, up: Near, inner: Sequence[bool]) -> set[tuple[int, int]]:
    """Segments that cross a straight part of a long edge; the long edge has the right of way."""
    clashes: set[tuple[int, int]] = set()
    for above, below in pairwise(layers):
        place = {node: index for index, node in enumerate(above)}
        low, scanned = 0, 0
        for index, node in enumerate(below):
            end = next((u for u in up[node] if inner[u]), None) if inner[node] else None
            if end is None and index < len(below) - 1:
                continue
            high = len(above) if end is None else place[end]
            for other in below[scanned : index + 1]:
                for tail in up[other]:
                    if (place[tail] < low or place[tail] > high) and not (
                        inner[tail] and inner[other]
                    ):
                        clashes.add((tail, other))
            scanned, low = index + 1, high
    return clashes


def _aligned(rows: Layers, towards: Near, clashes: set[tuple[int, int]]) -> list[int]:
    """The root of every node's block: each is aligned with a median neighbour where it can be."""
    size = len(towards)
    root, align, place = list(range(size)), list(range(size)), [0] * size
    for row in rows:
        for index, node in enumerate(row):
            place[node] = index
    for row in rows:
        reach = -1
        for node in row:
            near = sorted(towards[node], key=place.__getitem__)
            if not near:
                continue
            middle = len(near) - 1
            for other in dict.fromkeys((near[middle // 2], near[(middle + 1) // 2])):
                free = (other, node) not in clashes and (node, other) not in clashes
                if align[node] == node and reach < place[other] and free:
                    align[other] = node
                    root[node] = align[node] = root[other]
                    reach = place[other]
    return root


def _packed(rows: Layers, root: Sequence[int], extents: Sequence[Extent]) -> list[float]:
    """Every block as far left as it may stand, then drawn up to its right neighbours."""
    apart: dict[tuple[int, int], float] = {}
    for row in rows:
        for left, right in pairwise(row):
            gap = extents[left].right + extents[right].left
            gap += max(extents[left].air, extents[right].air)
            pair = (root[left], root[right])
            apart[pair] = max(apart.get(pair, 0.0), gap)
    before: dict[int, list[tuple[int, float]]] = {block: [] for block in root}
    after: dict[int, list[tuple[int, float]]] = {block: [] for block in root}
    for (left, right), gap in apart.items():
        after[left].append((right, gap))
        before[right].append((left, gap))
    order = [block for block in before if not before[block]]
    waiting = {block: len(before[block]) for block in before}
    for block in order:
        for right, _ in after[block]:
            waiting[right] -= 1
            if not waiting[right]:
                order.append(right)
    place = dict.fromkeys(before, 0.0)
    for block in order:
        place[block] = max((place[left] + gap for left, gap in before[block]), default=0.0)
    for block in reversed(order):
        if after[block]:
            room = min(place[right] - gap for right, gap in after[block])
            place[block] = max(place[block], room)
    return [place[block] for block in root]


def _balanced(placings: list[list[float]], extents: Sequence[Extent]) -> list[float]:
    """The four placings moved onto the narrowest of them, and the mean of the two medians."""
    if not extents:
        return []

    def borders(place: list[float]) -> tuple[float, float]:
        low = min(x - e.left for x, e in zip(place, extents, strict=True))
        return low, max(x + e.right for x, e in zip(place, extents, strict=True))

    spans = [borders(place) for place in placings]
    low, high = min(spans, key=lambda span: span[1] - span[0])
    moved = []
    for index, (place, span) in enumerate(zip(placings, spans, strict=True)):
        shift = high - span[1] if index % 2 else low - span[0]
        moved.append([x + shift for x in place])
    middles = [sorted(own)[1:3] for own in zip(*moved, strict=True)]
    return [(a + b) / 2 for a, b in middles]
