"""Where new blocks go, and what each is a copy of: numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["How", "Place", "grown_order", "nearest", "places"]

How = Literal["identity", "stack", "interleave", "middle", "drop_and_cat", "random"]


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
    before: int, after: int, *, how: How, at: Literal["end", "spread"] = "end"
) -> tuple[Place, ...]:
    """The new blocks of a stack that grows from n to N blocks, in order.

    ``identity`` and ``random``: above all others, copies of the uppermost one; or spread, each a
    copy of the block right below it. ``stack``: above all others, from the bottom on.
    ``interleave``: spread. ``middle`` (2409.19044): the N − n blocks in the middle, once more
    right above themselves. ``drop_and_cat`` (2312.15166): the stack without its m uppermost
    blocks, and on top the stack without its m lowest ones; N = 2(n − m), so m = n − N/2, and what
    is inserted are copies of blocks m … n−m−1, above block n−m−1.

    Raises:
        ValueError: The stack cannot grow to this size so.

    >>> [(place.at, place.copy_of) for place in places(2, 4, how="identity")]
    [(2, 1), (3, 1)]
    >>> [(place.at, place.copy_of) for place in places(2, 4, how="stack")]
    [(2, 0), (3, 1)]
    >>> [(place.at, place.copy_of) for place in places(4, 6, how="interleave")]
    [(2, 1), (5, 3)]
    >>> [(place.at, place.copy_of) for place in places(4, 6, how="drop_and_cat")]
    [(3, 1), (4, 2)]
    """
    added = after - before
    if how == "middle":
        _refuse_more_than_double(before, after, how)
        return _again(below=(before + added) // 2, added=added)
    if how == "drop_and_cat":
        _refuse_more_than_double(before, after, how)
        if after % 2:
            raise ValueError(
                f"drop_and_cat makes a stack of two equal parts, and {after} is odd; from {before} "
                f"blocks it makes {_listed(range(before + 2 - before % 2, 2 * before + 1, 2))}"
            )
        dropped = before - after // 2
        return _again(below=before - dropped, added=added)
    if how == "interleave" or at == "spread":
        below = [-(-(k + 1) * before // added) - 1 for k in range(added)]
        return tuple(Place(lower + 1 + k, lower) for k, lower in enumerate(below))
    return tuple(
        Place(before + k, k % before if how == "stack" else before - 1) for k in range(added)
    )


def _again(*, below: int, added: int) -> tuple[Place, ...]:
    """The blocks right below a place once more, above it."""
    return tuple(Place(below + k, below - added + k) for k in range(added))


def _refuse_more_than_double(before: int, after: int, how: str) -> None:
    if after > 2 * before:
        raise ValueError(
            f"{how} at most doubles a stack: {before} blocks become {before + 1} to {2 * before}, "
            f"not {after}"
        )


def _listed(sizes: Sequence[int]) -> str:
    few = [str(size) for size in sizes]
    return ", ".join(few if len(few) <= 4 else [*few[:2], "…", few[-1]])


def nearest(inserted: Sequence[Place], allowed: Sequence[bool]) -> tuple[Place, ...]:
    """The same places, each with the nearest block that may be copied; of two, the upper one."""
    able = [place for place, may in enumerate(allowed) if may]
    return tuple(
        replace(one, copy_of=min(able, key=lambda place: (abs(place - one.copy_of), -place)))
        for one in inserted
    )


def grown_order(before: int, inserted: Sequence[Place]) -> list[int]:
    """Per place of the grown stack, the place of its block, or of what it copies, as it was.

    >>> grown_order(3, places(3, 5, how="interleave"))
    [0, 1, 1, 2, 2]
    """
    order = list(range(before))
    for place in sorted(inserted, key=lambda place: place.at):
        order.insert(place.at, place.copy_of)
    return order
