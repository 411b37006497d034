"""Trying: what a trial has come to, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stagegraph.drawing.clean import shown
from stagegraph.drawing.history import Record, finite, mapping, sequence

__all__ = ["trial_words"]

WITHOUT = "no growth"
"""What training on without growth is called among the options."""


def trial_words(record: Record) -> str:
    """A record of a trial: what was tried, what comes next, or what was kept."""
    option = WITHOUT if record.get("option") is None else shown(record.get("option"))
    tried = ", ".join(_tried(record))
    match record.get("status"):
        case "begun":
            told = f"begins with {option}"
        case "goes on":
            told = f"tried {tried}; goes on with {option}"
        case "kept":
            told = f"tried {tried}; kept {option}"
        case "none kept":
            told = f"tried {tried}; none was worth it"
        case _:
            told = f"given up: the run ends; tried {tried or 'nothing to its end'}"
    passed = [f"{shown(k)}: {shown(v)}" for k, v in mapping(record.get("passed_over")).items()]
    return told + (f" (left out: {'; '.join(passed)})" if passed else "")


def _tried(record: Record) -> Iterator[str]:
    for entry in sequence(record.get("tried")):
        told = sequence(entry)
        name, value = (*told, None)[:2] if told else ("?", None)
        number: Any = finite(value)
        worth = "no finite value" if number is None else f"{number:.4g}"
        yield f"{WITHOUT if name is None else shown(name)} {worth}"
