"""Heads added to a dictionary of heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from stagegraph.actions.changes.change import Change

__all__ = ["HeadAdded"]


@dataclass(frozen=True, slots=True)
class HeadAdded(Change):
    """One more entry of a dictionary of heads.

    Attributes:
        heads: Stable id of the ``nn.ModuleDict``.
        head: What the new head is called in it.
        like: What the one is called that it was made like.
    """

    kind: ClassVar[str] = "add_head"
    heads: str
    head: str
    like: str

    @property
    def path(self) -> str:
        """Stable id of the new head."""
        return f"{self.heads}.{self.head}"

    @property
    def modules(self) -> tuple[str, ...]:
        """None: a head is used or not, and never blended in."""
        return ()

    @property
    def others(self) -> tuple[str, ...]:
        """The new head."""
        return (self.path,)

    @classmethod
    def from_fields(cls, data: Mapping[str, Any]) -> Self:
        """Read one back."""
        return cls(
            cohort=data["cohort"],
            step=data["step"],
            heads=data["heads"],
            head=data["head"],
            like=data["like"],
        )
