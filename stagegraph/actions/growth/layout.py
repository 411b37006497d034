"""Where new blocks go, and what each is a copy of: numbers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Place", "places"]


@dataclass(frozen=True, slots=True)
class Place:
    """One new block.

    Attributes:
        at: Its place in the grown stack.
        copy_of: The place, in the stack as it was, of the block it is copied from.
    """

    at: int
    copy_of: int


def places(
    before: int,
    after: int,
    *,
    how: Literal["identity", "stack"],
    at: Literal["end", "spread"],
) -> tuple[Place, ...]:
    """The new blocks of a stack that grows from ``before`` to ``after``, in order.

    At the end, ``stack`` goes on with copies from the bottom, ``identity`` with copies of the
    uppermost block. Spread, each new block is a copy of the block right below it.

    >>> [(place.at, place.copy_of) for place in places(2, 4, how="identity", at="end")]
    [(2, 1), (3, 1)]
    >>> [(place.at, place.copy_of) for place in places(2, 4, how="stack", at="end")]
    [(2, 0), (3, 1)]
    >>> [(place.at, place.copy_of) for place in places(4, 6, how="identity", at="spread")]
    [(2, 1), (5, 3)]
    """
    added = after - before
    if at == "end":
        return tuple(
            Place(before + k, k % before if how == "stack" else before - 1) for k in range(added)
        )
    below = [-(-(k + 1) * before // added) - 1 for k in range(added)]
    return tuple(Place(lower + 1 + k, lower) for k, lower in enumerate(below))
