"""``stagegraph run``: train with a graph, in a folder that can be gone on with."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stagegraph.cli.output import complain
from stagegraph.cli.reading import GRAPH_HELP, read_graph
from stagegraph.errors import StageGraphError, did_you_mean
from stagegraph.session.job import Job
from stagegraph.session.preemption import PREEMPTED, Preempted

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("graph", help=GRAPH_HELP)
    parser.add_argument(
        "--task",
        required=True,
        metavar="MODULE:FUNCTION",
        help="what trains: a function that takes the job and calls job.engine(model=..., ...)",
    )
    parser.add_argument("--run", metavar="DIR", help="the run's folder (default: runs/NAME)")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run that the folder holds"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train; 75 if the process was told to go and the run can be resumed."""
    graph = read_graph(arguments.graph)
    folder = Path(arguments.run) if arguments.run else Path("runs") / _named(arguments.graph)
    job = Job(graph, folder, resume=arguments.resume, out=sys.stdout)
    task = _task(arguments.task)
    try:
        task(job)
        job.finish()
    except Preempted as preempted:
        complain(f"{folder}: {preempted}: stagegraph run ... --run {folder} --resume")
        return PREEMPTED
    finally:
        job.close()
    return 0


def _named(graph: str) -> str:
    return "stdin" if graph == "-" else Path(graph).stem


def _task(words: str) -> Callable[[Job], Any]:
    """The function that the command line names."""
    module, colon, name = words.partition(":")
    if not (module and colon and name):
        raise StageGraphError(f"--task {words!r}: write MODULE:FUNCTION, such as train:main")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        home = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the task's own import that fails
        raise StageGraphError(
            f"--task {words!r}: there is no module {error.name!r} here or among those installed"
        ) from error
    task = getattr(home, name, None)
    if not callable(task):
        functions = [key for key, value in vars(home).items() if callable(value)]
        raise StageGraphError(
            f"--task {words!r}: module {module!r} has no function {name!r}"
            f"{did_you_mean(name, functions)}"
        )
    found: Callable[[Job], Any] = task
    return found
