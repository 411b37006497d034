"""``stagegraph send RUN EVENT``: send an event of its graph to a run."""

from __future__ import annotations

import argparse

from stagegraph.cli import messages
from stagegraph.engine.commands import Message, read_event
from stagegraph.runs.inbox import author_here

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    messages.add_arguments(parser)
    parser.add_argument("event", metavar="EVENT", help="an event that the graph declares")


def run(arguments: argparse.Namespace) -> int:
    """Send the event, and tell who heard it."""
    name = read_event(messages.graph_of(arguments.run), arguments.event)
    message = Message("", "event", name, "", author_here())
    return messages.deliver(arguments.run, message, arguments.wait)
