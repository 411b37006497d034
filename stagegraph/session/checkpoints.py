"""Checkpoints: when a run's folder gets one, and how many stay."""

from __future__ import annotations

from dataclasses import dataclass

from stagegraph.errors import ProgressError
from stagegraph.progress import Duration

__all__ = ["Checkpoints"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """When a run's folder gets a checkpoint, and how many stay.

    One is written at the first boundary, wherever the model's structure changes or the graph saves
    a model, at the end, and when the run is told to stop; between them as said here.

    Attributes:
        every: How often, as progress with a unit: ``"500 steps"``, ``"1 epoch"``, ``"10 min"``;
            ``None``: only where one is written in any case.
        keep: How many of the newest stay, at least 2.
        best: A metric of the graph: a checkpoint is written when it has a new best value, and the
            best one stays whatever its age.
        background: Whether files are written while training goes on; training waits only until the
            state is copied to host memory. At most one is being written at a time.
    """

    every: str | Duration | None = "10 min"
    keep: int = 3
    best: str | None = None
    background: bool = True

    @property
    def cadence(self) -> Duration | None:
        """How often.

        Raises:
            ProgressError: ``every`` is no amount with its unit.
        """
        if self.every is None or isinstance(self.every, Duration):
            return self.every
        try:
            return Duration.parse(self.every)
        except ValueError as error:
            raise ProgressError(f"Checkpoints(every={self.every!r}): {error}") from error
