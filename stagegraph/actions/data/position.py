"""Position: which pass over the data a run is in, and how many of its batches it has used."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Generator, Iterator, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch.utils.data import DataLoader

from stagegraph.actions.companions import Stateful
from stagegraph.actions.data.curriculum import CurriculumLoader
from stagegraph.actions.data.draws import Drawn
from stagegraph.actions.data.sampling import SeededSampler
from stagegraph.actions.randomness import RandomState, preserved_randomness
from stagegraph.errors import SnapshotError

__all__ = ["Position", "keeps_position", "set_generators"]

_LOG = logging.getLogger("stagegraph")

_KEYS = {
    *("index", "start", "batches", "ended", "warm"),
    *("began", "generators", "drawn", "shape", "loader"),
}

SIGN_AFTER = 2.0
"""Seconds of fetching after which somebody should be told."""


class Position:
    """Where a run stands in its data.

    Args:
        kept: Whoever's state is in the checkpoint anyway, and is not kept twice.

    Attributes:
        batches: How many batches of the present pass were handed out.
        ended: Whether the present pass is over, and its loop left.
    """

    def __init__(self, kept: object = None) -> None:
        self._kept = kept
        self._index = 0
        self._start = Fraction(0)
        self.batches = 0
        self.ended = False
        self._warm = False
        self._loader: Any = None
        self._began: RandomState | None = None
        self._generators: list[torch.Tensor] = []
        self._waiting: Mapping[str, Any] | None = None

    @property
    def is_known(self) -> bool:
        """Whether any pass was begun."""
        return self._loader is not None or (self._waiting or {}).get("shape") is not None

    def coming(self, counted: int) -> int:
        """Which pass comes: the one that is gone on with, or else the next.

        A pass that was left before its end is over too, though the count of passes lags behind.
        """
        state = self._waiting
        if state is not None and _goes_on(state):
            return int(state["index"])
        if isinstance(self._loader, CurriculumLoader):
            return self._loader.coming_epoch
        if self._loader is not None:
            return max(counted, self._index + 1)
        known = state is not None and state["shape"] is not None
        return max(counted, int(state["index"]) + 1) if known and state is not None else counted

    @property
    def drawn(self) -> Drawn | None:
        """What is known of the batch in hand, if the loader knows it."""
        return self._loader.drawn if self.tells else None

    @property
    def tells(self) -> bool:
        """Whether the loader of this pass knows what it draws."""
        return isinstance(self._loader, CurriculumLoader)

    def state(self) -> dict[str, Any]:
        """The position in containers and tensors; they may change when training goes on."""
        if self._waiting is not None:
            return dict(self._waiting)  # resumed, and no pass begun yet
        loader = self._loader
        keeps = keeps_position(loader) and loader is not self._kept
        return {
            "index": self._index,
            "start": self._start,
            "batches": self.batches,
            "ended": self.ended,
            "warm": self._warm,
            "began": None if self._began is None else self._began.pack(),
            "generators": list(self._generators),
            "drawn": [one.get_state() for one in _generators(loader)],
            "shape": None if loader is None else _shape(loader),
            "loader": loader.state_dict() if keeps else None,
        }

    def load(self, state: Any) -> None:
        """The inverse of :meth:`state`; the next pass goes on from there.

        Raises:
            SnapshotError: It is no position.
        """
        if not isinstance(state, Mapping) or set(state) != _KEYS:
            raise SnapshotError("the checkpoint's position in the data cannot be read")
        self._waiting = state

    def enter(
        self, index: int, loader: Any, start: Fraction
    ) -> tuple[Iterator[Any], int, Fraction]:
        """Begin a pass, or go on with the one that the checkpoint was in.

        Args:
            index: Which pass it is.
            loader: The batches.
            start: Passes over the data so far.

        Returns:
            The batches that are still to come, how many of the pass were used already, and the
            passes at its beginning.

        Raises:
            SnapshotError: The loader is another one than before.
        """
        sampler = getattr(loader, "sampler", None)
        state, self._waiting = self._waiting, None
        if state is not None and state["shape"] is not None and _shape(loader) != state["shape"]:
            raise SnapshotError(
                f"the run had used {state['batches']} batches of pass {state['index']} of a loader "
                f"with {_words(state['shape'])}, and this one has {_words(_shape(loader))}; resume "
                "with the loader that the run began with"
            )
        if state is not None and keeps_position(loader) and state["loader"] is not None:
            loader.load_state_dict(state["loader"])
        self._loader, self.ended = loader, False
        if isinstance(loader, CurriculumLoader):
            return self._enter_curriculum(index, loader, start, state)
        if state is not None and _goes_on(state):
            return self._go_on(state, loader, sampler)
        if state is not None:
            if state["ended"]:
                _start_workers(loader)
            _set(_generators(loader), state["drawn"])
        _say_pass(loader, index)
        self._index, self._start, self.batches = index, start, 0
        self._began, self._warm = RandomState.capture(), _has_workers(loader)
        self._generators = [one.get_state() for one in _generators(loader)]
        return iter(loader), 0, start

    def _enter_curriculum(
        self,
        index: int,
        loader: CurriculumLoader[Any],
        start: Fraction,
        state: Mapping[str, Any] | None,
    ) -> tuple[Iterator[Any], int, Fraction]:
        """A loader that knows where it is, draws no random numbers and can go back."""
        self._began, self._warm, self._generators = None, False, []
        if state is None or not _goes_on(state):
            self._index, self._start, self.batches = index, start, 0
            return iter(loader), 0, start
        self._index, self._start, self.batches = state["index"], state["start"], state["batches"]
        rest: Iterator[Any] = iter(()) if loader.pass_over else loader.rest()
        return rest, self.batches, self._start

    def _go_on(
        self, state: Mapping[str, Any], loader: Any, sampler: Any
    ) -> tuple[Iterator[Any], int, Fraction]:
        """The rest of a pass; nothing if all was used, so that what follows a pass still does."""
        self._index, self._start, self._warm = state["index"], state["start"], state["warm"]
        used = self.batches = state["batches"]
        whole = used == _shape(loader)["batches"]
        self._began = None if state["began"] is None else RandomState.unpack(state["began"])
        self._generators = list(state["generators"])
        now = RandomState.capture()
        try:
            if self._warm or whole:
                _start_workers(loader)
            if self._began is not None:
                self._began.restore()
            if keeps_position(loader):
                batches: Iterator[Any] = _nothing(loader) if whole else _started(iter(loader))
            elif whole:
                batches = iter(())
                _set(_generators(loader), self._generators)
                self._draw_to_the_end(used, loader)
            else:
                _set(_generators(loader), self._generators)
                batches = self._past(used, loader, sampler)
                _set(_generators(loader), state["drawn"])
        finally:
            now.restore()
        return batches, used, self._start

    def _draw_to_the_end(self, used: int, loader: Any) -> None:
        """Draw what a pass draws from generators of the loader's own, its end included."""
        if not _generators(loader):
            return
        if not self._warm:
            # A loader's iterator draws its workers' seed before anything else.
            torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
        order = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        for _ in itertools.islice(order, used + 1):
            pass

    def _past(self, used: int, loader: Any, sampler: Any) -> Iterator[Any]:
        """The batches after those that were used."""
        _say_pass(loader, self._index)
        is_plain = type(loader) is DataLoader and loader.batch_size is not None
        if is_plain and isinstance(sampler, SeededSampler):
            sampler.skip(used * loader.batch_size)
            used = 0
        batches: Iterator[Any] = iter(loader)
        told = time.monotonic()
        for number in range(used):
            if next(batches, self) is self:
                raise SnapshotError(
                    f"the loader gave {number} batches, and the run had used {used} of this pass; "
                    "resume with the loader that the run began with"
                )
            if time.monotonic() - told > SIGN_AFTER:
                told = time.monotonic()
                _LOG.warning("going to batch %d of the pass: %d fetched again", used, number + 1)
        return batches


