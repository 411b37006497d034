"""Changes: what one growth did to a model's structure, as data.

A lineage is a list of these. Each kind says which modules it added, and for tensors that became
larger where in them the new entries lie; all names are stable ids (:mod:`~.lineage`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, Self

from stagegraph.errors import SnapshotError

__all__ = [
    "Attached",
    "Axes",
    "Change",
    "CountChange",
    "Deepened",
    "ExpertsAdded",
    "Inherited",
    "ListGrown",
    "NewBlock",
    "NewBranch",
    "NewExperts",
    "NewListed",
    "Regrown",
    "Resized",
    "Upcycled",
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
        beside: Stable ids of lists that have a module or a parameter per block.
        rows: Stable ids of parameters and buffers that have a row per block.
    """

    kind: ClassVar[str] = "deepen"
    stack: str
    before: int
    blocks: tuple[NewBlock, ...]
    counts: tuple[CountChange, ...] = ()
    numbered: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()

    @property
    def modules(self) -> tuple[str, ...]:
        """The blocks."""
        return tuple(f"{self.stack}.{block.label}" for block in self.blocks)

    @property
    def others(self) -> tuple[str, ...]:
        """The new entries of lists beside the stack."""
        return tuple(f"{path}.{block.label}" for path in self.beside for block in self.blocks)

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
            beside=tuple(data.get("beside", ())),
            rows=tuple(data.get("rows", ())),
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
            grown=tuple((name, _axes(axes)) for name, axes in data["grown"]),
            written=tuple(Written(**one) for one in data["written"]),
            scales=tuple((name, lr, eps, wd) for name, lr, eps, wd in data["scales"]),
            how=data["how"],
            patterns=tuple((name, str(pattern)) for name, pattern in data.get("patterns", ())),
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


_KINDS: dict[str, type[Change]] = {
    kind.kind: kind
    for kind in (
        Deepened,
        Resized,
        Attached,
        Upcycled,
        ExpertsAdded,
        ListGrown,
        Inherited,
        Regrown,
    )
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
