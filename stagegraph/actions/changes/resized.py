"""Tensors that became larger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from stagegraph.actions.changes.change import Axes, Change, axes_from

__all__ = [
    "Resized",
    "Written",
]


@dataclass(frozen=True, slots=True)
class Written:
    """One attribute that states a size.

    Attributes:
        path: Stable id, dotted from the model.
        before: Its value before, as JSON data.
        after: Its value after.
    """

    path: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Resized(Change):
    """Tensors that became larger, in place.

    Attributes:
        grown: Per stable id of a parameter or buffer, how its axes grew.
        written: The attributes that say so.
        scales: Per stable id of a parameter what its learning rate, eps and weight decay are
            multiplied by from now on.
        how: What was done, in words and numbers for people.
        patterns: Per stable id of a buffer whose content follows from what it was: how it goes on.
    """

    kind: ClassVar[str] = "resize"
    grown: tuple[tuple[str, Axes], ...]
    written: tuple[Written, ...]
    scales: tuple[tuple[str, float, float, float], ...]
    how: str
    patterns: tuple[tuple[str, str], ...] = ()

    @property
    def modules(self) -> tuple[str, ...]:
        """None: what is new lies inside of tensors."""
        return ()

    @property
    def tensors(self) -> Mapping[str, Axes]:
        """What became larger."""
        return dict(self.grown)

    @classmethod
    def from_fields(cls, data: Mapping[str, Any]) -> Self:
        """Read one back."""
        return cls(
            cohort=data["cohort"],
            step=data["step"],
            grown=tuple((name, axes_from(axes)) for name, axes in data["grown"]),
            written=tuple(Written(**one) for one in data["written"]),
            scales=tuple((name, lr, eps, wd) for name, lr, eps, wd in data["scales"]),
            how=data["how"],
            patterns=tuple((name, str(pattern)) for name, pattern in data.get("patterns", ())),
        )
