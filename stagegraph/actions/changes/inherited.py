"""Contents and structure taken from another model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from stagegraph.actions.changes.change import Axes, Change, axes_from
from stagegraph.actions.changes.resized import Written

__all__ = [
    "Inherited",
    "Regrown",
]


@dataclass(frozen=True, slots=True)
class Inherited(Change):
    """Contents taken from a smaller model; no tensor changed its shape.

    Attributes:
        source: What the weights are called.
        how: What was done, in words and numbers for people.
        grown: Per stable id of a parameter or buffer, where in it lies what the smaller model did
            not have.
        written: The attributes that say something else since, such as the eps of a norm.
    """

    kind: ClassVar[str] = "inherit"
    source: str
    how: str
    grown: tuple[tuple[str, Axes], ...]
    written: tuple[Written, ...]

    @property
    def modules(self) -> tuple[str, ...]:
        """None: all modules were there."""
        return ()

    @property
    def tensors(self) -> Mapping[str, Axes]:
        """What the smaller model did not have."""
        return dict(self.grown)

    @classmethod
    def from_fields(cls, data: Mapping[str, Any]) -> Self:
        """Read one back."""
        return cls(
            cohort=data["cohort"],
            step=data["step"],
            source=data["source"],
            how=data["how"],
            grown=tuple((name, axes_from(axes)) for name, axes in data["grown"]),
            written=tuple(Written(**one) for one in data["written"]),
        )


@dataclass(frozen=True, slots=True)
class Regrown(Change):
    """A model that became what its class is with larger numbers.

    Attributes:
        build: The name of the builder; ``None`` if the model's class is made from its config.
        fields: What it was built with.
        added: The modules that came in, without those inside them.
        blocks: Those of them that are blocks of a stack.
        parameters: The parameters and buffers that came into modules that were there.
        grown: Per parameter or buffer that became larger, how its axes grew.
        written: The attributes that say something else since.
    """

    kind: ClassVar[str] = "regrow"
    build: str | None
    fields: Mapping[str, Any]
    added: tuple[str, ...]
    blocks: tuple[str, ...]
    parameters: tuple[str, ...]
    grown: tuple[tuple[str, Axes], ...]
    written: tuple[Written, ...]

    @property
    def modules(self) -> tuple[str, ...]:
        """The blocks: each can be blended in."""
        return self.blocks

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
            build=data["build"],
            fields=dict(data["fields"]),
            added=tuple(data["added"]),
            blocks=tuple(data["blocks"]),
            parameters=tuple(data["parameters"]),
            grown=tuple((name, axes_from(axes)) for name, axes in data["grown"]),
            written=tuple(Written(**one) for one in data["written"]),
        )
