"""Blocks inserted into a stack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from stagegraph.actions.changes.change import Change

__all__ = [
    "CountChange",
    "Deepened",
    "NewBlock",
]


MAX_BLOCKS = 100_000
"""No stack has more; a lineage that says so was made to fill the memory."""


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
            before=_checked(data["before"]),
            blocks=tuple(NewBlock(**block) for block in data["blocks"]),
            counts=tuple(CountChange(**count) for count in data["counts"]),
            numbered=tuple(data["numbered"]),
            beside=tuple(data.get("beside", ())),
            rows=tuple(data.get("rows", ())),
        )


def _checked(before: int) -> int:
    if not 0 <= before <= MAX_BLOCKS:
        raise ValueError(f"a stack had from 0 to {MAX_BLOCKS:,} blocks")
    return before
