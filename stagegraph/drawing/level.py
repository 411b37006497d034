"""Level: boxes and the wires between them, placed on a page without overlaps.

All wires lead down here. A wire runs straight through every layer and bends only in the air between
two layers, so that it never runs through a box; a label stands on its own wire, in a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from stagegraph.drawing.columns import Extent, columns_of
from stagegraph.drawing.layers import layers_of
from stagegraph.drawing.ordering import uncrossed

__all__ = ["LevelPlan", "Piece", "Stop", "Wire", "planned_level"]

AIR_ACROSS = 26.0
AIR_BENDS = 16.0
AIR_DOWN = 21.0
AIR_DOWN_MOST = 58.0
PORTS_APART = 24.0


@dataclass(frozen=True, slots=True)
class Piece:
    """A box to be placed.

    Attributes:
        id: Its name.
        left: How far it reaches left of its column.
        right: How far it reaches right of it, room for its loops included.
        height: How high it is.
        body: How far its own border is right of the column; wires end between the borders.
        ports: For a box with something inside: where across it a wire enters, from the column.
    """

    id: str
    left: float
    right: float
    height: float
    body: float = 0.0
    ports: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wire:
    """A wire that leads down from one piece to another.

    Attributes:
        id: Its name.
        tail: The upper piece; ``None``: it comes in at the top of the page.
        head: The lower piece; ``None``: it goes out at the bottom.
        label: Width and height of its label.
        turned: Whether it was turned round; its label then stands near the other end.
        weak: Whether others go first in being straight.
    """

    id: str
    tail: str | None
    head: str | None
    label: tuple[float, float] | None = None
    turned: bool = False
    weak: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """A straight part of a wire: at column ``x`` from ``top`` to ``bottom``."""

    x: float
    top: float
    bottom: float

    def moved(self, dx: float, dy: float) -> Stop:
        """The same, elsewhere."""
        return Stop(self.x + dx, self.top + dy, self.bottom + dy)


@dataclass(slots=True)
class LevelPlan:
    """Where everything of a level stands; the origin is its upper left corner.

    Attributes:
        width: Of the page.
        height: Of the page.
        places: Column and top of each piece.
        routes: Of each wire, its straight parts from the top.
        labels: Column and middle of each label.
    """

    width: float = 0.0
    height: float = 0.0
    places: dict[str, tuple[float, float]] = field(default_factory=dict)
    routes: dict[str, list[Stop]] = field(default_factory=dict)
    labels: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(slots=True)
class _Grid:
    """Pieces, bends, labels and ports as numbered nodes of layers."""

    layers: list[list[int]]
    extents: list[Extent] = field(default_factory=list)
    heights: list[float] = field(default_factory=list)
    inner: list[bool] = field(default_factory=list)
    up: list[list[int]] = field(default_factory=list)
    down: list[list[int]] = field(default_factory=list)

    def add(self, layer: int, extent: Extent, height: float, *, inner: bool) -> int:
        node = len(self.extents)
        self.layers[layer].append(node)
        self.extents.append(extent)
        self.heights.append(height)
        self.inner.append(inner)
        self.up.append([])
        self.down.append([])
        return node

    def join(self, upper: int, lower: int) -> None:
        self.down[upper].append(lower)
        self.up[lower].append(upper)


_BEND = Extent(0.0, 0.0, AIR_BENDS)


def planned_level(pieces: Sequence[Piece], wires: Sequence[Wire]) -> LevelPlan:
    """Place pieces and wires.

    Args:
        pieces: In a sensible first order.
        wires: All leading down, without cycles.
    """
    layer_of, depth = _depths(pieces, wires)
    label_layers = _label_layers(wires, layer_of, depth)
    grid = _Grid([[] for _ in range(depth)])
    nodes = {
        piece.id: grid.add(
            layer_of[piece.id],
            Extent(piece.left, piece.right, AIR_ACROSS),
            piece.height,
            inner=False,
        )
        for piece in pieces
    }
    chains = {wire.id: _chain(grid, wire, nodes, layer_of, label_layers, depth) for wire in wires}
    grid.layers = uncrossed(grid.layers, grid.up, grid.down)
    weak = {
        pair for wire in wires if wire.weak or wire.turned for pair in _both_ends(chains[wire.id])
    }
    columns = columns_of(grid.layers, grid.up, grid.down, grid.extents, grid.inner, weak)
    left = min((x - e.left for x, e in zip(columns, grid.extents, strict=True)), default=0.0)
    columns = [x - left for x in columns]
    tops, heights = _rows(grid, columns)
    plan = LevelPlan(
        width=max((x + e.right for x, e in zip(columns, grid.extents, strict=True)), default=0.0),
        height=tops[-1] + heights[-1] if tops else 0.0,
    )
    for piece in pieces:
        row = layer_of[piece.id]
        middle = tops[row] + (heights[row] - piece.height) / 2
        plan.places[piece.id] = (columns[nodes[piece.id]], middle)
    ends = _ends(pieces, wires, nodes, chains, columns)
    of = {piece.id: piece for piece in pieces}
    row_of = {node: row for row, layer in enumerate(grid.layers) for node in layer}
    for wire in wires:
        stops: list[Stop] = []
        for node in chains[wire.id]:
            row = row_of[node]
            top, bottom, x = tops[row], tops[row] + heights[row], columns[node]
            if wire.tail is not None and node == nodes[wire.tail]:
                y = plan.places[wire.tail][1] + of[wire.tail].height
                stops.append(Stop(ends[wire.id, "tail"], y, bottom))
            elif wire.head is not None and node == nodes[wire.head]:
                stops.append(Stop(ends[wire.id, "head"], top, plan.places[wire.head][1]))
            else:
                stops.append(Stop(x, top, bottom))
            if label_layers.get(wire.id) == row and grid.inner[node]:
                plan.labels[wire.id] = (x, (top + bottom) / 2)
        plan.routes[wire.id] = stops
    return plan


def _depths(pieces: Sequence[Piece], wires: Sequence[Wire]) -> tuple[dict[str, int], int]:
    """The layer of each piece, and how many layers there are, those of ports included."""
    first = 2 if any(wire.tail is None for wire in wires) else 0
    arcs = [
        (wire.id, wire.tail, wire.head)
        for wire in wires
        if wire.tail is not None and wire.head is not None
    ]
    layer_of = layers_of([piece.id for piece in pieces], arcs, first=first)
    last = max(layer_of.values(), default=0)
    last += 2 if any(wire.head is None for wire in wires) else 0
    return layer_of, last + 1


def _label_layers(wires: Sequence[Wire], layer_of: dict[str, int], depth: int) -> dict[str, int]:
    """The odd layer of each label: where there is most room, and then near its stage."""
    used: dict[int, float] = {}
    chosen: dict[str, int] = {}
    spans = []
    for index, wire in enumerate(wires):
        top = 0 if wire.tail is None else layer_of[wire.tail]
        bottom = depth - 1 if wire.head is None else layer_of[wire.head]
        if wire.label is not None:
            spans.append((bottom - top, index, top, bottom, wire, wire.label[0]))
    for _, _, top, bottom, wire, width in sorted(spans, key=lambda span: span[:2]):
        rows = list(range(top + 1, bottom, 2))
        if wire.turned:
            rows.reverse()
        row = min(rows, key=lambda row: used.get(row, 0.0))
        used[row] = used.get(row, 0.0) + width + AIR_ACROSS
        chosen[wire.id] = row
    return chosen


def _chain(
    grid: _Grid,
    wire: Wire,
    nodes: dict[str, int],
    layer_of: dict[str, int],
    label_layers: dict[str, int],
    depth: int,
) -> list[int]:
    """The nodes that a wire runs through, with the bends it needs on the way."""
    top = 0 if wire.tail is None else layer_of[wire.tail]
    bottom = depth - 1 if wire.head is None else layer_of[wire.head]
    chain = [grid.add(0, _BEND, 0.0, inner=True) if wire.tail is None else nodes[wire.tail]]
    for row in range(top + 1, bottom):
        if label_layers.get(wire.id) == row and wire.label is not None:
            half = wire.label[0] / 2
            extent, height = Extent(half, half, AIR_BENDS), wire.label[1]
        else:
            extent, height = _BEND, 0.0
        chain.append(grid.add(row, extent, height, inner=True))
    if wire.head is None:
        chain.append(grid.add(depth - 1, _BEND, 0.0, inner=True))
    else:
        chain.append(nodes[wire.head])
    for upper, lower in pairwise(chain):
        grid.join(upper, lower)
    return chain


def _both_ends(chain: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    return (chain[0], chain[1]), (chain[-2], chain[-1])


def _rows(grid: _Grid, columns: Sequence[float]) -> tuple[list[float], list[float]]:
    """Top and height of every layer; the further wires run across, the more air under it."""
    tops, heights, y = [], [], 0.0
    for layer in grid.layers:
        height = max((grid.heights[node] for node in layer), default=0.0)
        tops.append(y)
        heights.append(height)
        across = max(
            (abs(columns[node] - columns[below]) for node in layer for below in grid.down[node]),
            default=0.0,
        )
        y += height + min(AIR_DOWN_MOST, AIR_DOWN + 0.11 * across)
    return tops, heights


def _ends(
    pieces: Sequence[Piece],
    wires: Sequence[Wire],
    nodes: dict[str, int],
    chains: dict[str, list[int]],
    columns: Sequence[float],
) -> dict[tuple[str, str], float]:
    """Where across a piece's border each of its wires begins or ends: straight, if it can be."""
    at: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for wire in wires:
        chain = chains[wire.id]
        if wire.tail is not None:
            at.setdefault((wire.tail, "tail"), []).append((columns[chain[1]], wire.id))
        if wire.head is not None:
            at.setdefault((wire.head, "head"), []).append((columns[chain[-2]], wire.id))
    ends: dict[tuple[str, str], float] = {}
    for piece in pieces:
        column = columns[nodes[piece.id]]
        for side in ("tail", "head"):
            near = sorted(at.get((piece.id, side), ()))
            if piece.ports:
                for _, wire_id in near:
                    ends[wire_id, side] = column + piece.ports[wire_id]
                continue
            low, high = column - piece.left + 16, column + piece.body - 16
            if low > high:
                low = high = column + (piece.body - piece.left) / 2
            for (_, wire_id), x in zip(near, _spread([x for x, _ in near], low, high), strict=True):
                ends[wire_id, side] = x
    return ends


def _spread(wanted: Sequence[float], low: float, high: float) -> list[float]:
    """Places in a range, near those wanted, in their order and apart from each other.

    >>> _spread([0, 0, 90], 0, 100)
    [0.0, 24.0, 90.0]
    """
    if not wanted:
        return []
    apart = min(PORTS_APART, (high - low) / (len(wanted) - 1)) if len(wanted) > 1 else 0.0
    places: list[float] = []
    for x in wanted:
        place = min(max(float(x), low), high)
        places.append(max(place, places[-1] + apart) if places else place)
    limit = high
    for index in range(len(places) - 1, -1, -1):
        places[index] = min(places[index], limit)
        limit = places[index] - apart
    return places
