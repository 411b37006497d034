"""Ordering: who stands left of whom in a layer, so that few edges cross.

Barycentres up and down, then swaps of neighbours; the best order seen is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["crossings", "uncrossed"]

Layers = list[list[int]]
Near = Sequence[Sequence[int]]

_SMALL = 1500


def uncrossed(layers: Layers, up: Near, down: Near) -> Layers:
    """The layers with their nodes put in order.

    Args:
        layers: The nodes of each layer, from the top, in a first order.
        up: Of every node, its neighbours in the layer above.
        down: Of every node, its neighbours in the layer below.
    """
    size = sum(len(layer) for layer in layers)
    rounds = 16 if size <= _SMALL else 4
    order = [list(layer) for layer in layers]
    best, fewest = [list(layer) for layer in order], crossings(order, down)
    for turn in range(rounds):
        if not fewest:
            break
        place = _places(order, len(up))
        downwards = turn % 2 == 0
        inner = range(1, len(order)) if downwards else range(len(order) - 2, -1, -1)
        for index in inner:
            _by_barycentre(order[index], up if downwards else down, place)
        if size <= _SMALL:
            _swap_neighbours(order, up, down)
        count = crossings(order, down)
        if count < fewest:
            best, fewest = [list(layer) for layer in order], count
    return best


def crossings(layers: Layers, down: Near) -> int:
    """How many pairs of edges cross."""
    place = _places(layers, len(down))
    total = 0
    for layer in layers:
        ends = [sorted(place[below] for below in down[node]) for node in layer]
        total += _inversions([end for own in ends for end in own])
    return total


def _inversions(values: Sequence[int]) -> int:
    """How many pairs stand in the wrong order, by merge sort."""
    count = 0
    runs = [[value] for value in values]
    while len(runs) > 1:
        merged = []
        for index in range(0, len(runs) - 1, 2):
            run, found = _merge(runs[index], runs[index + 1])
            merged.append(run)
            count += found
        runs = merged + runs[len(runs) // 2 * 2 :]
    return count


def _merge(left: list[int], right: list[int]) -> tuple[list[int], int]:
    out: list[int] = []
    at = count = 0
    for value in right:
        while at < len(left) and left[at] <= value:
            out.append(left[at])
            at += 1
        count += len(left) - at
        out.append(value)
    return out + left[at:], count


def _places(layers: Layers, size: int) -> list[int]:
    place = [0] * size
    for layer in layers:
        for index, node in enumerate(layer):
            place[node] = index
    return place


def _by_barycentre(layer: list[int], near: Near, place: list[int]) -> None:
    """Sort a layer by the middle of each node's neighbours; one without any stays in place."""

    def middle(node: int) -> float:
        own = near[node]
        return sum(place[other] for other in own) / len(own) if own else place[node]

    layer.sort(key=middle)
    for index, node in enumerate(layer):
        place[node] = index


def _swap_neighbours(layers: Layers, up: Near, down: Near) -> None:
    place = _places(layers, len(up))
    for _ in range(4):
        better = False
        for layer in layers:
            for index in range(len(layer) - 1):
                left, right = layer[index], layer[index + 1]
                now = _between(left, right, up, place) + _between(left, right, down, place)
                then = _between(right, left, up, place) + _between(right, left, down, place)
                if then < now:
                    layer[index], layer[index + 1] = right, left
                    place[left], place[right] = index + 1, index
                    better = True
        if not better:
            return


def _between(left: int, right: int, near: Near, place: list[int]) -> int:
    """Crossings of the edges of two neighbours, ``left`` standing first."""
    return sum(place[a] > place[b] for a in near[left] for b in near[right])
