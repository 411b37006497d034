"""Follower: whoever shows a run to people; it hears what has been kept, and may fail."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stagegraph.engine.ports import Record
from stagegraph.graph.compiled import CompiledGraph

__all__ = ["Figures", "Follower", "Past"]


@dataclass(frozen=True, slots=True)
class Figures:
    """How the model is trained from a boundary on, in numbers.

    Attributes:
        boundary: Updates ever made, abandoned branches included.
        step: Updates of the present branch.
        stages: Each region's stage, by its name in the region.
        values: ``step``, ``params``; by region ``stage/main`` (the stage's number in the document,
            from 0); by cohort ``alpha/main:grow#1``; by the optimizers' groups, from 0,
            ``lr/0`` (in force) and ``lr_factor/0`` (of it, what is the engine's).
    """

    boundary: int
    step: int
    stages: Mapping[str, str]
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Past:
    """A run as a follower finds it.

    Attributes:
        graph: The graph.
        records: All records that count so far; none if the run has no folder.
        figures: The numbers now; ``None`` before the beginning.
        start: The boundary from which on everything is told, perhaps once more: what somebody was
            told of it before a resume has not happened.
        goes_on: Whether the run has been resumed.
        run: The run's own id, the same in all its lives; ``None`` without a folder.
    """

    graph: CompiledGraph
    records: Sequence[Record] = ()
    figures: Figures | None = None
    start: int = 0
    goes_on: bool = False
    run: str | None = field(default=None)


class Follower(ABC):
    """Whoever shows a run.

    It is told of a boundary when that has held and the journal has it. What it raises then ends
    nothing: the engine says so once, in a warning and in the journal, counts what was lost, and
    leaves out a follower that fails several times in a row.
    """

    @property
    def name(self) -> str:
        """What it is called in warnings."""
        return type(self).__name__

    @abstractmethod
    def take_up(self, past: Past) -> None:
        """The run begins or goes on; once more if another state is loaded into the engine.

        What it raises here is raised by the engine: nothing has been trained yet.
        """

    @abstractmethod
    def write(self, records: tuple[Record, ...]) -> None:
        """Records that have been kept."""

    @abstractmethod
    def show(self, figures: Figures) -> None:
        """The numbers, after each change of stage and each evaluation."""

    @abstractmethod
    def close(self) -> None:
        """The engine is closed."""
