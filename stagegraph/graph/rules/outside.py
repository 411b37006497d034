"""Findings about what a graph is run with, which no rule can look at in the document alone."""

from __future__ import annotations

__all__ = ["OUTSIDE", "REFUSED"]

OUTSIDE = {
    "plateau-under-decay": "A plateau that the host's scheduler makes.",
    "late-growth": "A growth that comes when the host's learning rate is nearly gone.",
    "scheduler-follows-metric": "A host's scheduler that waits for a plateau of its own.",
    "scheduler-too-short": "A host's scheduler that raises before the run is over.",
    "scheduler-unknown": "A host's scheduler whose course cannot be told.",
}
"""Codes that ``stagegraph.check(graph, scheduler=…)`` finds; they can be waived like any other."""

REFUSED = {
    "trainer-cannot": "Something that the trainer of ``check(graph, trainer=…)`` cannot do.",
    "strategy-cannot": "Something that cannot be done under ``check(graph, strategy=…)``.",
}
"""Errors that ``stagegraph.check`` finds with what is to run a graph."""
