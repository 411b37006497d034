"""Counting: what the batches of an update amount to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from lightning.pytorch import Trainer
from torch import Tensor

from stagegraph.errors import MissingFact

__all__ = ["Amounts", "Counter", "passes"]


class Amounts(NamedTuple):
    """What a batch has.

    Attributes:
        samples: Samples.
        tokens: Tokens; 0 where none are counted.
    """

    samples: int
    tokens: int = 0


class Counter:
    """The batches since the last update.

    Args:
        count: What a batch has, if the user says so.
        tokens: Whether the graph reads tokens.
    """

    def __init__(self, count: Callable[[Any], Amounts] | None, *, tokens: bool) -> None:
        self._count, self._tokens_read = count, tokens
        self._loss: Tensor | None = None
        self._losses = self._samples = self._tokens = 0
        self.batches = 0
        """How many there were."""

    def add(self, batch: Any, outputs: Any, *, share: int) -> None:
        """One more.

        Args:
            batch: The batch.
            outputs: What Lightning hands on of ``training_step``; its loss is a share.
            share: Of how many batches; 1 is all.

        Raises:
            MissingFact: The graph reads tokens, and these cannot be told from the batch.
        """
        amounts = self._amounts(batch)
        self._samples += amounts.samples
        self._tokens += amounts.tokens
        self.batches += 1
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
        if isinstance(loss, Tensor):
            loss = loss.detach() * share if share > 1 else loss.detach()
            self._loss = loss if self._loss is None else self._loss + loss
            self._losses += 1

    def take(self) -> tuple[Tensor | None, int, int, bool]:
        """Mean loss, samples, tokens, and whether there was any loss; then begin at nothing."""
        loss = self._loss if self._loss is None or self._losses == 1 else self._loss / self._losses
        taken = (loss, self._samples, self._tokens, self._losses > 0)
        self._loss = None
        self._losses = self._samples = self._tokens = self.batches = 0
        return taken

    def _amounts(self, batch: Any) -> Amounts:
        if self._count is not None:
            return Amounts(*self._count(batch))
        first = _first_tensor(batch)
        if first is None or not first.dim():
            return Amounts(0)
        if not self._tokens_read:
            return Amounts(len(first))
        if first.is_floating_point():
            raise MissingFact(
                "the graph reads tokens, and the batch's first tensor has no integers; say what a "
                "batch has: StagegraphCallback(count=lambda batch: (samples, tokens))"
            )
        return Amounts(len(first), first.numel())


def _first_tensor(batch: Any) -> Tensor | None:
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, Mapping):
        named = batch.get("input_ids")
        return named if isinstance(named, Tensor) else _first_of(list(batch.values()))
    return _first_of(batch) if isinstance(batch, Sequence) and not isinstance(batch, str) else None


def _first_of(several: Sequence[Any]) -> Tensor | None:
    return next((found for one in several if (found := _first_tensor(one)) is not None), None)


def passes(trainer: Trainer) -> Fraction:
    """Passes over the data, the batch in hand included; whole ones where it has no length."""
    loop = trainer.fit_loop.epoch_loop
    length, progress = trainer.num_training_batches, loop.batch_progress
    if isinstance(length, int):
        return Fraction(trainer.current_epoch * length + progress.current.ready, length)
    return Fraction(trainer.current_epoch + int(progress.is_last_batch))
