"""Statechart: a graph as an SVG picture, regions side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stagegraph.drawing.cards import Card, chip_card, node_card
from stagegraph.drawing.chart import Chart, ChartRegion, Link
from stagegraph.drawing.clean import clip
from stagegraph.drawing.jumps import with_jumps
from stagegraph.drawing.lettering import sans_width, wrap
from stagegraph.drawing.level import Stop
from stagegraph.drawing.markup import Markup, element, joined, number
from stagegraph.drawing.nesting import Frame, Leaf, Plan, Tie, planned
from stagegraph.drawing.palette import KINDS, kind_class
from stagegraph.drawing.sheet import group, page, rectangle, text

__all__ = ["statechart_svg"]

MARGIN = 24.0
BETWEEN = 22.0
ROW_WIDTH = 2600.0
TIP = 8.0
STUB = 10.0
LOOP = 30.0


def statechart_svg(chart: Chart) -> str:
    """The picture of a chart."""
    drawn = [
        _Drawn.of(region, framed=len(chart.regions) > 1, has_run=chart.has_run)
        for region in chart.regions
    ]
    places, width, bottom = _side_by_side(drawn)
    width = max(width, 560.0)
    head, top = _head(chart, width)
    foot, height = _legend(chart, width, top + bottom + 20)
    body = [
        element(
            "g",
            region.markup,
            attributes={"transform": f"translate({number(x)},{number(y + top)})"},
        )
        for region, (x, y) in zip(drawn, places, strict=True)
    ]
    return page(
        [*head, *body, *foot],
        width,
        height,
        title=f"Stage graph {chart.title}",
        description=_described(chart),
    )


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A region's picture and its size."""

    markup: Markup
    width: float
    height: float

    @staticmethod
    def of(region: ChartRegion, *, framed: bool, has_run: bool) -> _Drawn:
        region = with_jumps(region)
        cards = {node.key: node_card(node) for node in region.nodes}
        chips = {link.id: chip_card(link) for link in region.links}
        loops = _loops(region, chips)
        plan = _plan(region, cards, chips, loops)
        pad, title = (20.0, 26.0) if framed else (0.0, 0.0)
        parts: list[Markup] = []
        width, height = plan.width + 2 * pad, plan.height + 2 * pad + title
        if framed:
            name = f"region {region.name}"
            priority = f" · priority {region.priority}" if region.priority else ""
            width = max(width, sans_width(name + priority, 13, bold=True) + 2 * pad)
            parts.append(rectangle(0.5, 0.5, width - 1, height - 1, "wash", corner=10))
            parts.append(text(name + priority, 16, 24, "strong soft"))
        inner = [
            *_boxes(region, plan),
            *(_way(link, plan.routes[link.id], has_run=has_run) for link in _ordered(region, plan)),
            *_loop_ways(region, plan, loops, has_run=has_run),
            *(
                cards[node.key].drawn(
                    plan.leaves[node.key], quiet=has_run and not _seen(node.visits, node.shape)
                )
                for node in region.nodes
            ),
            *(
                chip.drawn(plan.labels[link.id], quiet=has_run and not link.count)
                for link in region.links
                if (chip := chips[link.id]) is not None and link.id in plan.labels
            ),
        ]
        shift = f"translate({number(pad)},{number(pad + title)})"
        classes = "framed" if framed else None
        parts.append(element("g", joined(inner), attributes={"transform": shift, "class": classes}))
        return _Drawn(joined(parts), width, height)


def _seen(visits: int, shape: str) -> bool:
    return visits > 0 or shape in ("initial", "stop", "back")


def _plan(
    region: ChartRegion,
    cards: dict[str, Card],
    chips: dict[str, Card | None],
    loops: dict[str, list[Link]],
) -> Plan:
    leaves = []
    for node in region.nodes:
        card = cards[node.key]
        own = [chip for link in loops.get(node.key, ()) if (chip := chips[link.id]) is not None]
        room = max((LOOP + 6 + chip.width for chip in own), default=0.0)
        room = max(room, 32.0 if node.shape in ("stop", "back") else 0.0)
        height = max(card.height, sum(chip.height + 8 for chip in own))
        leaves.append(Leaf(node.key, card.width, height, node.group, room))
    ties = []
    for link in region.links:
        chip = chips[link.id]
        label = None if chip is None else (chip.width, chip.height)
        weak = link.style in ("interrupt", "fallback")
        ties.append(Tie(link.id, link.source, link.target, label, weak))
    plan = planned(leaves, ties)
    for key, links in loops.items():
        at = plan.leaves[key]
        y = at.y
        for link in links:
            chip = chips[link.id]
            if chip is not None:
                plan.labels[link.id] = Frame(at.x + at.width + LOOP, y, chip.width, chip.height)
                y += chip.height + 8
    return plan


