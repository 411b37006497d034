"""``stagegraph control RUN COMMAND``: pause, continue, hold, force, extend, checkpoint, stop."""

from __future__ import annotations

import argparse

from stagegraph.cli import messages
from stagegraph.engine.commands import COMMANDS, Message, read_command
from stagegraph.runs.inbox import author_here

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    messages.add_arguments(parser)
    known = ", ".join(f"{name} {argument}".strip() for name, argument in COMMANDS.items())
    parser.add_argument("command_name", metavar="COMMAND", help=known)
    parser.add_argument(
        "argument", metavar="ARGUMENT", nargs="*", help="such as: warmup; 500 steps; arch"
    )


def run(arguments: argparse.Namespace) -> int:
    """Send the command, and tell what became of it."""
    name, argument = arguments.command_name, " ".join(arguments.argument)
    read_command(messages.graph_of(arguments.run), name, argument)
    message = Message("", "command", name, argument, author_here())
    return messages.deliver(arguments.run, message, arguments.wait)
