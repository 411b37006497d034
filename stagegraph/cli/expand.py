"""``stagegraph expand GRAPH``: the plain graph, every template replaced by what it means."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

from stagegraph.cli.output import say
from stagegraph.cli.reading import GRAPH_HELP, read_graph
from stagegraph.schema.dump import dump
from stagegraph.schema.expansion import expand

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("graph", metavar="GRAPH", help=GRAPH_HELP)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="JSON if it ends in .json, else YAML; default: to standard output",
    )
    parser.add_argument(
        "--as", dest="form", choices=("yaml", "json"), help="the form, said outright"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the plain graph."""
    path = None if arguments.output is None else Path(arguments.output)
    by_name: Literal["yaml", "json"] = (
        "json" if path is not None and path.suffix.lower() == ".json" else "yaml"
    )
    form: Literal["yaml", "json"] = arguments.form or by_name
    text = dump(expand(read_graph(arguments.graph)), form)
    if path is None:
        say(text.rstrip("\n"))
        return 0
    path.write_text(text, encoding="utf-8", newline="\n")
    say(str(path))
    return 0
