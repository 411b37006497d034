"""What the reference model knows: where regions are, what a rollback returns, what a move is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from stagegraph.progress import Progress
from tests.reference.document import Stage, Way


class Failed(Exception):
    """A boundary's actions failed: the way blamed for it, or a trial that came to nothing."""

    def __init__(self, way: Way | None) -> None:
        super().__init__(None if way is None else way.id)
        self.way = way


class OptionFailed(Exception):
    """What a trial tries cannot be carried out: the stage and the option."""


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
    recent: dict[Any, Recent] = field(default_factory=dict)
    """Per metric and window the newest values, of which references are made."""
    baselines: dict[str, Branch] = field(default_factory=dict)
    disturbed: int = 0
    data_changed: int = -1
    observations: int = 0
    """How many there had been, when this was kept."""
    asked: dict[str, int] = field(default_factory=dict)
    cohorts: tuple[str, ...] = ()
    blockless: tuple[str, ...] = ()
    """Growths that added no block where another growth in their place would have."""
    alphas: dict[str, float] = field(default_factory=dict)
    params: int | None = None

    def copy(self) -> Branch:
        """Another branch that goes its own way from here."""
        places = {
            name: replace(place, slot=place.slot and replace(place.slot))
            for name, place in self.places.items()
        }
        metrics = {name: replace(metric) for name, metric in self.metrics.items()}
        return replace(
            self,
            places=places,
            metrics=metrics,
            memories=dict(self.memories),
            recent=dict(self.recent),
            baselines=dict(self.baselines),
        )


@dataclass(frozen=True)
class Recent:
    """The newest values of a metric, some way apart."""

    values: tuple[float, ...] = ()
    at: float | None = None


@dataclass(frozen=True)
class Trial:
    """A trial that goes on: what is trained now, and what every other one came to."""

    stage: str
    start: tuple[str, Branch]
    option: str | None
    tried: tuple[tuple[str | None, float | None], ...] = ()


@dataclass(frozen=True)
class Turn:
    """What a move does for a trial: begin it, go on with another option, or end it."""

    stage: Stage
    option: str | None
    begins: bool = False
    ends: bool = False


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
    picked: dict[str, str] = field(default_factory=dict)
    """Per stage with options the one that is taken."""
    turn: Turn | None = None

    @property
    def entered(self) -> list[Stage]:
        """The stages whose actions run."""
        if self.back or self.target is None:
            return []
        if self.turn is not None and not self.turn.begins and not self.turn.ends:
            return []
        return [*self.via, self.target]

    @property
    def grows(self) -> bool:
        return any(stage.kind in ("grow", "trial") for stage in self.entered)

    @property
    def roll_back(self) -> Any:
        return None if self.way is None or self.fallback else self.way.roll_back

    def actions(self) -> Iterator[tuple[Any, str, Stage | None, str | None]]:
        """Each action with the prefix it is written in: the way's, then the stages' (S13).

        Beside it the stage and the option that it is of.
        """
        turn = self.turn
        if self.way is not None and not self.fallback:
            yield from ((action, self.way.prefix, None, None) for action in self.way.actions)
        if turn is not None and turn.ends:
            yield from _of(turn.stage, turn.option)
        for stage in self.entered:
            yield from ((action, stage.prefix, stage, None) for action in stage.actions)
            yield from _of(stage, self.picked.get(stage.key))
        if turn is not None and not turn.ends and not turn.begins:
            yield from _of(turn.stage, turn.option)

    def first_tried(self) -> Iterator[tuple[Any, str, Stage | None, str | None]]:
        """The actions of the option that a trial begins with, likewise."""
        if self.turn is not None and self.turn.begins:
            yield from _of(self.turn.stage, self.turn.option)


def _of(stage: Stage, option: str | None) -> Iterator[tuple[Any, str, Stage | None, str | None]]:
    if option is not None:
        for action in stage.option(option).actions:
            yield action, stage.prefix, stage, option
