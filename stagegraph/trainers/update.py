"""Update: one that the optimizer has made and the engine has not been told of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from stagegraph.engine.metrics import as_number
from stagegraph.progress import read_fraction

if TYPE_CHECKING:
    from stagegraph.session.engine import Engine

__all__ = ["Update"]


@dataclass(frozen=True, slots=True)
class Update:
    """An update between the host's optimizer step and the engine's boundary.

    Attributes:
        loss: Its training loss, the mean over its micro-batches.
        samples: How many samples it took.
        tokens: How many tokens.
        epoch: Passes over the data after it.
        asked: Whether the host was asked for an evaluation after it.
    """

    loss: Any
    samples: int
    tokens: int
    epoch: Fraction | None
    asked: bool

    def amounts(self) -> dict[str, Any]:
        """As :meth:`stagegraph.Engine.step` takes it."""
        return {
            "loss": self.loss,
            "samples": self.samples,
            "tokens": self.tokens,
            "epoch": self.epoch,
        }

    def tune_ahead(self, engine: Engine) -> None:
        """The host is about to evaluate: set ramps as telling of this update will set them."""
        engine.tune_ahead(samples=self.samples, tokens=self.tokens, epoch=self.epoch)

    def to_json(self) -> dict[str, Any]:
        """As JSON data; the loss is read from its device."""
        loss = None if self.loss is None else as_number("loss", self.loss)
        epoch = None if self.epoch is None else str(self.epoch)
        return {**self.amounts(), "loss": loss, "epoch": epoch, "asked": self.asked}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Update:
        """The inverse of :meth:`to_json`."""
        epoch = None if data["epoch"] is None else read_fraction(data["epoch"])
        return cls(data["loss"], data["samples"], data["tokens"], epoch, data["asked"])
