"""Reading the graph that a command was given."""

from __future__ import annotations

import sys
from pathlib import Path

from stagegraph.schema.load import load
from stagegraph.schema.stagegraph import StageGraph

__all__ = ["GRAPH_HELP", "read_graph"]

GRAPH_HELP = "a graph in YAML or JSON; - reads it from standard input"


def read_graph(name: str) -> StageGraph:
    """Read a graph from a file, or from standard input.

    Args:
        name: The file, or ``-``.

    Raises:
        DocumentError: It cannot be read.
    """
    return load(sys.stdin.read()) if name == "-" else load(Path(name))
