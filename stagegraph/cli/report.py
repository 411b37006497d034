"""``stagegraph report RUN``: a run's report, as a self-contained page."""

from __future__ import annotations

import argparse
from pathlib import Path

from stagegraph.cli.output import say
from stagegraph.drawing.report import report_html
from stagegraph.graph.check import check
from stagegraph.runs.folder import RunFolder

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run's folder")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="default: report.html in the folder"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the report."""
    folder = RunFolder(arguments.run)
    graph = folder.graph()
    html = report_html(graph, folder.records(), findings=check(graph))
    if arguments.output is None:
        say(str(folder.write_report(html)))
        return 0
    arguments.output.write_text(html, encoding="utf-8", newline="\n")
    say(str(arguments.output))
    return 0
