"""Nesting: a region's nodes, in boxes for the sub-graphs they came from, all placed.

Every box is a level of its own and a piece of the level around it. A wire that crosses a border is
placed in each level it runs through, and put together again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from stagegraph.drawing.layers import turned_round
from stagegraph.drawing.level import LevelPlan, Piece, Stop, Wire, planned_level

__all__ = ["Frame", "Leaf", "Path", "Plan", "Tie", "planned"]

Path = tuple[str, ...]

PAD = 18.0
TITLE = 24.0


@dataclass(frozen=True, slots=True)
class Leaf:
    """A node to be placed: its size, the boxes around it, and room for loops at its right."""

    id: str
    width: float
    height: float
    group: Path = ()
    loops: float = 0.0


@dataclass(frozen=True, slots=True)
class Tie:
    """A link to be routed, with the size of its label; a weak one is not the way's backbone."""

    id: str
    source: str
    target: str
    label: tuple[float, float] | None = None
    weak: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """A rectangle: left, top, width and height."""

    x: float
    y: float
    width: float
    height: float


@dataclass(slots=True)
class Plan:
    """Where everything stands.

    Attributes:
        width: Of the page.
        height: Of the page.
        leaves: The frame of each node.
        boxes: The frame of each box.
        routes: Of each link, its straight parts from source to target.
        labels: The frame of each label.
    """

    width: float = 0.0
    height: float = 0.0
    leaves: dict[str, Frame] = field(default_factory=dict)
    boxes: dict[Path, Frame] = field(default_factory=dict)
    routes: dict[str, list[Stop]] = field(default_factory=dict)
    labels: dict[str, Frame] = field(default_factory=dict)


@dataclass(slots=True)
class _Level:
    """One box on its way: what is in it, and the wires that run in it."""

    path: Path
    children: list[str] = field(default_factory=list)
    boxes: dict[str, Path] = field(default_factory=dict)
    ties: list[tuple[Tie, str, str]] = field(default_factory=list)
    ports: list[Wire] = field(default_factory=list)
    plan: LevelPlan = field(default_factory=LevelPlan)


def planned(leaves: Sequence[Leaf], ties: Sequence[Tie]) -> Plan:
    """Place all nodes and links; a link from a node to itself is left to whoever draws.

    Args:
        leaves: In a sensible first order, the one to begin with first.
        ties: In the order in which to follow them.
    """
    levels = _levels(leaves)
    group = {leaf.id: leaf.group for leaf in leaves}
    for tie in ties:
        if tie.source != tie.target:
            common = _common(group[tie.source], group[tie.target])
            source = _child(common, group[tie.source], tie.source)
            target = _child(common, group[tie.target], tie.target)
            levels[common].ties.append((tie, source, target))
    turned: set[str] = set()
    wires: dict[Path, list[Wire]] = {}
    for path in sorted(levels, key=len):
        level = levels[path]
        arcs = [(tie.id, source, target) for tie, source, target in level.ties]
        back = turned_round(level.children, arcs)
        turned |= back
        wires[path] = [
            Wire(tie.id, target, source, tie.label, turned=True)
            if tie.id in back
            else Wire(tie.id, source, target, tie.label, weak=tie.weak)
            for tie, source, target in level.ties
        ]
        for tie, _, _ in level.ties:
            upper, lower = (tie.target, tie.source) if tie.id in back else (tie.source, tie.target)
            _add_ports(levels, path, group[upper], upper, tie.id, above=False)
            _add_ports(levels, path, group[lower], lower, tie.id, above=True)
    sizes = {leaf.id: leaf for leaf in leaves}
    for path in sorted(levels, key=len, reverse=True):
        level = levels[path]
        pieces = [_piece(child, level, levels, sizes) for child in level.children]
        level.plan = planned_level(pieces, [*wires[path], *level.ports])
    return _put_together(levels, sizes, ties, turned)


