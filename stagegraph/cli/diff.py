"""``stagegraph diff A B``: what differs in meaning; spelling, notes and order of keys do not."""

from __future__ import annotations

import argparse

from stagegraph.cli.output import paint, say, say_json
from stagegraph.cli.reading import GRAPH_HELP, read_graph
from stagegraph.drawing.clean import for_terminal
from stagegraph.schema.differences import Difference, differences

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("a", metavar="A", help=GRAPH_HELP)
    parser.add_argument("b", metavar="B", help="the graph to compare it with")
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="how to write the differences"
    )
    parser.add_argument("--exit-code", action="store_true", help="exit with 1 if they differ")


def run(arguments: argparse.Namespace) -> int:
    """Compare two graphs and write what differs.

    Returns:
        0; with ``--exit-code`` 1 if they differ.
    """
    found = list(differences(read_graph(arguments.a), read_graph(arguments.b)))
    if arguments.format == "json":
        say_json([{key: getattr(d, key) for key in Difference.__slots__} for d in found])
    else:
        for difference in found:
            say(paint(for_terminal(str(difference)), difference.kind))
        say(f"{len(found)} difference{'' if len(found) == 1 else 's'} in meaning")
    return 1 if found and arguments.exit_code else 0
