"""Lineage: the structural changes a model has been through, as data, and stable names from it.

Names shift when a block is inserted: ``blocks.2`` may be another block tomorrow. A stable id is
today's name with the block's number replaced by its label. A block that was there from the start
has its first number as label for ever (``blocks.1.mlp.weight``); a grown one has the number of its
growth and its place in it (``blocks.g1-0.mlp.weight``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from stagegraph.errors import SnapshotError

__all__ = ["Change", "CountChange", "Lineage", "NewBlock"]


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
class Change:
    """One growth of one stack.

    Attributes:
        stack: Stable id of the stack.
        before: How many blocks it had.
        blocks: What was inserted, in the order of their places.
        counts: The attributes that count blocks.
        numbered: Names of the attributes that hold a block's number, such as ``layer_idx``.
        cohort: What the new parameters are called.
        step: The boundary.
    """

    stack: str
    before: int
    blocks: tuple[NewBlock, ...]
    counts: tuple[CountChange, ...]
    numbered: tuple[str, ...]
    cohort: str
    step: int

    def as_json(self) -> dict[str, Any]:
        """As JSON data."""
        plain = asdict(self)
        lists = {key: list(plain[key]) for key in ("blocks", "counts", "numbered")}
        return {"kind": "deepen", **plain, **lists}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Change:
        """The inverse of :meth:`as_json`.

        Raises:
            SnapshotError: This is no structural change that this version knows.
        """
        if data.get("kind") != "deepen":
            raise SnapshotError(
                f"this lineage holds a change of kind {data.get('kind')!r}; this stagegraph "
                "knows 'deepen' only: resume with the version that wrote it"
            )
        try:
            return cls(
                stack=data["stack"],
                before=data["before"],
                blocks=tuple(NewBlock(**block) for block in data["blocks"]),
                counts=tuple(CountChange(**count) for count in data["counts"]),
                numbered=tuple(data["numbered"]),
                cohort=data["cohort"],
                step=data["step"],
            )
        except (KeyError, TypeError) as error:
            raise SnapshotError(f"this lineage cannot be read: {error!r} in {data!r}") from error


class Lineage:
    """All structural changes so far, in order.

    >>> grown = Change("blocks", 2, (NewBlock("g1-0", 1, "0"),), (), (), "deeper", 100)
    >>> lineage = Lineage([grown])
    >>> [lineage.stable(f"blocks.{i}.weight") for i in range(3)]
    ['blocks.0.weight', 'blocks.g1-0.weight', 'blocks.1.weight']
    >>> lineage.today("blocks.1.weight")
    'blocks.2.weight'
    """

    def __init__(self, changes: Iterable[Change] = ()) -> None:
        self._changes: list[Change] = []
        self._orders: dict[str, list[str]] = {}
        for change in changes:
            self.add(change)

    @property
    def changes(self) -> tuple[Change, ...]:
        """The changes, the oldest first."""
        return tuple(self._changes)

    def add(self, change: Change) -> None:
        """Record one more change."""
        order = self.order(change.stack, change.before)
        for block in change.blocks:
            order.insert(block.at, block.label)
        self._changes.append(change)
        self._orders[change.stack] = order

    def without_last(self) -> Lineage:
        """The same without the newest change."""
        return Lineage(self._changes[:-1])

    def next_label(self, index: int) -> str:
        """The label of a block that the next growth adds."""
        return f"g{len(self._changes) + 1}-{index}"

    def order(self, stack: str, length: int) -> list[str]:
        """The labels of a stack's blocks as they stand; ``length`` is its length if never grown."""
        return list(self._orders.get(stack) or (str(index) for index in range(length)))

    def stable(self, name: str) -> str:
        """Today's name of a module, parameter or buffer as a stable id."""
        parts: list[str] = []
        for part in name.split("."):
            order = self._orders.get(".".join(parts))
            known = order is not None and part.isdigit() and int(part) < len(order)
            parts.append(order[int(part)] if order is not None and known else part)
        return ".".join(parts)

    def today(self, stable: str) -> str:
        """A stable id as today's name."""
        parts: list[str] = []
        names: list[str] = []
        for part in stable.split("."):
            order = self._orders.get(".".join(parts))
            parts.append(part)
            names.append(str(order.index(part)) if order is not None and part in order else part)
        return ".".join(names)

    def cohort(self, name: str) -> tuple[Change, ...]:
        """The changes of the newest boundary at which something was grown under this name."""
        named = [change for change in self._changes if change.cohort == name]
        return tuple(change for change in named if change.step == named[-1].step)

    def cohorts(self) -> tuple[str, ...]:
        """The names of all growths, the oldest first."""
        return tuple(dict.fromkeys(change.cohort for change in self._changes))

    def block_names(self, changes: Iterable[Change]) -> list[str]:
        """Today's names of the blocks that these changes added."""
        return [
            self.today(f"{change.stack}.{block.label}")
            for change in changes
            for block in change.blocks
        ]

    def starts_with(self, other: Lineage) -> bool:
        """Whether the other's changes are the first of these."""
        return self.changes[: len(other.changes)] == other.changes

    def as_json(self) -> list[dict[str, Any]]:
        """As JSON data."""
        return [change.as_json() for change in self._changes]

    @classmethod
    def from_json(cls, data: Iterable[Mapping[str, Any]]) -> Lineage:
        """The inverse of :meth:`as_json`.

        Raises:
            SnapshotError: It cannot be read.
        """
        return cls(Change.from_json(change) for change in data)
