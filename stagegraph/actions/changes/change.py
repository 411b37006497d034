"""What every change of a model's structure has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

__all__ = [
    "Axes",
    "Change",
    "axes_from",
]

Axes = tuple[tuple[tuple[tuple[int, int], ...], ...], ...]
"""Per axis of a tensor its concatenated parts, per part its factors, per factor its size before and
after; what is new in a factor stands at its end."""


def axes_from(data: Any) -> Axes:
    """Axes from JSON data; what is none raises what Python raises."""
    return tuple(
        tuple(tuple((int(before), int(after)) for before, after in part) for part in axis)
        for axis in data
    )


@dataclass(frozen=True, slots=True)
class Change(ABC):
    """One change of a model's structure.

    Attributes:
        cohort: What the new parameters are called.
        step: The boundary.
    """

    kind: ClassVar[str]
    cohort: str
    step: int

    @property
    @abstractmethod
    def modules(self) -> tuple[str, ...]:
        """Stable ids of the modules it added; each can be blended in."""

    @property
    def others(self) -> tuple[str, ...]:
        """Stable ids of the other modules and parameters it added, which are never blended in."""
        return ()

    @property
    def tensors(self) -> Mapping[str, Axes]:
        """Stable ids of the parameters and buffers that it made larger, and how."""
        return {}

    def as_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {"kind": self.kind, **_plain(asdict(self))}

    @classmethod
    @abstractmethod
    def from_fields(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`as_json`; missing fields raise what Python raises."""


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return value
