"""``stagegraph render GRAPH -o FILE``: a graph, or a run of it, as a picture or a text."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from stagegraph.cli.output import say
from stagegraph.cli.reading import GRAPH_HELP, read_graph
from stagegraph.drawing.render import Picture, render
from stagegraph.errors import UnsupportedError, did_you_mean
from stagegraph.runs.journal import read_journal

__all__ = ["add_arguments", "run"]

ENDINGS: dict[str, Picture] = {
    ".mmd": "mermaid",
    ".mermaid": "mermaid",
    ".dot": "dot",
    ".gv": "dot",
    ".svg": "svg",
    ".html": "html",
    ".htm": "html",
    ".txt": "text",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("graph", metavar="GRAPH", help=GRAPH_HELP)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help=f"the kind by its ending ({' '.join(ENDINGS)}); default: text to standard output",
    )
    parser.add_argument(
        "--as", dest="kind", choices=get_args(Picture), help="the kind, said outright"
    )
    parser.add_argument(
        "--journal", metavar="FILE", type=Path, help="a run's journal: draw the way it took"
    )


def run(arguments: argparse.Namespace) -> int:
    """Draw the graph."""
    kind = arguments.kind or _kind_of(arguments.output)
    records = read_journal(arguments.journal) if arguments.journal is not None else ()
    drawn = render(read_graph(arguments.graph), kind, records=records)
    if arguments.output is None:
        say(drawn)
        return 0
    path = Path(arguments.output)
    path.write_text(drawn, encoding="utf-8", newline="\n")
    say(str(path))
    return 0


def _kind_of(output: str | None) -> Picture:
    if output is None:
        return "text"
    ending = Path(output).suffix.lower()
    if ending not in ENDINGS:
        raise UnsupportedError(
            f"{output!r} has an ending that says no kind{did_you_mean(ending, ENDINGS)}; "
            "or say it with --as"
        )
    return ENDINGS[ending]
