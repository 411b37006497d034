"""The ``stagegraph`` command: finds the sub-command, imports it, runs it.

Exit status: 0 when all is well, 1 when errors were found, 2 when the input cannot be read or the
words are wrong, 75 when a run was told to go and can be resumed, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, Protocol, cast

from stagegraph.errors import DocumentError, GraphError, StageGraphError, did_you_mean

__all__ = ["COMMANDS", "Command", "main"]

BROKEN_PIPE = 141
INTERRUPTED = 130

COMMANDS: Mapping[str, str] = {
    "validate": "say what is wrong with a graph",
    "expand": "write a graph with every template replaced by the stages that it means",
    "diff": "say what differs in meaning between two graphs, or whether a run can go on under one",
    "render": "draw a graph: mermaid, dot, svg, html or text",
    "simulate": "run a graph on numbers and say what it would do",
    "run": "train with a graph, in a folder that can be gone on with",
    "report": "write a run's report",
    "explain": "say why each transition of a run was taken",
    "watch": "show how a run stands, while it goes on",
    "send": "send an event of its graph to a run",
    "control": "pause, hold, force, extend or stop a run",
    "schema": "write the JSON Schema that editors complete and check with",
}
"""What can be asked for. ``stagegraph.cli.<name>`` is imported only when it is called."""


class Command(Protocol):
    """What the module of a command has."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""
        ...

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it, and return the exit status."""
        ...


class _Parser(argparse.ArgumentParser):
    """A parser that says what was meant."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments; default: those of the process.

    Returns:
        The exit status.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter must not complain at its last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return status


def _run(words: list[str]) -> int:
    parser = _Parser(
        prog="stagegraph", description="Train neural networks in stages, declared as a graph."
    )
    parser.add_argument("--version", action="store_true", help="say which version this is")
    named = next((word for word in words if not word.startswith("-")), None)
    if named is not None and named not in COMMANDS:
        parser.error(f"there is no command {named!r}{did_you_mean(named, COMMANDS)}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    run: Callable[[argparse.Namespace], int] | None = None
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=_sentence(summary))
        if name == named:
            command = cast(Command, importlib.import_module(f"stagegraph.cli.{name}"))
            command.add_arguments(sub)
            run = command.run
    arguments = parser.parse_args(words)
    if arguments.version:
        from importlib.metadata import version

        sys.stdout.write(f"stagegraph {version('stagegraph')}\n")
        return 0
    if run is None:
        parser.print_help(sys.stderr)
        return 2
    return _guarded(run, arguments)


def _guarded(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Turn what stagegraph refuses into a message and an exit status."""
    try:
        return run(arguments)
    except DocumentError as error:
        from stagegraph.cli.output import complain

        for defect in error.defects:
            complain(defect.describe(error.file))
        return 2
    except (StageGraphError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        from stagegraph.cli.output import complain

        for line in str(error).splitlines():
            complain(line)
        return 1 if isinstance(error, GraphError) else 2


def _sentence(summary: str) -> str:
    return f"{summary[0].upper()}{summary[1:]}."