def _say_pass(loader: Any, index: int) -> None:
    """Tell samplers that order each pass by its number, such as torch's ``DistributedSampler``."""
    for sampler in (getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
        say = getattr(sampler, "set_epoch", None)
        if callable(say):
            say(index)


def _goes_on(state: Mapping[str, Any]) -> bool:
    """Whether a pass had been begun, and its loop not left."""
    return bool(state["batches"]) and not state["ended"]


def _nothing(loader: Any) -> Iterator[Any]:
    """Nothing, after the loader has taken the end of its pass once more."""
    for _ in loader:
        raise SnapshotError(f"the {type(loader).__name__} goes on with a pass that was over")
    return iter(())


def _started(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches; what is drawn before the first is drawn now, by a generator too."""
    if not isinstance(batches, Generator):
        return batches
    return itertools.chain(list(itertools.islice(batches, 1)), batches)


def _has_workers(loader: Any) -> bool:
    """Whether workers of an earlier pass are there to be used again."""
    return bool(getattr(loader, "persistent_workers", False)) and loader._iterator is not None  # noqa: SLF001 - torch says it nowhere else


def _start_workers(loader: Any) -> None:
    """Start workers that stay, as they had been, so that this pass draws no seed for them."""
    if not isinstance(loader, DataLoader) or keeps_position(loader):
        return
    if loader.persistent_workers and not _has_workers(loader):
        before = [one.get_state() for one in _generators(loader)]
        with preserved_randomness():
            # What Accelerate has prepared holds the loader, and starts nothing before its first
            # batch.
            iter(getattr(loader, "base_dataloader", loader))
        _set(_generators(loader), before)


def _generators(loader: Any) -> list[torch.Generator]:
    """The generators of its own that a loader draws its order from."""
    of_batches = getattr(loader, "batch_sampler", None)
    # Accelerate puts one around it that shares batches among processes.
    within = getattr(of_batches, "batch_sampler", None)
    samplers = (getattr(one, "sampler", None) for one in (loader, of_batches, within))
    found: dict[int, torch.Generator] = {}
    for holder in (loader, *samplers):
        generator = getattr(holder, "generator", None)
        if isinstance(generator, torch.Generator):
            found[id(generator)] = generator
    return list(found.values())


def set_generators(loader: Any, states: list[torch.Tensor]) -> None:
    """Set the generators that a loader draws its order from.

    Raises:
        SnapshotError: It has more, or fewer.
    """
    _set(_generators(loader), states)


def _set(generators: list[torch.Generator], states: list[torch.Tensor]) -> None:
    if len(generators) != len(states):
        raise SnapshotError(
            f"the loader of the run drew from {len(states)} generators of its own, and this one "
            f"has {len(generators)}; resume with the loader that the run began with"
        )
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)


def keeps_position(loader: object) -> bool:
    """Whether a loader knows where it is.

    What Accelerate has prepared has the methods in any case, and a state behind them only if it was
    asked to.
    """
    return isinstance(loader, Stateful) and getattr(loader, "use_stateful_dataloader", True)


def _shape(loader: Any) -> dict[str, Any]:
    """What must be the same when a pass is gone on with."""
    try:
        batches = len(loader)
    except (TypeError, NotImplementedError):
        batches = None
    return {"batches": batches, "batch_size": getattr(loader, "batch_size", None)}


def _words(shape: Mapping[str, Any]) -> str:
    batches = "an unknown number of" if shape["batches"] is None else shape["batches"]
    of = "" if shape["batch_size"] is None else f" of {shape['batch_size']}"
    return f"{batches} batches{of}"
