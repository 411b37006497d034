"""Loops: what the callback must know of Lightning's loops, and how they go on after a resume.

Lightning resumes its counters, and forgets some of what comes between an update and the next batch:
it skips a validation that was due, the step of a plateau scheduler, and, where a checkpoint was
saved after the last batch of a pass, the end of the pass and then a whole pass; and it draws random
numbers at other places than the run that was not broken off. Here is what makes up for it. What is
private to Lightning is touched in this file alone; :data:`LEANED_ON` is checked before the run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

__all__ = [
    "LEANED_ON",
    "Completed",
    "Place",
    "Validation",
    "completed",
    "generators",
    "go_on",
    "inexact",
    "known_metrics",
    "logged_steps",
    "mend_saved",
    "metrics_to_keep",
    "missing",
    "passes",
    "remember",
    "rest_after_pass",
    "set_generators",
    "stand_at_end",
    "validate",
    "validation_follows",
]

LEANED_ON = (
    "fit_loop._combined_loader",
    "fit_loop._combined_loader_states_to_load",
    "fit_loop._data_fetcher",
    "fit_loop._restarting",
    "fit_loop._resuming_from_checkpoint",
    "fit_loop.epoch_loop._batches_that_stepped",
    "fit_loop.epoch_loop._num_ready_batches_reached",
    "fit_loop.epoch_loop._restarting",
    "fit_loop.epoch_loop._should_accumulate",
    "fit_loop.epoch_loop._should_check_val_fx",
    "fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed",
    "fit_loop.epoch_loop.batch_progress.current.ready",
    "fit_loop.epoch_loop.batch_progress.is_last_batch",
    "fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed",
    "fit_loop.epoch_loop.update_lr_schedulers",
    "fit_loop.epoch_loop.val_loop._has_run",
    "fit_loop.epoch_loop.val_loop.restarting",
    "fit_loop.epoch_progress.current.completed",
    "_logger_connector._callback_metrics",
    "_logger_connector._first_loop_iter",
)
"""What is not public in Lightning and the adapter leans on, from the Trainer on."""


def missing(trainer: Trainer) -> list[str]:
    """What of :data:`LEANED_ON` this version of Lightning does not have."""
    return [path for path in LEANED_ON if not _has(trainer, path)]


def _has(start: object, path: str) -> bool:
    for name in path.split("."):
        if not hasattr(start, name):
            return False
        start = getattr(start, name)
    return True


class Place(StrEnum):
    """Where in the course of events a checkpoint was saved."""

    START = "before the first batch"
    UPDATE = "inside of an update or a boundary"
    BATCH = "after a batch"
    VALIDATION = "inside of a validation"
    VALIDATED = "after a validation"
    PASS = "after a pass over the data"  # noqa: S105 - nothing secret
    END = "after the end"


# Counts


class Completed:
    """How many of something are done."""

    completed: int = 0


def completed(trainer: Trainer) -> Completed:
    """The count behind ``global_step``, which Lightning keeps as the same object while it fits."""
    loop = trainer.fit_loop.epoch_loop
    if trainer.lightning_module.automatic_optimization:
        return loop.automatic_optimization.optim_progress.optimizer.step.total  # type: ignore[return-value]
    return loop.manual_optimization.optim_step_progress.total  # type: ignore[return-value]


def passes(trainer: Trainer) -> tuple[int, int]:
    """Batches over all, the one in hand included, and of a pass; passes and 1 without a length."""
    fit = trainer.fit_loop
    length, progress = fit.max_batches, fit.epoch_loop.batch_progress
    whole: int = fit.epoch_progress.current.completed
    if type(length) is int:
        return whole * length + progress.current.ready, length
    return whole + int(progress.is_last_batch), 1


# Metrics


def known_metrics(trainer: Trainer) -> Mapping[str, Any]:
    """``callback_metrics`` as they were at the last event, without computing them again."""
    known: Mapping[str, Any] = trainer._logger_connector._callback_metrics  # noqa: SLF001
    return known


def metrics_to_keep(trainer: Trainer) -> dict[str, float]:
    """The metrics that plateau schedulers wait for, which Lightning does not save."""
    known = trainer.callback_metrics
    names = {one.monitor for one in trainer.lr_scheduler_configs if one.reduce_on_plateau}
    return {name: float(known[name]) for name in names if name is not None and name in known}


def logged_steps(trainer: Trainer) -> int:
    """The step that the Trainer's loggers are at, inside of ``on_train_batch_end``."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)  # noqa: SLF001


