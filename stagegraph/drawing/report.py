"""Report: a run on one page: what came of it, the way it took, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stagegraph.drawing.chart import Chart, made_chart
from stagegraph.drawing.clean import shown
from stagegraph.drawing.contributions import contributions
from stagegraph.drawing.happenings import certificates, happenings, transitions, unknown_records
from stagegraph.drawing.history import History, Record, read_history
from stagegraph.drawing.markup import Content, Markup, element, joined
from stagegraph.drawing.statechart import statechart_svg
from stagegraph.drawing.summing import Outcome, outcome_of
from stagegraph.drawing.timeline import timeline_of
from stagegraph.drawing.webpage import cards, figure, section, table, webpage
from stagegraph.drawing.wording import rough_number
from stagegraph.graph.findings import Finding
from stagegraph.schema.stagegraph import StageGraph

__all__ = ["graph_html", "report_html"]


def report_html(
    graph: StageGraph,
    records: Iterable[Record],
    *,
    planned: Iterable[Record] = (),
    findings: Sequence[Finding] = (),
) -> str:
    """A run as one self-contained page; a run that still goes on is shown as far as it has come.

    Args:
        graph: The document.
        records: The run's journal.
        planned: The records of a simulation, to be shown beside what happened.
        findings: What the checks had said.
    """
    history = read_history(records)
    chart = made_chart(graph, history)
    timeline = timeline_of(graph, history, read_history(planned), titled=False)
    parts: list[Content] = [
        *_headline(graph, history),
        section("The way taken", figure(statechart_svg(chart))),
        section("Timeline", figure(timeline, fit=True)),
        section("Transitions", transitions(history)),
        section("Growth", certificates(history)),
        contributions(history),
        section("Waits, verdicts, events and errors", happenings(history)),
        _findings(findings, chart),
        unknown_records(history),
    ]
    return webpage(f"{graph.name}: report", parts)


def graph_html(graph: StageGraph, chart: Chart, findings: Sequence[Finding] = ()) -> str:
    """A graph as one self-contained page: the picture, and every way out in full."""
    rows: list[list[Content]] = []
    for region in chart.regions:
        names = {node.key: node.title for node in region.nodes}
        for link in region.links:
            if link.style != "initial":
                full = link.tooltip.split("\n")
                rest = "; ".join(full[2:])
                code = element("code", full[1] if len(full) > 1 else link.guard)
                source, target = names[link.source], names[link.target]
                rows.append([region.name, source, target, link.style, code, rest])
    heads = ["Region", "From", "To", "Kind", "Condition", "Besides"]
    parts: list[Content] = [
        element("h1", graph.name),
        element("p", " · ".join(chart.facts), attributes={"class": "soft"}),
        element("p", graph.note) if graph.note else None,
        section("The graph", figure(statechart_svg(chart))),
        section("Ways", table(heads, rows)),
        _findings(findings, chart),
    ]
    return webpage(graph.name, parts)


def _headline(graph: StageGraph, history: History) -> list[Markup]:
    outcome = outcome_of(history)
    run = history.run
    told = [
        f"{word} {shown(run[key])}"
        for key, word in (
            ("started", "started"),
            ("stagegraph", "stagegraph"),
            ("seed", "seed"),
            ("digest", "graph"),
        )
        if run.get(key) is not None
    ]
    tone = "good" if outcome.finished else "link" if outcome.running else "bad"
    badge = element("span", outcome.state, attributes={"class": f"badge {tone}"})
    name = shown(run.get("graph", graph.name))
    title = element("h1", name, badge)
    return [
        title,
        element("p", " · ".join(told) or "no run record", attributes={"class": "soft"}),
        cards(_facts(graph, outcome)),
    ]


def _facts(graph: StageGraph, outcome: Outcome) -> Iterable[tuple[str, str, str]]:
    budget = graph.budget.steps
    yield "steps", f"{outcome.steps:,}", f"of {budget:,}" if budget else ""
    if outcome.wasted:
        yield "abandoned steps", f"{outcome.wasted:,}", "by roll-backs"
    first, last = outcome.params
    if first is not None and last is not None:
        grown = f"×{last / first:.3g}" if first and last != first else ""
        yield "parameters", f"{rough_number(first)} → {rough_number(last)}", grown
    for name, end, best in outcome.metrics(graph):
        yield name, rough_number(end), f"best {rough_number(best)}"
    yield "transitions", str(outcome.moves), ""
    yield "growths", str(outcome.growths), f"{outcome.undone} undone" if outcome.undone else ""
    yield "roll-backs", str(outcome.returns), ""
    if outcome.errors:
        yield "errors", str(outcome.errors), ""
    yield "stages now" if outcome.running else "stages at the end", outcome.stages or "unknown", ""


def _findings(findings: Sequence[Finding], chart: Chart) -> Markup | None:
    rows: list[list[Content]] = [
        [
            finding.severity + (" (waived)" if finding.waived else ""),
            element("code", finding.code),
            joined([finding.message, f" Waived: {finding.waived}." if finding.waived else None]),
            finding.remedy,
            f"{finding.file}:{finding.line}" if finding.line is not None else finding.pointer,
        ]
        for finding in findings
    ]
    rows += [["error", "", problem, "", ""] for problem in chart.problems]
    if not rows:
        return None
    return section("Findings", table(["Severity", "Code", "What", "Remedy", "Where"], rows))
