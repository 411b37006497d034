"""A chart as an outline for a terminal: stages in order, each with its ways out."""

from __future__ import annotations

from collections.abc import Iterable

from stagegraph.drawing.chart import Chart, ChartRegion, Link, Node
from stagegraph.drawing.clean import for_terminal
from stagegraph.drawing.wording import exact_number

__all__ = ["outline_text"]


def outline_text(chart: Chart) -> str:
    """The outline of a chart.

    ``●`` is where the run is, ``•`` where it was, ``○`` where it was not; without a run all stages
    have ``○``, a final one ``◎``.
    """
    lines = [for_terminal(chart.title), *(f"  {for_terminal(fact)}" for fact in chart.facts)]
    lines += [f"  ! {for_terminal(problem)}" for problem in chart.problems]
    for region in chart.regions:
        lines.append("")
        priority = f" (priority {region.priority})" if region.priority else ""
        lines.append(f"region {region.name}{priority}")
        lines += _region(region)
    return "\n".join(lines) + "\n"


def _region(region: ChartRegion) -> Iterable[str]:
    title = {node.key: _name(node) for node in region.nodes}
    ways: dict[str, list[Link]] = {}
    for link in region.links:
        ways.setdefault(link.source, []).append(link)
    stages = [node for node in region.nodes if node.shape in ("stage", "final")]
    first = next((link.target for link in region.links if link.style == "initial"), None)
    for node in stages:
        start = "→ " if node.key == first else "  "
        yield f"{start}{_mark(node)} {_name(node)} [{node.kind}]{_run(node)}"
        for line in node.lines:
            yield f"      {for_terminal(line.text)}"
        yield from _ways(ways.get(node.key, []), title)
    interrupts = [node for node in region.nodes if node.shape == "interrupt"]
    if interrupts:
        yield "  interrupts, looked at first"
    for node in interrupts:
        words = ", ".join(line.text for line in node.lines)
        yield f"    ! {for_terminal(node.title)} {for_terminal(words)}{_run(node)}"
        yield from _ways(ways.get(node.key, []), title, pad="  ")


def _ways(links: list[Link], title: dict[str, str], *, pad: str = "") -> Iterable[str]:
    for index, link in enumerate(links):
        corner = "└" if index == len(links) - 1 else "├"
        taken = f"  taken {link.count}×" if link.count else ""
        line = "┄▸" if link.style == "next" else "─▸"
        full = link.tooltip.split("\n")[1] if link.style != "fallback" else link.guard
        yield f"    {pad}{corner}{line} {title[link.target]}  {for_terminal(full)}{taken}"
        rail = " " if corner == "└" else "│"
        for extra in link.extra:
            yield f"    {pad}{rail}     {for_terminal(extra)}"


def _name(node: Node) -> str:
    return for_terminal(".".join((*node.group, node.title)))


def _mark(node: Node) -> str:
    if node.now:
        return "●"
    if node.visits:
        return "•"
    return "◎" if node.shape == "final" else "○"


def _run(node: Node) -> str:
    if not node.visits:
        return ""
    steps = f", {exact_number(node.steps)} steps" if node.steps else ""
    return f"  {node.visits}×{steps}{', here now' if node.now else ''}"
