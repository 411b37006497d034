"""Sending a message to a run, and waiting for what it answers."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from stagegraph.cli.output import complain, say
from stagegraph.drawing.clean import for_terminal
from stagegraph.engine.commands import Message
from stagegraph.graph.compile import compile_graph
from stagegraph.graph.compiled import CompiledGraph
from stagegraph.runs.folder import RunFolder
from stagegraph.runs.inbox import Answer, post, read_answer
from stagegraph.runs.status import presence, read_status

__all__ = ["add_arguments", "deliver", "graph_of"]

LOOK = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what every message has."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run's folder")
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=_seconds,
        default=10.0,
        help="how long to wait for the answer; 0 does not wait (default: 10)",
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < 1e9:
        raise ValueError("seconds are finite, from 0")
    return seconds


def graph_of(run: Path) -> CompiledGraph:
    """The graph that a folder's run follows.

    Raises:
        RunFolderError: The folder holds no run.
        DocumentError: Its graph cannot be read.
    """
    compiled, _ = compile_graph(RunFolder(run).graph())
    return compiled


def deliver(run: Path, message: Message, wait: float) -> int:
    """Send a message and tell what became of it.

    Returns:
        0 if it was taken, or will be when the run comes to it; 1 if it was refused or ignored.

    Raises:
        RunFolderError: The folder cannot be written.
    """
    here = presence(read_status(run))
    if here.ended is not None:
        complain(f"{here.words}; nothing takes messages any more")
        return 1
    own = post(run, message)
    if not here.running:
        say(for_terminal(f"sent; {here.words}: it will be taken when the run goes on"))
        return 0
    if not wait:
        say("sent")
        return 0
    answer = _wait(run, own, wait)
    if answer is None:
        paused = ": it is paused" if here.words == "it is paused" else ""
        say(for_terminal(f"sent; no answer within {wait:g} s{paused}; it is taken at a boundary"))
        return 0
    at = "" if answer.boundary is None else f" at boundary {answer.boundary:,}"
    text = f"{answer.status}{at}: {answer.text}"
    if answer.status == "taken":
        say(for_terminal(text))
        return 0
    complain(text)
    return 1


def _wait(run: Path, own: str, seconds: float) -> Answer | None:
    until = time.monotonic() + seconds
    while True:
        answer = read_answer(run, own)
        if answer is not None or time.monotonic() >= until:
            return answer
        time.sleep(min(LOOK, max(0.0, until - time.monotonic())))
