"""Position: where a run stands in loaders that Accelerate has prepared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from accelerate import Accelerator

from stagegraph.actions.data.position import Position, keeps_position
from stagegraph.errors import SnapshotError

__all__ = ["PreparedPosition"]

_KEYS = {"position", "passes"}


class PreparedPosition(Position):
    """As any position, with how often each prepared loader has been gone through.

    A prepared loader fetches one batch ahead, so what counts is what was handed out; and it counts
    its own passes (``iteration``), from which its samplers make their order.

    Args:
        accelerator: Whose loaders they are.
        kept: Whoever's state is in the checkpoint anyway, and is not kept twice.
    """

    def __init__(self, accelerator: Accelerator, kept: object = None) -> None:
        super().__init__(kept)
        self._accelerator = accelerator

    def state(self) -> dict[str, Any]:
        """The position in containers and tensors."""
        return {"position": super().state(), "passes": [_passes(one) for one in self._loaders]}

    def load(self, state: Any) -> None:
        """The inverse of :meth:`state`.

        Raises:
            SnapshotError: It is no position, or other loaders were prepared then.
        """
        if not isinstance(state, Mapping) or set(state) != _KEYS:
            raise SnapshotError(
                "the checkpoint's position in the data cannot be read; it is of an engine without "
                "an accelerator, perhaps"
            )
        super().load(state["position"])
        passes = state["passes"]
        if len(passes) != len(self._loaders):
            raise SnapshotError(
                f"the run had prepared {len(passes)} loaders, and now there are "
                f"{len(self._loaders)}; resume with those that the run began with"
            )
        for loader, number in zip(self._loaders, passes, strict=True):
            if number is not None:
                loader.iteration = number

    def enter(
        self, index: int, loader: Any, start: Fraction
    ) -> tuple[Iterator[Any], int, Fraction]:
        """Begin a pass, or go on with the one that the checkpoint was in."""
        waiting = self._waiting
        goes_on = waiting is not None and waiting["batches"] and not waiting["ended"]
        over = goes_on and waiting is not None and waiting["batches"] == waiting["shape"]["batches"]
        if over and keeps_position(loader) and _passes(loader) is not None:
            return self._enter_ended(loader)
        batches, used, begun = super().enter(index, loader, start)
        if over and _passes(loader) is not None:
            loader.iteration += 1  # as it does itself behind its last batch
        return batches, used, begun

    def _enter_ended(self, loader: Any) -> tuple[Iterator[Any], int, Fraction]:
        """A pass whose last batch was used.

        A prepared loader that knows where it is has seen the end of its pass when it hands out the
        last batch, and would begin the next one.
        """
        state = self._waiting
        assert state is not None
        self._waiting = {**state, "ended": True}
        super().enter(state["index"], loader, state["start"])
        self._index, self._start, self.batches = state["index"], state["start"], state["batches"]
        loader.iteration += 1
        return iter(()), self.batches, self._start

    @property
    def _loaders(self) -> list[Any]:
        prepared: list[Any] = self._accelerator._dataloaders  # noqa: SLF001 - said nowhere else
        return prepared


def _passes(loader: Any) -> int | None:
    """How often a loader has been gone through, if it counts that."""
    number = getattr(loader, "iteration", None)
    return number if isinstance(number, int) else None
