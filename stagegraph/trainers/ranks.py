"""Ranks: what an adapter does alike in all processes of its host, where there are several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from stagegraph.actions.ranks.group import group_of
from stagegraph.engine import ranks

__all__ = ["agreed", "led", "place"]

T = TypeVar("T")


def place() -> tuple[int, int]:
    """Which rank this process is, from 0, and how many there are."""
    group = group_of("auto")
    return (0, 1) if group is None else (group.rank, group.size)


def agreed(call: Callable[[], T]) -> T:
    """What a function returns in this process, if it has failed in none.

    Raises:
        RankError: It has failed on another rank; what it has raised on this one is raised as it is.
    """
    group = group_of("auto")
    return call() if group is None else ranks.agreed(group, call)


def led(call: Callable[[], Any]) -> Any:
    """What a function returns on rank 0, JSON data, in every process.

    Raises:
        RankError: In the others, that it has failed on rank 0; there it is what it has raised.
    """
    group = group_of("auto")
    return call() if group is None else ranks.lead(group, call)