def _loops(region: ChartRegion, chips: dict[str, Card | None]) -> dict[str, list[Link]]:
    loops: dict[str, list[Link]] = {}
    for link in region.links:
        if link.source == link.target:
            loops.setdefault(link.source, []).append(link)
    return loops


def _ordered(region: ChartRegion, plan: Plan) -> list[Link]:
    """Links as they are to be painted: those that were taken on top."""
    own = [link for link in region.links if link.id in plan.routes]
    return sorted(own, key=lambda link: bool(link.count))


# Ways


def _classes(link: Link) -> tuple[str, str]:
    """The classes of a way's line and of its tip."""
    line = {"next": "way dashed", "interrupt": "way dashed k-interrupt", "fallback": "way dotted"}
    tip = "tip k-interrupt" if link.style == "interrupt" else "tip"
    return line.get(link.style, "way") + (" taken" if link.count else ""), tip


def _way(link: Link, route: Sequence[Stop], *, has_run: bool) -> Markup:
    line, tip = _classes(link)
    first, last = route[0], route[-1]
    down = (last.bottom, last.top) > (last.top, last.bottom)
    if last.top == last.bottom:
        down = last.bottom >= route[-2].bottom
    sign = 1.0 if down else -1.0
    enter = min(last.top * sign, last.bottom * sign - STUB) * sign
    leave = max(first.bottom * sign, first.top * sign + STUB) * sign
    stops = [
        Stop(first.x, first.top, leave),
        *route[1:-1],
        Stop(last.x, enter, last.bottom - sign * (TIP - 2)),
    ]
    quiet = has_run and not link.count
    return group(
        [
            element("path", attributes={"class": line, "d": _curve(stops)}),
            _tip(last.x, last.bottom, sign, tip),
        ],
        "back" if quiet else "",
        tooltip=link.tooltip,
        data_edge=link.id,
    )


def _curve(stops: Sequence[Stop]) -> str:
    """Straight through the layers, in an S from one to the next."""
    parts = [f"M{number(stops[0].x)},{number(stops[0].top)}"]
    previous: Stop | None = None
    for stop in stops:
        if previous is not None:
            if abs(previous.x - stop.x) < 0.05:
                parts.append(f"V{number(stop.top)}")
            else:
                middle = number((previous.bottom + stop.top) / 2)
                parts.append(
                    f"C{number(previous.x)},{middle} {number(stop.x)},{middle} "
                    f"{number(stop.x)},{number(stop.top)}"
                )
        if stop.bottom != stop.top:
            parts.append(f"V{number(stop.bottom)}")
        previous = stop
    return "".join(parts)


def _tip(x: float, y: float, sign: float, classes: str) -> Markup:
    base = y - sign * TIP
    points = (
        f"{number(x)},{number(y)} {number(x - 4)},{number(base)} {number(x + 4)},{number(base)}"
    )
    return element("polygon", attributes={"class": classes, "points": points})


def _loop_ways(
    region: ChartRegion, plan: Plan, loops: dict[str, list[Link]], *, has_run: bool
) -> list[Markup]:
    parts = []
    for key, links in loops.items():
        at = plan.leaves[key]
        right = at.x + at.width
        for link in links:
            label = plan.labels.get(link.id)
            y = label.y + label.height / 2 if label else at.y + at.height / 2
            line, tip = _classes(link)
            path = f"M{number(right)},{number(y - 8)}h12a8,8 0 0 1 0,16h-6"
            points = f"{number(right)},{number(y + 8)} {number(right + TIP)},{number(y + 4)} "
            points += f"{number(right + TIP)},{number(y + 12)}"
            parts.append(
                group(
                    [
                        element("path", attributes={"class": line, "d": path}),
                        element("polygon", attributes={"class": tip, "points": points}),
                    ],
                    "back" if has_run and not link.count else "",
                    tooltip=link.tooltip,
                    data_edge=link.id,
                )
            )
    return parts


