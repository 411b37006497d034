"""Changes: what one growth did to a model's structure, as data.

A lineage is a list of these. Each kind says which modules it added, and for tensors that became
larger where in them the new entries lie; all names are stable ids (:mod:`~.lineage`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

from stagegraph.errors import SnapshotError

__all__ = [
    "Axes",
    "Change",
    "CountChange",
    "Deepened",
    "Inherited",
    "NewBlock",
    "Regrown",
    "Resized",
    "Written",
    "read_change",
]

Axes = tuple[tuple[tuple[tuple[int, int], ...], ...], ...]
"""Per axis of a tensor its concatenated parts, per part its factors, per factor its size before and
after; what is new in a factor stands at its end."""


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


@dataclass(frozen=True, slots=True)
class NewBlock:
    """One block that a growth inserted.

    Attributes:
        label: Its stable label.
        at: Its place in the grown stack.
        copy_of: The label of the block it was copied from.
    """

    label: str
    at: int
    copy_of: str


@dataclass(frozen=True, slots=True)
class CountChange:
    """One attribute that holds the number of blocks, or one entry per block.

    Attributes:
        path: Dotted path from the model.
        before: Its value before; for a list per block, its length.
        after: Its value after.
    """

    path: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Deepened(Change):
    """Blocks inserted into a stack.

    Attributes:
        stack: Stable id of the stack.
        before: How many blocks it had.
        blocks: What was inserted, in the order of their places.
        counts: The attributes that count blocks.
        numbered: Names of the attributes that hold a block's number, such as ``layer_idx``.
    """

    kind: ClassVar[str] = "deepen"
    stack: str
    before: int
    blocks: tuple[NewBlock, ...]
    counts: tuple[CountChange, ...] = ()
    numbered: tuple[str, ...] = ()

    @property
    def modules(self) -> tuple[str, ...]:
        """The blocks."""
        return tuple(f"{self.stack}.{block.label}" for block in self.blocks)

    @classmethod
    def from_fields(cls, data: Mapping[str, Any]) -> Self:
        """Read one back."""
        return cls(
            cohort=data["cohort"],
            step=data["step"],
            stack=data["stack"],
            before=data["before"],
            blocks=tuple(NewBlock(**block) for block in data["blocks"]),
            counts=tuple(CountChange(**count) for count in data["counts"]),
            numbered=tuple(data["numbered"]),
        )


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
        how: What was done, in words and numbers for people.
    """

    kind: ClassVar[str] = "resize"
    grown: tuple[tuple[str, Axes], ...]
    written: tuple[Written, ...]
    how: str

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
            grown=tuple((name, _axes(axes)) for name, axes in data["grown"]),
            written=tuple(Written(**one) for one in data["written"]),
            how=data["how"],
        )


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
            grown=tuple((name, _axes(axes)) for name, axes in data["grown"]),
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
            grown=tuple((name, _axes(axes)) for name, axes in data["grown"]),
            written=tuple(Written(**one) for one in data["written"]),
        )


def _axes(data: Any) -> Axes:
    return tuple(
        tuple(tuple((int(before), int(after)) for before, after in part) for part in axis)
        for axis in data
    )


_KINDS: dict[str, type[Change]] = {
    kind.kind: kind for kind in (Deepened, Resized, Inherited, Regrown)
}


def read_change(data: Mapping[str, Any]) -> Change:
    """A change from JSON data.

    Raises:
        SnapshotError: This is no structural change that this version knows.
    """
    kind = _KINDS.get(data.get("kind", ""))
    if kind is None:
        raise SnapshotError(
            f"this lineage holds a change of kind {data.get('kind')!r}; this stagegraph knows "
            f"{', '.join(map(repr, _KINDS))}: resume with the version that wrote it"
        )
    try:
        return kind.from_fields(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SnapshotError(f"this lineage cannot be read: {error!r} in {data!r}") from error
