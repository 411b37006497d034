"""Modules attached to others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from stagegraph.actions.changes.change import Change

__all__ = [
    "Attached",
    "NewBranch",
    "Upcycled",
]


@dataclass(frozen=True, slots=True)
class NewBranch:
    """One module that a growth attached.

    Attributes:
        host: Stable id of the module that runs it.
        owner: Stable id of the module whose child it is; empty for the model itself.
        child: What it is called there.
        fields: What it was made from.
    """

    host: str
    owner: str
    child: str
    fields: Mapping[str, Any]

    @property
    def path(self) -> str:
        """Its stable id."""
        return f"{self.owner}.{self.child}" if self.owner else self.child


@dataclass(frozen=True, slots=True)
class Attached(Change):
    """Modules attached to others, which run them in a hook.

    Attributes:
        module: Which kind of module, or the name of the builder that makes it.
        reads: Whether it reads what its host reads (``input``), or what it makes (``output``).
        branches: What was attached, in the order of the hosts.
    """

    kind: ClassVar[str] = "attach"
    module: str
    reads: Literal["input", "output"]
    branches: tuple[NewBranch, ...]

    @property
    def modules(self) -> tuple[str, ...]:
        """The branches."""
        return tuple(branch.path for branch in self.branches)

    @classmethod
    def from_fields(cls, data: Mapping[str, Any]) -> Self:
        """Read one back."""
        if data["reads"] not in ("input", "output"):
            raise ValueError(f"reads is {data['reads']!r}")
        return cls(
            cohort=data["cohort"],
            step=data["step"],
            module=data["module"],
            reads=data["reads"],
            branches=tuple(NewBranch(**branch) for branch in data["branches"]),
        )


@dataclass(frozen=True, slots=True)
class Upcycled(Attached):
    """Routers and copies attached to MLPs, which are experts from then on."""

    kind: ClassVar[str] = "upcycle"
