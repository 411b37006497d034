"""Standing: what was commanded from outside and is still in force, as frozen data.

It is part of the engine's state: a run that is resumed is held, paused and extended as before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from stagegraph.progress import Duration, Progress, Unit

__all__ = ["Commands", "Extension", "lengthened", "waited"]


@dataclass(frozen=True, slots=True)
class Extension:
    """How much longer the present stage of a region lasts than the graph says.

    Attributes:
        unit: What it is counted in.
        amount: If ``waits``, how long after its entry the stage's transitions and ``next`` are
            first asked; else what is added to what completes it, and to ``min_duration``.
        waits: Whether nothing but the command tells when the stage may be left.
        author: Who commanded it.
    """

    unit: Unit
    amount: Fraction
    waits: bool
    author: str

    def to_json(self) -> list[Any]:
        """The extension as JSON data."""
        return [self.unit.value, str(self.amount), self.waits, self.author]

    @classmethod
    def from_json(cls, data: list[Any]) -> Extension:
        """The inverse of :meth:`to_json`."""
        unit, amount, waits, author = data
        return cls(Unit(unit), Fraction(amount), bool(waits), str(author))


@dataclass(frozen=True, slots=True)
class Commands:
    """The commands in force that no single stage ends.

    Attributes:
        held: Per region that must stay where it is, who said so.
        paused: Who paused the run, or ``None``.
    """

    held: Mapping[str, str] = field(default_factory=dict)
    paused: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The commands as JSON data."""
        return {"held": dict(self.held), "paused": self.paused}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Commands:
        """The inverse of :meth:`to_json`."""
        return cls({str(region): str(by) for region, by in data["held"].items()}, data["paused"])


def lengthened(duration: Duration, extension: Extension | None) -> Duration:
    """A duration of a stage, with what a command has added to it."""
    if extension is None or extension.waits or extension.unit is not duration.unit:
        return duration
    total = duration.exact + extension.amount
    return Duration(int(total) if total.denominator == 1 else float(total), duration.unit)


def waited(extension: Extension | None, entered: Progress, clock: Progress) -> bool:
    """Whether what a command has put off until later may be asked now."""
    if extension is None or not extension.waits:
        return True
    return clock.elapsed(entered, extension.unit) >= extension.amount
