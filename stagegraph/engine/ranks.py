"""Ranks: several processes that train one model and must decide as one. Pure, but for the port.

Every rank runs the whole engine on the same numbers, so that all decide alike and nobody has to be
told what was decided. What differs per rank, its metrics, its counts and its clock, is exchanged
before the engine sees it; rank 0's wall clock and mail are everybody's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from stagegraph.errors import RankError

__all__ = ["Group", "Parted", "Reduce", "Status", "agreed", "lead", "reduced"]

T = TypeVar("T")

Reduce = Literal["mean", "sum", "min", "max", "any", "all", "rank0"]
"""What becomes of a metric's values on all ranks."""


class Parted(RankError):
    """A rank has gone or did not come; nothing can be agreed on any more."""


class Status(IntEnum):
    """What a rank has of a metric."""

    NONE = 0
    NUMBER = 1
    UNREAD = 2


@runtime_checkable
class Group(Protocol):
    """The processes that decide together. Each call is made by all of them, in the same order."""

    @property
    def rank(self) -> int:
        """Which this process is, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def gather(self, row: Sequence[float]) -> list[list[float]]:
        """The rows of all ranks, in their order; a row is as long on every rank.

        Raises:
            Parted: A rank has gone, or did not come.
        """
        ...

    def gather_data(self, data: Any) -> list[Any]:
        """JSON data of all ranks, in their order.

        Raises:
            Parted: As for :meth:`gather`.
        """
        ...

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """Bytes of all ranks, in their order.

        Raises:
            Parted: As for :meth:`gather`.
        """
        ...

    def share(self, data: Any) -> Any:
        """Rank 0's JSON data, on every rank; what the others give is not looked at.

        Raises:
            Parted: As for :meth:`gather`.
        """
        ...


def reduced(values: Sequence[tuple[int, float]], how: Reduce) -> float | None:
    """One value of what all ranks have.

    A rank that has none does not count, except that under ``rank0`` nobody else does. A value that
    is not finite makes the outcome not finite, so that it is unknown on all ranks.

    Args:
        values: Per rank a :class:`Status` and the number.
        how: What the graph declares.

    Returns:
        The value; ``None`` if nobody has one.

    >>> reduced([(1, 1.0), (1, 3.0)], "mean"), reduced([(0, 0.0), (1, 3.0)], "mean")
    (2.0, 3.0)
    >>> reduced([(0, 0.0), (1, 3.0)], "rank0"), reduced([(1, 0.0), (1, 2.0)], "any")
    (None, 1.0)
    """
    if how == "rank0":
        values = values[:1]
    there = [number for status, number in values if status]
    if not there:
        return None
    if not all(map(math.isfinite, there)):
        return math.nan
    match how:
        case "mean" | "rank0":
            return math.fsum(there) / len(there)
        case "sum":
            return math.fsum(there)
        case "min":
            return min(there)
        case "max":
            return max(there)
        case "any":
            return float(any(there))
        case "all":
            return float(all(there))


def lead(group: Group, call: Callable[[], Any]) -> Any:
    """What a function returns on rank 0, as JSON data on every rank.

    Args:
        group: The ranks.
        call: Called on rank 0 alone.

    Raises:
        RankError: On the others, that it has failed on rank 0; there it is what it has raised.
    """
    if group.rank:
        told = group.share(None)
        if "error" in told:
            raise RankError(f"rank 0: {told['error']}")
        return told["found"]
    try:
        found = call()
    except Exception as error:
        group.share({"error": f"{type(error).__name__}: {error}"})
        raise
    group.share({"found": found})
    return found


def agreed(group: Group, call: Callable[[], T]) -> T:
    """What a function returns on this rank, if it has failed on none.

    Args:
        group: The ranks.
        call: Called on each rank; no collective may be inside.

    Raises:
        RankError: It has failed on another rank; what it has raised on this one is raised as it is.
    """
    try:
        found = call()
    except Exception as error:
        group.gather_data(f"{type(error).__name__}: {error}")
        raise
    told = group.gather_data(None)
    for rank, text in enumerate(told):
        if text is not None:
            raise RankError(f"rank {rank}: {text}")
    return found
