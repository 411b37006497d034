"""What the reference model knows: where regions are, what a rollback returns, what a move is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from stagegraph.progress import Progress
from tests.reference.document import Stage, Way


class Failed(Exception):
    """A boundary's actions failed: the way blamed for it."""

    def __init__(self, way: Way) -> None:
        super().__init__(way.id)
        self.way = way


@dataclass
class Metric:
    """A metric on the present branch."""

    value: float | None = None
    last: float | None = None
    best: float | None = None
    nonfinite: int = 0
    number: int = 0
    """Which observation of the whole run its newest value was."""
    boundary: int = -1


@dataclass
class Slot:
    """What an interrupt has left (S17)."""

    stage: str
    elapsed: Progress
    held: dict[str, Progress]
    memories: dict[Any, Any]
    open: bool


@dataclass
class Place:
    """Where a region is."""

    stage: str
    entered: Progress
    entered_at: int
    open: bool = False
    grown: tuple[str, ...] = ()
    held: dict[str, Progress] = field(default_factory=dict)
    by_interrupt: bool = False
    slot: Slot | None = None


@dataclass
class Branch:
    """All that a rollback returns (S14)."""

    clock: Progress = Progress()
    places: dict[str, Place] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)
    memories: dict[Any, Any] = field(default_factory=dict)
    disturbed: int = 0
    asked: dict[str, int] = field(default_factory=dict)
    cohorts: tuple[str, ...] = ()
    alphas: dict[str, float] = field(default_factory=dict)
    params: int | None = None

    def copy(self) -> Branch:
        """Another branch that goes its own way from here."""
        places = {
            name: replace(place, slot=place.slot and replace(place.slot))
            for name, place in self.places.items()
        }
        metrics = {name: replace(metric) for name, metric in self.metrics.items()}
        return replace(self, places=places, metrics=metrics, memories=dict(self.memories))


@dataclass
class Move:
    """One region's move."""

    region: str
    way: Way | None
    via: list[Stage]
    target: Stage | None
    """Where it ends; ``None``: the run stops, or there is nothing to go back to."""
    back: bool = False
    fallback: bool = False

    @property
    def entered(self) -> list[Stage]:
        """The stages whose actions run."""
        return [] if self.back or self.target is None else [*self.via, self.target]

    @property
    def grows(self) -> bool:
        return any(stage.kind in ("grow", "trial") for stage in self.entered)

    @property
    def roll_back(self) -> Any:
        return None if self.way is None or self.fallback else self.way.roll_back

    def actions(self) -> Iterator[tuple[Any, str, Stage | None]]:
        """Each action with the prefix it is written in: the way's, then the stages' (S13)."""
        if self.way is not None and not self.fallback:
            yield from ((action, self.way.prefix, None) for action in self.way.actions)
        for stage in self.entered:
            yield from ((action, stage.prefix, stage) for action in stage.actions)
