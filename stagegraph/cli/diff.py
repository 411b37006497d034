"""``stagegraph diff A B``: what differs in meaning; spelling, notes and order of keys do not.

With a run's folder as A it also says whether the run could go on under B.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from stagegraph.cli.output import paint, say, say_json
from stagegraph.cli.reading import GRAPH_HELP, read_graph
from stagegraph.drawing.clean import for_terminal
from stagegraph.schema.differences import Difference, differences
from stagegraph.schema.stagegraph import StageGraph

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "a", metavar="A", help=f"{GRAPH_HELP}; or a run's folder: whether it could go on under B"
    )
    parser.add_argument("b", metavar="B", help="the graph to compare it with")
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="how to write the differences"
    )
    parser.add_argument("--exit-code", action="store_true", help="exit with 1 if they differ")


def run(arguments: argparse.Namespace) -> int:
    """Compare two graphs, or a run and a graph, and write what differs.

    Returns:
        0; with ``--exit-code`` 1 if they differ. With a run: 1 if it cannot go on so.
    """
    if Path(arguments.a).is_dir():
        return _compare_run(Path(arguments.a), read_graph(arguments.b), arguments)
    found = list(differences(read_graph(arguments.a), read_graph(arguments.b)))
    if arguments.format == "json":
        say_json([_to_json(difference) for difference in found])
    else:
        _say_differences(found)
    return 1 if found and arguments.exit_code else 0


def _compare_run(path: Path, graph: StageGraph, arguments: argparse.Namespace) -> int:
    # The engine is only needed here, and comparing two graphs should be quick.
    from stagegraph.cli.going_on import judged, say_refusals, standing
    from stagegraph.runs.folder import RunFolder

    now = standing(RunFolder(path))
    found = list(differences(now.graph, graph))
    refused, step = judged(now, graph), now.state.clock.step
    if arguments.format == "json":
        say_json(
            {
                "differences": [_to_json(difference) for difference in found],
                "refusals": [refusal.to_json() for refusal in refused],
                "step": step,
            }
        )
    else:
        _say_differences(found)
        say_refusals(path, refused, step)
    return 1 if refused or (found and arguments.exit_code) else 0


def _to_json(difference: Difference) -> dict[str, str | None]:
    return {key: getattr(difference, key) for key in Difference.__slots__}


def _say_differences(found: list[Difference]) -> None:
    for difference in found:
        say(paint(for_terminal(str(difference)), difference.kind))
    say(f"{len(found)} difference{'' if len(found) == 1 else 's'} in meaning")