# Validation


def validation_follows(trainer: Trainer) -> bool:
    """Whether the Trainer validates after this batch."""
    loop = trainer.fit_loop.epoch_loop
    fetcher = trainer.fit_loop._data_fetcher  # noqa: SLF001
    return fetcher is not None and bool(loop._should_check_val_fx(fetcher))  # noqa: SLF001


def validate(trainer: Trainer) -> None:
    """Validate now, as the Trainer does between two batches."""
    loop, connector = trainer.fit_loop.epoch_loop.val_loop, trainer._logger_connector  # noqa: SLF001
    first = connector._first_loop_iter  # noqa: SLF001
    loop.restarting = False
    trainer.validating = True
    try:
        loop.run()
    finally:
        trainer.training = True
    connector._first_loop_iter = first  # noqa: SLF001


class Validation:
    """A validation after one batch, beside those that the Trainer is set to."""

    def __init__(self) -> None:
        self._own: tuple[Any, Any] | None = None

    def ask(self, trainer: Trainer) -> None:
        """Let the Trainer validate after the batch in hand."""
        if validation_follows(trainer):
            return
        self._own = (trainer.val_check_batch, trainer.check_val_every_n_epoch)
        trainer.val_check_batch, trainer.check_val_every_n_epoch = 1, None
        if getattr(trainer, "_val_check_time_interval", None) is not None:
            vars(trainer)["_last_val_time"] = -math.inf  # of Lightning 2.6

    def begun(self, trainer: Trainer) -> None:
        """It has begun: the Trainer is set as it was."""
        if self._own is not None:
            trainer.val_check_batch, trainer.check_val_every_n_epoch = self._own
            self._own = None


# Saving


def inexact(trainer: Trainer, place: Place, *, accumulating: bool) -> list[str]:
    """Why a run that is resumed from a checkpoint saved now is not the one that goes on."""
    found = []
    if place in (Place.UPDATE, Place.VALIDATION):
        found.append(f"it was saved {place}, whose other half is lost")
    if accumulating:
        found.append("it was saved between two micro-batches, and their gradients are not in it")
    if place in (Place.BATCH, Place.VALIDATED, Place.PASS, Place.END) and not _pass_is_over(
        trainer
    ):
        found += _of_loaders(trainer)
    return found


