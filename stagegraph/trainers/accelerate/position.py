"""Position: where a run stands in loaders that Accelerate has prepared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.data_loader import DataLoaderAdapter, SeedableRandomSampler

from stagegraph.actions.data.position import Position, keeps_position, set_generators
from stagegraph.actions.randomness import preserved_randomness
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
        number = _passes(loader)
        if number is None:
            return super().enter(index, loader, start)
        _give_generator(loader)
        state = self._waiting
        if state is None or not state["batches"]:
            return self._begin(index, loader, start)
        over = not state["ended"] and state["batches"] == state["shape"]["batches"]
        if keeps_position(loader):
            if not (over or state["ended"]):
                return self._go_on_inside(state, index, loader, start)
            state = self._waiting = _ended(state, loader)
        batches, used, begun = super().enter(index, loader, start)
        if over:
            if state["ended"]:
                batches, used, begun = iter(()), state["batches"], state["start"]
                self._index, self._start, self.batches = state["index"], begun, used
            loader.iteration = number + 1  # as it says itself behind its last batch
        return batches, used, begun

    def _begin(
        self, index: int, loader: Any, start: Fraction
    ) -> tuple[Iterator[Any], int, Fraction]:
        """Begin a pass; a loader that knows where it is may be warm, its iterator made already."""
        warm = keeps_position(loader) and _has_iterator(loader)
        if warm and loader.num_workers:
            # Its workers have had their orders before the pass began; they get them anew.
            loader.base_dataloader.load_state_dict({})
            warm = False
        begun = super().enter(index, loader, start)
        self._warm = warm if keeps_position(loader) else self._warm
        return begun

    def _go_on_inside(
        self, state: Mapping[str, Any], index: int, loader: Any, start: Fraction
    ) -> tuple[Iterator[Any], int, Fraction]:
        """Go on in the middle of a pass over a loader that knows where it is.

        It may make its order again from random numbers of then, its own generators' included.
        """
        if state["warm"] and state["loader"] is not None:
            loader.load_state_dict(state["loader"])
            with preserved_randomness():
                loader.base_dataloader.state_dict()  # makes an iterator, as there had been one
            self._waiting = {**state, "loader": None}
        # From here on they draw what they had drawn; nobody else does from them.
        set_generators(loader, state["generators"])
        return super().enter(index, loader, start)

    @property
    def _loaders(self) -> list[Any]:
        prepared: list[Any] = self._accelerator._dataloaders  # noqa: SLF001 - said nowhere else
        return prepared


def _ended(state: Mapping[str, Any], loader: Any) -> Mapping[str, Any]:
    """Bring a loader that knows where it is to the end of its pass.

    One that is prepared has seen it when it hands out the last batch, and would begin the next pass
    with random numbers of its own.

    Returns:
        The position, of a pass that is over.
    """
    if state["loader"] is not None:
        loader.load_state_dict(state["loader"])
    with preserved_randomness():
        iter(loader.base_dataloader)
    return {**state, "loader": None, "ended": True}


def _has_iterator(loader: Any) -> bool:
    """Whether a pass that begins will find its iterator made: asked for its state, it makes one."""
    return bool(getattr(loader.base_dataloader, "_initial_iter_for_state_dict", False))


def _give_generator(loader: Any) -> None:
    """Make the generator that a seedable sampler makes at its first pass, and seeds at each."""
    sampler = loader.get_sampler() if hasattr(loader, "get_sampler") else None
    if isinstance(sampler, SeedableRandomSampler) and sampler.generator is None:
        sampler.generator = torch.Generator()


def _passes(loader: Any) -> int | None:
    """How often a prepared loader has been gone through; ``None`` for others."""
    number = getattr(loader, "iteration", None)
    return number if isinstance(loader, DataLoaderAdapter) and isinstance(number, int) else None
