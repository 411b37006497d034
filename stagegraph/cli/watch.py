"""``stagegraph watch RUN``: how a run stands, while it goes on. It only reads."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from stagegraph.cli.output import say
from stagegraph.drawing.terminal import summary
from stagegraph.drawing.watching import view
from stagegraph.runs.folder import RunFolder
from stagegraph.runs.status import presence, read_status

__all__ = ["add_arguments", "run"]

HOME_AND_CLEAR, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
EMPTY_SCREEN = "\x1b[2J"
EVERY = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run's folder")
    parser.add_argument("--once", action="store_true", help="show it once, and end")


def run(arguments: argparse.Namespace) -> int:
    """Show a run until it has ended or somebody interrupts; once, where nobody looks on."""
    folder = RunFolder(arguments.run)
    graph = folder.graph()
    live = sys.stdout.isatty() and not arguments.once
    shown = False
    while True:
        status = read_status(arguments.run)
        if status is None:
            # Nobody has left a status, so the journal must tell.
            say(summary(folder.records(), graph=graph))
            return 0
        here = presence(status)
        silent = None if here.running or here.ended is not None else here.words
        size = shutil.get_terminal_size((100, 40))
        lines = view(status, width=size.columns, silent=silent, colour=sys.stdout.isatty())
        if not live:
            for line in lines:
                say(line)
            return 0
        begin = HOME_AND_CLEAR if shown else f"{EMPTY_SCREEN}{HOME_AND_CLEAR}"
        kept = lines[: size.lines - 1]
        sys.stdout.write(begin + "".join(f"{line}{CLEAR_LINE}\n" for line in kept) + CLEAR_BELOW)
        sys.stdout.flush()
        shown = True
        if here.ended is not None:
            return 0
        time.sleep(EVERY)
