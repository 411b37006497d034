"""Micro: what the micro-batches of one update come to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Micro"]


@dataclass(slots=True)
class Micro:
    """The micro-batches since the last update.

    Attributes:
        num: How many.
        samples: Their samples.
        tokens: Their tokens.
        flops: Their floating-point operations.
        epoch: Passes over the data after the last of them, if the loop says so.
        metrics: Values measured with them; of several the last.
    """

    num: int = 0
    samples: int = 0
    tokens: int = 0
    flops: int = 0
    epoch: Any = None
    metrics: dict[str, Any] = field(default_factory=dict)
    _loss: Any = None
    _num_losses: int = 0

    def add(
        self, loss: Any, samples: int, tokens: int, flops: int, epoch: Any, metrics: dict[str, Any]
    ) -> None:
        """One more."""
        self.num += 1
        self.samples += samples
        self.tokens += tokens
        self.flops += flops
        self.epoch = self.epoch if epoch is None else epoch
        self.metrics |= metrics
        if loss is not None:
            detach = getattr(loss, "detach", None)
            own = loss if detach is None else detach()
            self._loss = own if self._loss is None else self._loss + own
            self._num_losses += 1

    @property
    def loss(self) -> Any:
        """The mean of their losses, where it is; ``None`` if none was told."""
        return self._loss / self._num_losses if self._num_losses > 1 else self._loss
