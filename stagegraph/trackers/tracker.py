"""Tracker: a follower that turns a run into markers and numbers for some backend.

The axis is the boundary: updates ever made, abandoned branches included. It never goes back, so
that a rollback shows as what it is: ``stagegraph/step`` falls, and all curves go on to the right.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence

from stagegraph.engine.follower import Figures, Follower, Past
from stagegraph.engine.ports import Record
from stagegraph.trackers.markers import Marker, markers_of, plain_name

__all__ = ["Sheet", "Tracker"]


class Tracker(Follower):
    """What all trackers share: a subclass opens its backend, marks, and plots.

    Give it to :meth:`stagegraph.Engine.listen`, on one rank.
    """

    def __init__(self) -> None:
        self._rising: set[str] = set()
        self._returned = False

    def take_up(self, past: Past) -> None:
        """Open the backend, and write what of the past it lacks."""
        self._rising = _alphas({} if past.figures is None else past.figures.values)
        self._returned = False
        self.open(past)
        markers = tuple(markers_of(past.records))
        if markers:
            self.mark(markers)

    def write(self, records: tuple[Record, ...]) -> None:
        """Mark what has happened."""
        self._returned |= any(record["type"] == "roll_back" for record in records)
        markers = tuple(markers_of(records))
        if markers:
            self.mark(markers)

    def show(self, figures: Figures) -> None:
        """Plot the numbers; a cohort that is blended in for good has got to 1."""
        rising, returned = _alphas(figures.values), self._returned
        folded = () if returned else sorted(self._rising - rising)
        self._rising, self._returned = rising, False
        values = {**figures.values, **dict.fromkeys(folded, 1.0)}
        self.plot(figures, {plain_name(name): float(value) for name, value in values.items()})

    @abstractmethod
    def open(self, past: Past) -> None:
        """Make ready for a run that begins or goes on; perhaps once more."""

    @abstractmethod
    def mark(self, markers: Sequence[Marker]) -> None:
        """Show what has happened."""

    @abstractmethod
    def plot(self, figures: Figures, values: Mapping[str, float]) -> None:
        """Show numbers.

        Args:
            figures: Where they belong.
            values: What to show, by the full name.
        """


def _alphas(values: Mapping[str, float]) -> set[str]:
    return {name for name in values if name.startswith("alpha/")}


class Sheet:
    """All markers of a run as one table, for backends that keep a file and not a stream of texts.

    It is written whole each time, so that it never holds a marker twice. Of a long one not every
    new line is worth that: it is due when it has grown by a twentieth, and at the end.
    """

    COLUMNS = ("boundary", "step", "kind", "region", "told")

    def __init__(self) -> None:
        self.rows: list[list[int | str]] = []
        self._written = 0

    def add(self, markers: Sequence[Marker]) -> None:
        """Add lines."""
        self.rows += [[m.boundary, m.step, m.kind, m.region, m.text] for m in markers]

    def take_due(self, *, last: bool = False) -> bool:
        """Whether it is to be written now.

        Args:
            last: Nothing will follow.
        """
        new = len(self.rows) - self._written
        due = new > 0 and (last or new > self._written // 20)
        if due:
            self._written = len(self.rows)
        return due

    def as_json(self) -> str:
        """The table as MLflow reads tables, and others too."""
        return json.dumps({"columns": list(self.COLUMNS), "data": self.rows}, ensure_ascii=False)
