"""Modules that a growth had added, taken out again."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from torch import nn

from stagegraph.actions.changes.attached import Attached, Upcycled
from stagegraph.actions.changes.change import Change
from stagegraph.actions.changes.deepened import Deepened

__all__ = ["Aside", "Pruned"]


class Aside:
    """What was taken out of a model in this process, by the model; never saved.

    It is held on to so that a rollback puts the very same modules and parameters back.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[weakref.ref[nn.Module], Any]] = []

    def __deepcopy__(self, _memo: dict[int, Any]) -> Aside:
        return self

    def keep(self, model: nn.Module, kept: Any) -> None:
        """Hold on to what was taken out of a model."""
        self._kept = [(owner, one) for owner, one in self._kept if owner() not in (None, model)]
        self._kept.append((weakref.ref(model), kept))

    def of(self, model: nn.Module) -> Any | None:
        """What was taken out of a model, or ``None``."""
        return next((kept for owner, kept in self._kept if owner() is model), None)

    @property
    def first(self) -> tuple[nn.Module, Any] | None:
        """The model that something was first taken out of, and what that was."""
        alive = ((owner(), kept) for owner, kept in self._kept)
        return next(((owner, kept) for owner, kept in alive if owner is not None), None)

    def release(self) -> None:
        """Let go of it: nothing goes back behind this change any more."""
        self._kept.clear()


_TAKEN: dict[str, type[Deepened | Attached]] = {
    kind.kind: kind for kind in (Deepened, Attached, Upcycled)
}


@dataclass(frozen=True, slots=True)
class Pruned(Change):
    """Modules taken out of the model.

    Attributes:
        taken: What was taken out, told as the growth that would put it in again.
        aside: The modules themselves; not part of the data.
    """

    kind: ClassVar[str] = "prune"
    taken: Deepened | Attached
    aside: Aside = field(default_factory=Aside, compare=False, repr=False)

    @property
    def modules(self) -> tuple[str, ...]:
        """None: nothing is new."""
        return ()

    @property
    def gone(self) -> tuple[str, ...]:
        """Stable ids of the modules and parameters that were taken out."""
        return (*self.taken.modules, *self.taken.others)

    def as_json(self) -> dict[str, Any]:
        """As JSON data."""
        taken = self.taken.as_json()
        return {"kind": self.kind, "cohort": self.cohort, "step": self.step, "taken": taken}

    @classmethod
    def from_fields(cls, data: Mapping[str, Any]) -> Self:
        """Read one back."""
        taken = data["taken"]
        return cls(data["cohort"], data["step"], _TAKEN[taken["kind"]].from_fields(taken))
