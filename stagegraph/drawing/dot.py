"""A chart as DOT, for Graphviz and whatever reads its language."""

from __future__ import annotations

from collections.abc import Iterable

from stagegraph.drawing.chart import Chart, ChartRegion, Link, Node
from stagegraph.drawing.clean import printable
from stagegraph.drawing.lettering import wrap
from stagegraph.drawing.palette import KINDS, ink_of
from stagegraph.drawing.wording import exact_number

__all__ = ["dot_text"]


def dot_text(chart: Chart) -> str:
    """The DOT digraph of a chart."""
    lines = [
        f"digraph {_string(chart.title)} {{",
        f"  label={_string(chart.title)}; labelloc=t; rankdir=TB; compound=true;",
        '  node [fontname="Helvetica", fontsize=11, style="rounded,filled", shape=box];',
        '  edge [fontname="Helvetica", fontsize=10, color="#5b6878"];',
    ]
    framed = len(chart.regions) > 1
    for index, region in enumerate(chart.regions):
        lines.append(f"  subgraph {f'cluster_{index}' if framed else f'region_{index}'} {{")
        if framed:
            lines.append(f'    label={_string(f"region {region.name}")}; color="#8b95a3";')
        lines += [f"    {line}" for line in _nodes(region, f"cluster_{index}")]
        lines += [f"    {_link(link, has_run=chart.has_run)}" for link in region.links]
        lines.append("  }")
    return "\n".join([*lines, "}"]) + "\n"


def _string(text: str, *, newline: str = "\\n") -> str:
    r"""Text as a DOT string: quotes, escapes and entities are meant literally.

    >>> _string('a "b" & \\N')
    '"a \\"b\\" &amp; \\\\N"'
    """
    text = printable(text).replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
    return '"' + text.replace("\n", newline) + '"'


def _nodes(region: ChartRegion, cluster: str) -> Iterable[str]:
    """The nodes, those of a sub-graph inside its cluster."""
    opened: tuple[str, ...] = ()
    for node in sorted(region.nodes, key=lambda node: node.group):
        while opened != node.group[: len(opened)]:
            opened = opened[:-1]
            yield "  " * len(opened) + "}"
        while len(opened) < len(node.group):
            opened = (*opened, node.group[len(opened)])
            name = _string(f"{cluster}.{'.'.join(opened)}")
            label = _string(opened[-1])
            yield "  " * (len(opened) - 1) + f"subgraph {name} {{ label={label}; style=dashed;"
        yield "  " * len(opened) + _node(node)
    while opened:
        opened = opened[:-1]
        yield "  " * len(opened) + "}"


def _node(node: Node) -> str:
    if node.shape == "initial":
        return f'{_string(node.key)} [shape=point, width=0.16, label=""];'
    ink = ink_of(node.kind)
    given: dict[str, str] = {}
    if node.shape in ("stop", "back"):
        given |= {"shape": "doublecircle", "label": _string(node.title), "fillcolor": '"white"'}
    else:
        rows = [node.title if node.shape == "interrupt" else f"{node.title} ({node.kind})"]
        rows += [line.text for line in node.lines]
        if node.visits:
            steps = f", {exact_number(node.steps)} steps" if node.steps else ""
            rows.append(f"{node.visits}× visited{steps}{', here now' if node.now else ''}")
        given |= {
            "label": _string("\n".join(rows)),
            "fillcolor": f'"{ink.fill}"',
            "color": f'"{ink.line}"',
        }
    if node.shape == "final":
        given["peripheries"] = "2"
    if node.shape == "interrupt":
        given["style"] = '"rounded,filled,dashed"'
    if node.visits:
        given["penwidth"] = "2.6"
    if node.tooltip:
        given["tooltip"] = _string(node.tooltip)
    return f"{_string(node.key)} [{', '.join(f'{k}={v}' for k, v in given.items())}];"


def _link(link: Link, *, has_run: bool) -> str:
    rows = list(wrap(link.guard, 36, 4))
    rows += link.extra
    if link.count and link.style != "initial":
        rows.append(f"taken {link.count}×")
    given: dict[str, str] = {}
    if rows:
        given["label"] = _string("\n".join(rows))
    if link.style in ("next", "interrupt", "fallback"):
        given["style"] = "dotted" if link.style == "fallback" else "dashed"
    if link.style == "interrupt":
        given["color"] = f'"{KINDS["interrupt"].line}"'
    if link.count:
        given["penwidth"] = "2.8"
    elif has_run:
        given["color"] = '"#b4bdca"'
    if link.tooltip:
        given["tooltip"] = given["labeltooltip"] = _string(link.tooltip)
    pair = f"{_string(link.source)} -> {_string(link.target)}"
    return f"{pair} [{', '.join(f'{k}={v}' for k, v in given.items())}];"
