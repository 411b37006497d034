"""Markers: what of a run's records is worth a mark on a chart, and its text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stagegraph.drawing.clean import for_terminal
from stagegraph.drawing.terminal import moved
from stagegraph.engine.ports import Record

__all__ = ["PREFIX", "Marker", "markers_of", "plain_name"]

PREFIX = "stagegraph/"
"""Before every name that a tracker writes."""

_TOLD_BY_DRAWING = frozenset(
    ("move", "growth", "prune", "roll_back", "trial", "error", "blocked", "unblocked", "command")
) | {"decay", "end"}
_NOT_PLAIN = re.compile(r"[^\w./-]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Marker:
    """Something that happened.

    Attributes:
        kind: The record's type: ``move``, ``growth``, ``roll_back``, ``trial``, ``error``, …
        region: The region that moved; empty for what is not a region's alone.
        boundary: Updates ever made: the place on the axis.
        step: Updates of the branch on which it happened.
        text: What, and why: of a move with its guard and the values that it saw. Free of anything
            that a terminal obeys.
    """

    kind: str
    region: str
    boundary: int
    step: int
    text: str

    @property
    def tag(self) -> str:
        """Under which name it is filed."""
        return plain_name(f"{self.kind}/{self.region}" if self.region else self.kind)


def plain_name(name: str) -> str:
    """A name that all trackers take as it is.

    >>> plain_name("alpha/main:grow#1")
    'stagegraph/alpha/main_grow_1'
    """
    return PREFIX + _NOT_PLAIN.sub("_", name)


def markers_of(records: Iterable[Record]) -> Iterator[Marker]:
    """The markers among records, in order."""
    for record in records:
        kind = record["type"]
        text = moved(record) if kind in _TOLD_BY_DRAWING else _own_words(record)
        if text:
            region = str(record["region"]) if kind == "move" else ""
            yield Marker(kind, region, record["boundary"], record["step"], text)


def _own_words(record: Record) -> str:
    match record["type"]:
        case "resume":
            number = record.get("generation")
            told = "resumed" if number is None else f"resumed from checkpoint {number}"
            told += _edited(record.get("edited"))
        case "edit":
            told = "goes on" + _edited(record)
        case "preempted":
            told = f"told to go ({record.get('reason')})"
        case _:
            return ""
    return for_terminal(f"step {record['step']:,}  {told}")


def _edited(edit: Mapping[str, Any] | None) -> str:
    return "" if edit is None else " under an edited graph"
