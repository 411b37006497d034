"""Cards: nodes and labels with their text set, so that they know how large they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stagegraph.drawing.chart import Link, Node
from stagegraph.drawing.clean import clip
from stagegraph.drawing.lettering import mono_width, sans_width, wrap
from stagegraph.drawing.markup import Markup, element
from stagegraph.drawing.nesting import Frame
from stagegraph.drawing.palette import kind_class
from stagegraph.drawing.sheet import group, rectangle, text
from stagegraph.drawing.wording import exact_number

__all__ = ["Card", "chip_card", "node_card"]

ROW = 15.5
NAME = 14.0
BODY = 11.5
SMALL = 10.5
WIDEST = 268.0
COLUMNS = 42
CHIP_COLUMNS = 36
CHIP_ROWS = 4


@dataclass(frozen=True, slots=True)
class Card:
    """Something with text in it.

    Attributes:
        width: Its width.
        height: Its height.
        rows: Lines of text with their classes.
        node: The node it is for, if it is for one.
        link: The link it is for, if it is a label.
    """

    width: float
    height: float
    rows: tuple[tuple[str, str], ...] = ()
    node: Node | None = None
    link: Link | None = None

    def drawn(self, at: Frame, *, quiet: bool = False) -> Markup:
        """The card at its place; ``quiet``: it stands back."""
        if self.link is not None:
            return _drawn_chip(self, self.link, at, quiet=quiet)
        assert self.node is not None
        draw = {
            "initial": _drawn_initial,
            "stop": _drawn_stop,
            "back": _drawn_back,
            "jump": _drawn_jump,
            "interrupt": _drawn_interrupt,
        }.get(self.node.shape, _drawn_stage)
        return group(
            draw(self, self.node, at),
            f"{kind_class(self.node.kind)}{' back' if quiet else ''}"
            f"{' seen' if self.node.visits else ''}",
            tooltip=self.node.tooltip,
            data_key=self.node.key,
        )


# Nodes


def node_card(node: Node) -> Card:
    """The card of a node."""
    if node.shape == "initial":
        return Card(16, 16, node=node)
    if node.shape in ("stop", "back"):
        return Card(26, 26, node=node)
    if node.shape == "jump":
        return Card(min(WIDEST, sans_width(node.title, SMALL) + 20), 20, node=node)
    rows = [
        (row, {"during": "", "action": "kind", "interrupt": "k-interrupt"}.get(line.role, "soft"))
        for line in node.lines
        for row in wrap(line.text, COLUMNS, 2)
    ]
    widths = [sans_width(row, BODY) + 28 for row, _ in rows]
    if node.shape == "interrupt":
        title = sans_width(node.title, BODY, bold=True) + 40
        count = 40 if node.visits else 0
        width = min(WIDEST, max(90.0, title + count, *widths))
        return Card(width, 24 + ROW * len(rows) + 4, tuple(rows), node)
    title = sans_width(node.title, NAME, bold=True) + sans_width(node.kind, SMALL) + 48
    seen = _seen(node)
    widths.append(sans_width(seen, SMALL, bold=True) + 28)
    width = min(WIDEST, max(128.0, title, *widths))
    height = 30 + ROW * len(rows) + (7 if rows else 2) + (20 if seen else 0)
    height += 4 if seen and node.shape == "final" else 0
    return Card(width, height, tuple(rows), node)


def _seen(node: Node) -> str:
    if not node.visits and not node.now:
        return ""
    visits = f"{node.visits} visit{'s' if node.visits != 1 else ''}"
    steps = f" · {exact_number(node.steps)} step{'s' if node.steps != 1 else ''}"
    return visits + (steps if node.steps else "") + (" · here now" if node.now else "")


def _drawn_stage(card: Card, node: Node, at: Frame) -> Iterable[Markup]:
    corner = 12.0 if node.shape == "final" else 7.0
    if node.now:
        yield rectangle(at.x - 4, at.y - 4, at.width + 8, at.height + 8, "ring", corner=corner + 4)
    yield rectangle(at.x, at.y, at.width, at.height, "box", corner=corner)
    if node.shape == "final":
        yield rectangle(at.x + 4, at.y + 4, at.width - 8, at.height - 8, "box", corner=corner - 3)
    else:
        yield element(
            "path",
            attributes={
                "class": "bar",
                "d": f"M{at.x + 7:.1f},{at.y:.1f}h-1a6,6 0 0 0 -6,6v{at.height - 12:.1f}"
                "a6,6 0 0 0 6,6h1z",
            },
        )
    kind = sans_width(node.kind, SMALL)
    inset = 15.0
    room = at.width - 2 * inset - kind - 10
    yield text(_fitted(node.title, room, NAME, bold=True), at.x + inset, at.y + 21, "name")
    right = at.x + at.width - inset + 3
    yield text(node.kind, right, at.y + 21, "small kind", anchor="end")
    y = at.y + 39
    for row, classes in card.rows:
        fitted = _fitted(row, at.width - 2 * inset + 4, BODY)
        yield text(fitted, at.x + inset, y, classes)
        y += ROW
    seen = _seen(node)
    if seen:
        bottom = at.y + at.height - (12 if node.shape == "final" else 8)
        yield text(seen, at.x + inset, bottom, "small strong kind")


def _drawn_interrupt(card: Card, node: Node, at: Frame) -> Iterable[Markup]:
    yield rectangle(at.x, at.y, at.width, at.height, "box dashed", corner=12)
    yield element(
        "path",
        attributes={
            "class": "bar",
            "d": f"M{at.x + 18:.1f},{at.y + 6:.1f}l-6,8h4l-2,7l7,-9h-4l3,-6z",
        },
    )
    count = f"{node.visits}×" if node.visits else ""
    room = at.width - 40 - (36 if count else 0)
    name = _fitted(node.title, room, BODY, bold=True)
    yield text(name, at.x + 27, at.y + 18, "strong kind")
    if count:
        yield text(count, at.x + at.width - 13, at.y + 18, "strong kind", anchor="end")
    y = at.y + 34
    for row, _ in card.rows:
        yield text(_fitted(row, at.width - 24, BODY), at.x + 14, y, "soft")
        y += ROW


def _drawn_initial(card: Card, node: Node, at: Frame) -> Iterable[Markup]:
    yield _circle(at, 7, "dot")


def _drawn_stop(card: Card, node: Node, at: Frame) -> Iterable[Markup]:
    yield _circle(at, 11, "ring")
    yield _circle(at, 6, "dot")
    x, y = at.x + at.width + 4, at.y + at.height / 2 + 4
    yield text("stop", x, y, "small soft")


def _drawn_back(card: Card, node: Node, at: Frame) -> Iterable[Markup]:
    yield _circle(at, 11, "ring")
    x, y = at.x + at.width / 2, at.y + at.height / 2 + 4
    yield text("H", x, y, "strong", anchor="middle")
    yield text("back", at.x + at.width + 4, y, "small soft")


def _drawn_jump(card: Card, node: Node, at: Frame) -> Iterable[Markup]:
    yield rectangle(at.x, at.y, at.width, at.height, "wash", corner=10)
    title = _fitted(node.title, at.width - 16, SMALL)
    yield text(title, at.x + at.width / 2, at.y + 14, "small soft", anchor="middle")


def _circle(at: Frame, radius: float, classes: str) -> Markup:
    x, y = at.x + at.width / 2, at.y + at.height / 2
    return element("circle", attributes={"cx": x, "cy": y, "r": radius, "class": classes})


def _fitted(words: str, room: float, size: float, *, bold: bool = False) -> str:
    """Text cut until it fits."""
    if sans_width(words, size, bold=bold) <= room:
        return words
    columns = len(words)
    while columns > 1 and sans_width(clip(words, columns), size, bold=bold) > room:
        columns -= 1
    return clip(words, columns)


# Labels


def chip_card(link: Link) -> Card | None:
    """The card of a link's label, or ``None`` if it has none."""
    rows = [(row, "mono") for row in wrap(link.guard, CHIP_COLUMNS, CHIP_ROWS)]
    if link.style == "next":
        rows = [(row, "small soft") for row in wrap(link.guard, CHIP_COLUMNS, 2)]
    for extra in link.extra:
        rows += [(row, "small soft") for row in wrap(extra, CHIP_COLUMNS, 2)]
    if link.count and link.style != "initial":
        rows.append((f"taken {link.count}×", "small strong"))
    if not rows:
        return None
    width = max(
        mono_width(row, SMALL) if "mono" in classes else sans_width(row, SMALL, bold=True)
        for row, classes in rows
    )
    return Card(width + 16, 14.0 * len(rows) + 8, tuple(rows), link=link)


def _drawn_chip(card: Card, link: Link, at: Frame, *, quiet: bool) -> Markup:
    edge = {"interrupt": "chip k-interrupt", "next": "bare"}.get(link.style, "chip")
    parts = [rectangle(at.x, at.y, at.width, at.height, edge, corner=6)]
    y = at.y + 15
    for row, classes in card.rows:
        parts.append(text(row, at.x + at.width / 2, y, classes, anchor="middle"))
        y += 14.0
    if not quiet:
        return group(parts, tooltip=link.tooltip, data_label=link.id)
    backing = rectangle(at.x, at.y, at.width, at.height, "bare", corner=6)
    return group([backing, group(parts, "back")], tooltip=link.tooltip, data_label=link.id)
