"""Mixtures of experts that got more experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from stagegraph.actions.changes.change import Change

__all__ = [
    "ExpertsAdded",
    "ListGrown",
    "NewExperts",
    "NewListed",
]


@dataclass(frozen=True, slots=True)
class NewExperts:
    """Experts that a growth gave to one mixture.

    Attributes:
        moe: Stable id of the mixture.
        label: What they are called among its entrants.
        copy_of: The numbers of the experts that they were copied from.
        top_k: How many experts a token was sent to before, and afterwards.
    """

    moe: str
    label: str
    copy_of: tuple[int, ...]
    top_k: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ExpertsAdded(Change):
    """Mixtures of experts that got more experts.

    Attributes:
        mixtures: What each got.
    """

    kind: ClassVar[str] = "add_experts"
    mixtures: tuple[NewExperts, ...]

    @property
    def modules(self) -> tuple[str, ...]:
        """Per mixture, the module that holds its new experts and their router rows."""
        return tuple(f"{one.moe}.entrants.{one.label}" for one in self.mixtures)

    @classmethod
    def from_fields(cls, data: Mapping[str, Any]) -> Self:
        """Read one back."""
        return cls(
            cohort=data["cohort"],
            step=data["step"],
            mixtures=tuple(
                NewExperts(
                    moe=one["moe"],
                    label=one["label"],
                    copy_of=tuple(one["copy_of"]),
                    top_k=(one["top_k"][0], one["top_k"][1]),
                )
                for one in data["mixtures"]
            ),
        )


@dataclass(frozen=True, slots=True)
class NewListed:
    """Experts that a growth gave to a mixture of the model's own.

    Attributes:
        moe: Stable id of the mixture.
        experts: Where its list of experts is, inside it.
        router: Where its router is, inside it.
        before: How many experts it had.
        copy_of: The numbers of the experts that the new ones were copied from.
        written: Attributes inside it, each with its value before and afterwards.
    """

    moe: str
    experts: str
    router: str
    before: int
    copy_of: tuple[int, ...]
    written: tuple[tuple[str, int, int], ...]

    def under(self, named: Callable[[str], str]) -> NewListed:
        """The same with the mixture under another name."""
        return replace(self, moe=named(self.moe))


@dataclass(frozen=True, slots=True)
class ListGrown(Change):
    """Lists of experts that became longer, and their routers larger.

    Attributes:
        mixtures: What each got.
    """

    kind: ClassVar[str] = "list_experts"
    mixtures: tuple[NewListed, ...]

    @property
    def modules(self) -> tuple[str, ...]:
        """The new experts."""
        return tuple(
            f"{one.moe}.{one.experts}.{one.before + at}"
            for one in self.mixtures
            for at in range(len(one.copy_of))
        )

    @classmethod
    def from_fields(cls, data: Mapping[str, Any]) -> Self:
        """Read one back."""
        return cls(
            cohort=data["cohort"],
            step=data["step"],
            mixtures=tuple(
                NewListed(
                    **{
                        **one,
                        "copy_of": tuple(one["copy_of"]),
                        "written": tuple((n, b, a) for n, b, a in one["written"]),
                    }
                )
                for one in data["mixtures"]
            ),
        )
