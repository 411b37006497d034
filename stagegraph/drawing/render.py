"""Render: one function for all kinds of pictures of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from stagegraph.drawing.chart import draw_up
from stagegraph.drawing.dot import dot_text
from stagegraph.drawing.history import Record
from stagegraph.drawing.mermaid import mermaid_text
from stagegraph.drawing.outline import outline_text
from stagegraph.drawing.report import graph_html, report_html
from stagegraph.drawing.statechart import statechart_svg
from stagegraph.errors import UnsupportedError, did_you_mean
from stagegraph.graph.findings import Finding
from stagegraph.schema.stagegraph import StageGraph

__all__ = ["PICTURES", "Picture", "render"]

Picture = Literal["mermaid", "dot", "svg", "html", "text"]

PICTURES: tuple[Picture, ...] = get_args(Picture)
"""The kinds of pictures."""


def render(
    graph: StageGraph,
    kind: Picture,
    *,
    records: Sequence[Record] = (),
    findings: Sequence[Finding] = (),
) -> str:
    """Draw a graph.

    Args:
        graph: The document.
        kind: ``mermaid``, ``dot``, ``svg``, ``html`` or ``text``.
        records: A run's journal; the way it took is then shown in the picture, and ``html`` is
            the report of the run.
        findings: What the checks said, for ``html``.

    Returns:
        The picture's text.

    Raises:
        UnsupportedError: There is no such kind.
    """
    if kind == "html" and records:
        return report_html(graph, records, findings=findings)
    chart = draw_up(graph, records)
    match kind:
        case "mermaid":
            return mermaid_text(chart)
        case "dot":
            return dot_text(chart)
        case "svg":
            return statechart_svg(chart)
        case "html":
            return graph_html(graph, chart, findings)
        case "text":
            return outline_text(chart)
    known = did_you_mean(kind, PICTURES)
    raise UnsupportedError(f"cannot render {kind!r}{known}; there are {', '.join(PICTURES)}")