def _boxes(region: ChartRegion, plan: Plan) -> list[Markup]:
    parts = []
    for path, at in sorted(plan.boxes.items(), key=lambda item: len(item[0])):
        use = region.uses.get(path)
        name = path[-1] + (f" uses {use}" if use else "")
        shown = clip(name, max(4, int(at.width / 7)))
        x = _free(plan, at, sans_width(shown, 11.5, bold=True))
        parts.append(
            group(
                [
                    rectangle(at.x, at.y, at.width, at.height, "frame dashed", corner=12),
                    text(shown, x, at.y + 20, "strong soft"),
                ],
                tooltip=f"{'.'.join(path)}{f' uses {use}' if use else ''}",
                data_box=".".join(path),
            )
        )
    return parts


def _free(plan: Plan, at: Frame, room: float) -> float:
    """Where a box's name can stand without a way running through it."""
    crossing = sorted(
        stop.x
        for route in plan.routes.values()
        for stop in route
        if min(stop.top, stop.bottom) <= at.y + 24
        and max(stop.top, stop.bottom) >= at.y
        and at.x < stop.x < at.x + at.width
    )
    x = at.x + 14
    for wire in crossing:
        if x - 6 < wire < x + room + 6:
            x = wire + 9
    return x if x + room <= at.x + at.width - 8 else at.x + 14


# The page around


def _side_by_side(drawn: Sequence[_Drawn]) -> tuple[list[tuple[float, float]], float, float]:
    """The place of each region, and the size of them all; long rows are broken."""
    places: list[tuple[float, float]] = []
    x, y, row, widest = MARGIN, 0.0, 0.0, 0.0
    for region in drawn:
        if x > MARGIN and x + region.width > ROW_WIDTH:
            x, y, row = MARGIN, y + row + BETWEEN, 0.0
        places.append((x, y))
        x += region.width + BETWEEN
        row = max(row, region.height)
        widest = max(widest, x - BETWEEN + MARGIN)
    return places, widest, y + row


def _head(chart: Chart, width: float) -> tuple[list[Markup], float]:
    """The title and the facts, and where they end."""
    columns = int((width - 2 * MARGIN) / 6.6)
    parts = [text(clip(chart.title, int(columns * 0.62)), MARGIN, 38, "title")]
    y = 58.0
    for row in wrap(" · ".join(chart.facts), columns, 3):
        parts.append(text(row, MARGIN, y, "soft"))
        y += 16
    for problem in chart.problems[:8]:
        parts.append(text(clip(problem, columns), MARGIN, y, "k-interrupt"))
        y += 16
    return parts, y + 8


def _legend(chart: Chart, width: float, y: float) -> tuple[list[Markup], float]:
    """What colours and lines mean, and where the page ends."""
    parts: list[Markup] = []
    x = MARGIN
    y += 14
    entries: list[tuple[str, str]] = [(kind, "kind") for kind in chart.kinds if kind != "interrupt"]
    styles = {link.style for region in chart.regions for link in region.links}
    names = {"transition": "transition", "next": "next, when completed", "interrupt": "interrupt"}
    entries += [(name, style) for style, name in names.items() if style in styles]
    if chart.has_run:
        entries.append(("taken by the run", "taken"))
    for name, what in entries:
        room = sans_width(name, 10.5) + 44
        if x + room > width - MARGIN and x > MARGIN:
            x, y = MARGIN, y + 20
        if what == "kind":
            known = kind_class(name if name in KINDS else "")
            swatch = rectangle(x, y - 10, 20, 13, "box", corner=3)
            parts.append(group([swatch], known))
        else:
            line = {
                "next": "way dashed",
                "interrupt": "way dashed k-interrupt",
                "taken": "way taken",
            }.get(what, "way")
            path = f"M{number(x)},{number(y - 4)}h22"
            parts.append(element("path", attributes={"class": line, "d": path}))
        parts.append(text(name, x + 27, y, "small soft"))
        x += room
    return parts, y + 22


def _described(chart: Chart) -> str:
    """The picture in words, for whoever cannot see it."""
    sentences = []
    for region in chart.regions:
        names = {node.key: node.title for node in region.nodes}
        stages = [f"{n.title} ({n.kind})" for n in region.nodes if n.shape in ("stage", "final")]
        sentences.append(f"Region {region.name}: {', '.join(stages)}.")
        for link in region.links:
            if link.style != "initial":
                taken = f", taken {link.count} times" if link.count else ""
                way = f"{names[link.source]} to {names[link.target]}"
                sentences.append(f"{way} {link.guard}{taken}.")
    return " ".join(sentences)
