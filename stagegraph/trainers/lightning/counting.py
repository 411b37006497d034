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
    """The batches since the last update, of which a tally gets the sum.

    Args:
        count: What a batch has, if the user says so.
        tokens: Whether the graph reads tokens.
    """

    def __init__(self, count: Callable[[Any], Amounts] | None, *, tokens: bool) -> None:
        self._count, self._simple = count, count is None and not tokens
        self.waiting = 0
        """How many there were that were no update, and wait for one."""
        self._more = 0

    def add(self, tally: Tally, batch: Any, outputs: Any) -> None:
        """One more.

        Args:
            tally: Where it is added to.
            batch: The batch.
            outputs: What Lightning hands on of ``training_step``; its loss is a share.

        Raises:
            MissingFact: The graph reads tokens, and these cannot be told from the batch.
        """
        if self._simple:
            first = batch  # most are found here, without a call
            if type(batch) is dict and "input_ids" not in batch:
                first = next(iter(batch.values()), None)
            if type(first) is not Tensor:
                first = _first_tensor(batch)
            if first is not None and (shape := first.shape):
                tally.samples += shape[0]
        else:
            samples, tokens = self._amounts(batch)
            tally.samples += samples
            tally.tokens += tokens
        if type(outputs) is dict or isinstance(outputs, Mapping):
            loss = outputs.get("loss")
            if isinstance(loss, Tensor):
                loss = loss.detach() if loss.requires_grad else loss
                if tally.loss is None:
                    tally.loss = loss
                else:
                    tally.loss = tally.loss + loss
                    self._more += 1

    def give(self, tally: Tally, trainer: Trainer, module: LightningModule) -> bool:
        """An update is over: the tally has the whole of it, and the next begins at nothing.

        Returns:
            Whether anything was learnt.
        """
        num, share = (0 if tally.loss is None else 1 + self._more), trainer.accumulate_grad_batches
        self._more = self.waiting = 0
        if not num and module.automatic_optimization:
            tally.samples = tally.tokens = 0
            return False
        if num and share > 1 and module.automatic_optimization:
            tally.loss = tally.loss * share  # of each, Lightning hands on its share of an update
        if num > 1:
            tally.loss = tally.loss / num
        return True

    def _amounts(self, batch: Any) -> tuple[int, int]:
        if self._count is not None:
            samples, tokens = self._count(batch)
            return samples, tokens
        first = _first_tensor(batch)
        if first is None or not first.dim():
            return 0, 0
        if first.is_floating_point():
            raise MissingFact(
                "the graph reads tokens, and the batch's first tensor has no integers; say what a "
                "batch has: StagegraphCallback(count=lambda batch: (samples, tokens))"
            )
        return first.shape[0], first.numel()


def _first_tensor(batch: Any) -> Tensor | None:
    several: Iterable[Any] = ()
    if type(batch) is dict or isinstance(batch, Mapping):
        named = batch.get("input_ids")
        if named is not None and isinstance(named, Tensor):
            return named
        several = batch.values()
    elif isinstance(batch, Tensor):
        return batch
    elif isinstance(batch, Sequence) and not isinstance(batch, str):
        several = batch
    for one in several:
        if isinstance(one, Tensor):
            return one
        found = _first_tensor(one)
        if found is not None:
            return found
    return None