def _of_loaders(trainer: Trainer) -> Iterator[str]:
    fetcher = trainer.fit_loop._data_fetcher  # noqa: SLF001
    if fetcher is None:
        return
    for loader in fetcher.combined_loader.flattened:
        if not (hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")):
            yield (
                f"it was saved inside of a pass over the data, and the {type(loader).__name__} "
                "does not say where it was"
            )
    if fetcher.length is None:
        yield (
            "it was saved inside of a pass over data without a length, of which Lightning fetches "
            "a batch ahead and forgets it"
        )


def generators(trainer: Trainer) -> list[Tensor | None]:
    """The states of the generators that the user has given to the loaders."""
    return [None if one is None else one.get_state() for one in _generators(trainer)]


def set_generators(trainer: Trainer, states: Sequence[Tensor | None]) -> None:
    """Take up what :func:`generators` gave, which a loader's own state does not have."""
    for one, state in zip(_generators(trainer), states, strict=False):
        if one is not None and state is not None:
            one.set_state(state)


def _generators(trainer: Trainer) -> Iterator[torch.Generator | None]:
    fetcher = trainer.fit_loop._data_fetcher  # noqa: SLF001
    for loader in () if fetcher is None else fetcher.combined_loader.flattened:
        found = getattr(loader, "generator", None)
        yield found if isinstance(found, torch.Generator) else None


def _pass_is_over(trainer: Trainer) -> bool:
    return bool(trainer.fit_loop.epoch_loop._num_ready_batches_reached())  # noqa: SLF001


def mend_saved(checkpoint: dict[str, Any], place: Place) -> None:
    """Let a checkpoint that is saved in ``on_train_batch_end`` say that the batch is over.

    Lightning counts it after that event; a run that is resumed from the last batch of a pass goes
    on in the next pass without the end of this one, and counts one pass too many.
    """
    if place is not Place.BATCH:
        return
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts["completed"] = counts["processed"]


# Going on


def rest_after_pass(trainer: Trainer, place: Place) -> None:
    """A checkpoint behind a pass over the data is gone on from with the next one.

    Where the Trainer counts steps, Lightning would go through the end of the pass again, or through
    one without a batch. A pass that the end of training has broken off is gone on with, as itself.
    """
    fit = trainer.fit_loop
    if place not in (Place.PASS, Place.END):
        return
    if fit.epoch_loop.batch_progress.is_last_batch:
        for loop in _loops(fit):
            loop._restarting = False  # noqa: SLF001
    elif fit.restarting:
        for counts in (fit.epoch_progress.total, fit.epoch_progress.current):
            counts.processed = counts.completed = counts.ready - 1  # type: ignore[attr-defined]


def _loops(loop: Any) -> Iterator[Any]:
    yield loop
    for one in vars(loop).values():
        if hasattr(one, "_restarting"):
            yield from _loops(one)


def remember(trainer: Trainer, metrics: Mapping[str, float]) -> dict[str, Tensor]:
    """Let the Trainer know again what :func:`metrics_to_keep` gave."""
    known = {name: torch.tensor(value) for name, value in metrics.items()}
    trainer._logger_connector._callback_metrics.update(known)  # noqa: SLF001
    return known


def go_on(trainer: Trainer, place: Place, *, validates: bool) -> None:
    """Do what was still to come between the checkpoint and the next batch.

    Args:
        trainer: The Trainer, all of whose callbacks know that training begins.
        place: Where the checkpoint was saved.
        validates: Whether a validation was to come.
    """
    fit, loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
    if place in (Place.BATCH, Place.VALIDATED):
        if validates:
            validate(trainer)
            loop.val_loop._has_run = False  # noqa: SLF001 - else a pass that is over never ends
        fit._restarting = False  # noqa: SLF001 - else plateau schedulers miss the end of this pass
        if not validation_follows(trainer):
            _after_batch(trainer)
        return
    if place is Place.PASS and _pass_is_over(trainer):
        fit.epoch_progress.current.completed -= 1
        loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)
        fit.epoch_progress.current.completed += 1


def _after_batch(trainer: Trainer) -> None:
    """What Lightning does after a batch without a validation, and not after a resume."""
    loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher  # noqa: SLF001
    loop.update_lr_schedulers("step", update_plateau_schedulers=True)
    if not loop._should_accumulate():  # noqa: SLF001
        loop._batches_that_stepped += 1  # noqa: SLF001
    if _pass_is_over(trainer) and fetcher is not None:
        fetcher.done = True


def stand_at_end(trainer: Trainer, place: Place) -> None:
    """Behind a pass the loaders stand at its end, and the Trainer begins the next one itself.

    Lightning begins it while it sets up, with the random numbers of then, and forgets what the
    loaders' states say of their order. Random numbers are drawn here.
    """
    fit = trainer.fit_loop
    if fit.epoch_loop._restarting or place not in (Place.PASS, Place.END):  # noqa: SLF001
        return
    states, loader, fetcher = (
        fit._combined_loader_states_to_load,  # noqa: SLF001
        fit._combined_loader,  # noqa: SLF001
        fit._data_fetcher,  # noqa: SLF001
    )
    if states and loader is not None and fetcher is not None:
        loader._load_state_dicts(states)  # noqa: SLF001
        fit._combined_loader_states_to_load = []  # noqa: SLF001
        iter(fetcher)
    fit._resuming_from_checkpoint = False  # noqa: SLF001
