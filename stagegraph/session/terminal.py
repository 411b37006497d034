"""Terminal: a live view of a run, line by line."""

from __future__ import annotations

import shutil
import sys
from typing import TextIO

from stagegraph.drawing import terminal as words
from stagegraph.engine.ports import Record
from stagegraph.session.engine import Engine

__all__ = ["Terminal"]

CLEAR = "\x1b[K"
"""Clears a terminal's line from the cursor on."""


_SHOWN = frozenset(
    {"move", "decay", "roll_back", "error", "blocked", "growth", "command", "end"} | {"trial"}
)
"""Records that are a line of their own."""


class Terminal:
    """Shows a run while it goes on: its state at each evaluation, its moves, its end.

    On a terminal the state is one line that is written over; in a file or a pipe, a line each. On
    several ranks rank 0 shows it.

    Args:
        engine: The engine to look at; it tells of everything it records.
        out: Where to write; default: standard output.
    """

    def __init__(self, engine: Engine, *, out: TextIO | None = None) -> None:
        self._engine = engine
        self._out = out if out is not None else sys.stdout
        self._live = self._out.isatty()
        self._metrics: dict[str, float | None] = {}
        self._shown = False
        if not engine.rank:
            engine.listen(self)

    def write(self, records: tuple[Record, ...]) -> None:
        """Show what has just been recorded."""
        for record in records:
            match record["type"]:
                case "metric":
                    self._metrics[record["name"]] = record["value"]
                case "vitals" if not self._engine.done:
                    self._status(record)
                case kind if kind in _SHOWN:
                    self._line(words.moved(record, colour=self._live))

    def _status(self, vitals: Record) -> None:
        progress = self._engine.progress
        metrics = dict(self._metrics)
        if vitals.get("loss") is not None:
            metrics = {"loss": vitals["loss"], **metrics}
        status = {
            "stages": self._engine.stages,
            "step": progress.step,
            "of": self._engine.graph.budget.steps,
            "metrics": metrics,
            "lr": vitals["lr"][0] if vitals["lr"] else None,
            "params": vitals["params"],
            "alphas": vitals["alphas"],
            "waits": self._engine.waits(),
            "seconds": progress.seconds,
        }
        width = shutil.get_terminal_size((140, 24)).columns if self._live else 200
        line = words.status_line(status, width, colour=self._live)
        if not self._live:
            self._line(line)
            return
        self._out.write(f"\r{CLEAR}{line}")
        self._out.flush()
        self._shown = True

    def _line(self, text: str) -> None:
        if self._shown:
            self._out.write(f"\r{CLEAR}")
            self._shown = False
        self._out.write(text + "\n")
        self._out.flush()
