"""A number that seems to lie on a device, and tells how often it was read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class OnDevice:
    """What a host gives as a metric: it can be kept, copied, and read at a price."""

    shape: tuple[int, ...] = ()

    def __init__(self, value: float, reads: list[float] | None = None) -> None:
        self.value = value
        self.reads: list[float] = [] if reads is None else reads

    def detach(self) -> OnDevice:
        return self

    def clone(self) -> OnDevice:
        return OnDevice(self.value, self.reads)

    def item(self) -> float:
        self.reads.append(self.value)
        return self.value

    def __float__(self) -> float:
        return self.item()


class Transfers:
    """Fetches numbers together, and counts how often."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, values: Sequence[Any]) -> list[float]:
        self.sizes.append(len(values))
        return [value.value for value in values]
