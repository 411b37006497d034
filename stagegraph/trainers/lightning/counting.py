"""Counting: what the batches of an update amount to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from stagegraph.errors import MissingFact
from stagegraph.session.tally import Tally

__all__ = ["Amounts", "Counter"]


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

    def add(self, batch: Any, outputs: Any) -> None:
        """One more.

        Args:
            batch: The batch.
            outputs: What Lightning hands on of ``training_step``; its loss is a share.

        Raises:
            MissingFact: The graph reads tokens, and these cannot be told from the batch.
        """
        samples, tokens = self._amounts(batch)
        self._samples += samples
        self._tokens += tokens
        self.batches += 1
        if type(outputs) is dict or isinstance(outputs, Mapping):
            loss = outputs.get("loss")
            if isinstance(loss, Tensor):
                loss = loss.detach() if loss.requires_grad else loss
                self._loss = loss if self._loss is None else self._loss + loss
                self._losses += 1

    def give(self, tally: Tally, trainer: Trainer, module: LightningModule) -> bool:
        """An update is over: give all to what is told of it, and begin at nothing.

        Returns:
            Whether anything was learnt.
        """
        loss, num, samples, tokens = self._loss, self._losses, self._samples, self._tokens
        self._loss = None
        self._losses = self._samples = self._tokens = self.batches = 0
        if not num and module.automatic_optimization:
            return False
        tally.samples, tally.tokens = samples, tokens
        if loss is not None:
            share = trainer.accumulate_grad_batches
            if share > 1 and module.automatic_optimization:
                loss = loss * share  # of each, Lightning hands on its share of an update
            loss = loss / num if num > 1 else loss
        tally.loss = loss
        return True

    def _amounts(self, batch: Any) -> tuple[int, int]:
        if self._count is not None:
            samples, tokens = self._count(batch)
            return samples, tokens
        first = _first_tensor(batch)
        if first is None or not first.dim():
            return 0, 0
        samples = first.shape[0]
        if not self._tokens_read:
            return samples, 0
        if first.is_floating_point():
            raise MissingFact(
                "the graph reads tokens, and the batch's first tensor has no integers; say what a "
                "batch has: StagegraphCallback(count=lambda batch: (samples, tokens))"
            )
        return samples, first.numel()


def _first_tensor(batch: Any) -> Tensor | None:
    if isinstance(batch, Tensor):
        return batch
    several: Iterable[Any] = ()
    if isinstance(batch, Mapping):
        named = batch.get("input_ids")
        if isinstance(named, Tensor):
            return named
        several = batch.values()
    elif isinstance(batch, Sequence) and not isinstance(batch, str):
        several = batch
    for one in several:
        found = one if isinstance(one, Tensor) else _first_tensor(one)
        if found is not None:
            return found
    return None
