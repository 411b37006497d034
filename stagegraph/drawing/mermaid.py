"""A chart as Mermaid text, valid for its strict parser whatever a document's names are.

It is written as a flowchart: its labels can be quoted, those of a state diagram cannot. Inside the
quotes every mark with a meaning of its own is written as an entity code; node names are numbers of
our own.
"""

from __future__ import annotations

from collections.abc import Iterable

from stagegraph.drawing.chart import Chart, ChartRegion, Link, Node
from stagegraph.drawing.clean import printable
from stagegraph.drawing.palette import KINDS, OTHER
from stagegraph.drawing.wording import exact_number

__all__ = ["mermaid_text"]

_SPECIAL = frozenset("\"#;&<>%`{}[]|\\*~$@^'")
"""Marks that mean something to Mermaid, to Markdown or to HTML."""


def mermaid_text(chart: Chart) -> str:
    """The Mermaid flowchart of a chart."""
    ids: dict[str, str] = {}
    lines = ["flowchart TB", f"  accTitle: {_single(chart.title)}"]
    styles: list[str] = []
    number = 0
    for index, region in enumerate(chart.regions):
        framed = len(chart.regions) > 1
        if framed:
            lines += [
                f'  subgraph r{index}["{quoted(f"region {region.name}")}"]',
                "    direction TB",
            ]
        pad = "    " if framed else "  "
        for node in region.nodes:
            ids[node.key] = f"s{len(ids)}"
        lines += [pad + line for line in _nodes(region, ids, index, has_run=chart.has_run)]
        for link in region.links:
            lines.append(pad + _link(link, ids))
            style = _link_style(link, has_run=chart.has_run)
            if style:
                styles.append(f"  linkStyle {number} {style}")
            number += 1
        if framed:
            lines.append("  end")
    return "\n".join([*lines, *_classes(chart), *styles]) + "\n"


def quoted(text: str) -> str:
    """Text as it may stand between the quotes of a Mermaid label.

    >>> quoted('a "b" <c>')
    'a #34;b#34; #60;c#62;'
    """
    return "".join(_coded(character) for character in printable(text))


def _coded(character: str) -> str:
    if character == "\n":
        return "<br/>"
    return f"#{ord(character)};" if character in _SPECIAL else character


def _single(text: str) -> str:
    """A title, which ends with its line."""
    kept = (c if c.isalnum() or c in " .,()_-" else " " for c in printable(text))
    return " ".join("".join(kept).split()) or "stage graph"


def _nodes(region: ChartRegion, ids: dict[str, str], index: int, *, has_run: bool) -> Iterable[str]:
    """The nodes, those of a sub-graph inside its box."""
    opened: tuple[str, ...] = ()
    grouped = sorted(region.nodes, key=lambda node: node.group)
    for node in grouped:
        while opened != node.group[: len(opened)]:
            opened = opened[:-1]
            yield "  " * len(opened) + "end"
        while len(opened) < len(node.group):
            name = node.group[len(opened)]
            box = f"r{index}_{'_'.join(map(str, (*opened, name)))}_"
            yield "  " * len(opened) + f'subgraph {box}["{quoted(name)}"]'
            opened = (*opened, name)
        yield "  " * len(opened) + _node(node, ids[node.key], has_run=has_run)
    while opened:
        opened = opened[:-1]
        yield "  " * len(opened) + "end"


def _node(node: Node, name: str, *, has_run: bool) -> str:
    match node.shape:
        case "initial":
            return f'{name}(("start")):::start'
        case "stop" | "back":
            return f'{name}((("{node.shape}"))):::start'
    rows = [node.title, *(line.text for line in node.lines)]
    if node.shape != "interrupt":
        rows[0] = f"{node.title} ({node.kind})"
    if node.visits:
        steps = f", {exact_number(node.steps)} steps" if node.steps else ""
        rows.append(f"{node.visits}× visited{steps}{', here now' if node.now else ''}")
    label = quoted("\n".join(rows))
    kind = node.kind if node.kind in KINDS else "other"
    seen = f"{kind}_seen" if has_run and node.visits else kind
    shape = {
        "final": f'((("{label}")))',
        "interrupt": f'>"{label}"]',
    }.get(node.shape, f'{{{{"{label}"}}}}' if node.kind == "grow" else f'["{label}"]')
    return f"{name}{shape}:::{seen}"


def _link(link: Link, ids: dict[str, str]) -> str:
    rows = [link.guard, *link.extra]
    if link.count and link.style != "initial":
        rows.append(f"taken {link.count}×")
    label = quoted("\n".join(row for row in rows if row))
    arrow = "-->" if link.style in ("transition", "initial") else "-.->"
    if link.count:
        arrow = "==>"
    named = f'|"{label}"|' if label else ""
    return f"{ids[link.source]} {arrow}{named} {ids[link.target]}"


def _link_style(link: Link, *, has_run: bool) -> str:
    parts = []
    if link.style == "interrupt":
        parts.append(f"stroke:{KINDS['interrupt'].line}")
    if has_run and not link.count:
        parts.append("opacity:0.45")
    return ",".join(parts)


def _classes(chart: Chart) -> Iterable[str]:
    yield "  classDef start fill:#1c2430,stroke:#1c2430,color:#ffffff"
    kinds = [kind if kind in KINDS else "other" for kind in chart.kinds]
    for kind in dict.fromkeys(kinds):
        ink = KINDS.get(kind, OTHER)
        dash = ",stroke-dasharray:5 3" if kind == "interrupt" else ""
        yield f"  classDef {kind} fill:{ink.fill},stroke:{ink.line},color:#1c2430{dash}"
        if chart.has_run:
            yield (
                f"  classDef {kind}_seen fill:{ink.fill},stroke:{ink.line},color:#1c2430,"
                f"stroke-width:4px{dash}"
            )
