"""The strategy: where Lightning lets model, optimizers and checkpoints be gone between.

A callback alone comes too late: Lightning loads weights before it makes optimizers, and before any
callback sees the checkpoint. A strategy may ask for a checkpoint to be loaded after its set-up, and
loads and saves it itself; so the callback gives the Trainer's strategy these few methods more.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

from lightning.pytorch.strategies import Strategy

__all__ = ["KEY", "Stages", "stage"]

KEY = "stagegraph"
"""Of the engine's part in a checkpoint of Lightning's."""


class Stages(Protocol):
    """What the strategy tells of what it is asked to do."""

    def take_up(self, checkpoint: dict[str, Any]) -> None:
        """Weights are about to be loaded."""
        ...

    def loops_loaded(self) -> None:
        """The Trainer's loops stand where the checkpoint was saved."""
        ...

    def begin(self) -> None:
        """Training begins, or goes on; every callback knows of it."""
        ...

    def keep(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint is about to be written."""
        ...

    def failed(self) -> None:
        """Training was broken off by an exception; every callback knows of it."""
        ...


class _Staged(Strategy):
    """The methods more; the rest is the strategy that the Trainer has."""

    stages: Stages

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return True

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:  # noqa: FBT001, FBT002 - Lightning's
        self.stages.take_up(checkpoint)
        super().load_model_state_dict(checkpoint, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        super().load_optimizer_state_dict(checkpoint)
        self.stages.loops_loaded()

    def on_train_start(self) -> None:
        super().on_train_start()
        self.stages.begin()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        self.stages.keep(checkpoint)
        super().save_checkpoint(checkpoint, filepath, storage_options)

    def on_exception(self, exception: BaseException) -> None:
        super().on_exception(exception)
        self.stages.failed()


def stage(strategy: Strategy, stages: Stages) -> None:
    """Give a Trainer's strategy what a staged run needs; it stays the same object.

    Args:
        strategy: The Trainer's.
        stages: Who is told.
    """
    if not isinstance(strategy, _Staged):
        strategy.__class__ = _staged(type(strategy))
    strategy.stages = stages  # type: ignore[attr-defined] # it is a _Staged now


@cache
def _staged(kind: type[Strategy]) -> type[Strategy]:
    return type(kind.__name__, (_Staged, kind), {"__module__": kind.__module__})