def _levels(leaves: Sequence[Leaf]) -> dict[Path, _Level]:
    levels: dict[Path, _Level] = {(): _Level(())}
    for leaf in leaves:
        for depth in range(len(leaf.group)):
            path = leaf.group[: depth + 1]
            if path not in levels:
                levels[path] = _Level(path)
                name = _box(path)
                levels[path[:-1]].children.append(name)
                levels[path[:-1]].boxes[name] = path
        levels[leaf.group].children.append(leaf.id)
    return levels


def _box(path: Path) -> str:
    return f"[{'.'.join(path)}]"


def _common(one: Path, other: Path) -> Path:
    depth = 0
    while depth < min(len(one), len(other)) and one[depth] == other[depth]:
        depth += 1
    return one[:depth]


def _child(level: Path, group: Path, leaf: str) -> str:
    """What stands for a node in a level around it: itself, or the box that it is in."""
    return leaf if group == level else _box(group[: len(level) + 1])


def _add_ports(
    levels: dict[Path, _Level], outer: Path, group: Path, leaf: str, tie: str, *, above: bool
) -> None:
    """The parts of a link inside the boxes between a level and one of its ends."""
    for depth in range(len(outer) + 1, len(group) + 1):
        path = group[:depth]
        child = _child(path, group, leaf)
        wire = Wire(tie, None, child) if above else Wire(tie, child, None)
        levels[path].ports.append(wire)


def _piece(child: str, level: _Level, levels: dict[Path, _Level], sizes: dict[str, Leaf]) -> Piece:
    if child not in level.boxes:
        leaf = sizes[child]
        half = leaf.width / 2
        return Piece(child, half, half + leaf.loops, leaf.height, half)
    inside = levels[level.boxes[child]]
    half = inside.plan.width / 2 + PAD
    ports = {
        wire.id: inside.plan.routes[wire.id][0 if wire.tail is None else -1].x - half + PAD
        for wire in inside.ports
    }
    return Piece(child, half, half, inside.plan.height + 2 * PAD + TITLE, half, ports)


def _put_together(
    levels: dict[Path, _Level],
    sizes: dict[str, Leaf],
    ties: Sequence[Tie],
    turned: set[str],
) -> Plan:
    plan = Plan(levels[()].plan.width, levels[()].plan.height)
    origin: dict[Path, tuple[float, float]] = {(): (0.0, 0.0)}
    parts: dict[str, list[tuple[int, list[Stop]]]] = {}
    label = {tie.id: tie.label for tie in ties}
    for path in sorted(levels, key=len):
        level = levels[path]
        dx, dy = origin[path]
        for child, (x, y) in level.plan.places.items():
            if child in level.boxes:
                inside = levels[level.boxes[child]].plan
                half = inside.width / 2 + PAD
                frame = Frame(dx + x - half, dy + y, 2 * half, inside.height + 2 * PAD + TITLE)
                plan.boxes[level.boxes[child]] = frame
                origin[level.boxes[child]] = (frame.x + PAD, frame.y + PAD + TITLE)
            else:
                leaf = sizes[child]
                plan.leaves[child] = Frame(dx + x - leaf.width / 2, dy + y, leaf.width, leaf.height)
        above = {wire.id for wire in level.ports if wire.tail is None}
        below = {wire.id for wire in level.ports if wire.head is None}
        for name, stops in level.plan.routes.items():
            order = len(path) if name in above else -len(path) if name in below else 0
            moved = [stop.moved(dx, dy) for stop in stops]
            parts.setdefault(name, []).append((order, moved))
        for name, (x, y) in level.plan.labels.items():
            size = label[name]
            assert size is not None
            plan.labels[name] = Frame(dx + x - size[0] / 2, dy + y - size[1] / 2, size[0], size[1])
    for name, pieces in parts.items():
        route = [stop for _, stops in sorted(pieces, key=lambda part: part[0]) for stop in stops]
        if name in turned:
            route = [Stop(stop.x, stop.bottom, stop.top) for stop in reversed(route)]
        plan.routes[name] = route
    return plan
