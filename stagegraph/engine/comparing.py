"""Comparing: the memory of a guard that compares a metric with one earlier value.

``regressed``, ``recovered`` and ``improved`` are one comparison with three marks: the excess of a
value over the reference, in the direction of getting worse, against a share of the reference's
absolute value. So zero and negative references, and both goals, need no case of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["ComparedMemory", "ComparedSpec", "compare"]

SLACK = 1e-9
"""A third of an epoch counted in floats may fall short of a third by its last bit."""

Wanted = Literal["regressed", "recovered", "improved"]


@dataclass(frozen=True, slots=True)
class ComparedSpec:
    """A comparison in numbers.

    Attributes:
        wanted: What makes the guard true.
        worse: The sign of getting worse: 1 if lower is better, -1 if higher is.
        share: The share of the reference's absolute value that matters.
        lasting: How long it must have held, in the unit of ``at``; ``None``: one value is enough.
    """

    wanted: Wanted
    worse: int
    share: float
    lasting: float | None = None

    def holds(self, value: float, reference: float) -> bool:
        """Whether one value is what is wanted.

        >>> spec = ComparedSpec("improved", worse=-1, share=0.1)
        >>> spec.holds(-1.7, -2.0), spec.holds(-1.9, -2.0)
        (True, False)
        """
        excess, mark = self.worse * (value - reference), self.share * abs(reference)
        match self.wanted:
            case "regressed":
                return excess > mark
            case "recovered":
                return excess <= mark
        return -excess > mark


@dataclass(frozen=True, slots=True)
class ComparedMemory:
    """Since when a metric has been what is wanted.

    Attributes:
        since: Progress at the first such observation of the present run of them, or ``None``.
        count: How many such observations in a row.
        truth: Whether it holds; ``None`` before the first comparison.
        excess: How much worse the newest value was, as a share of the reference; negative where
            it was better. ``None`` if that is no number: the reference is 0, or far too small.
    """

    since: float | None = None
    count: int = 0
    truth: bool | None = None
    excess: float | None = None

    def evidence(self, spec: ComparedSpec) -> dict[str, Any]:
        """What the guard saw."""
        found = {"since": self.since, "observations": self.count}
        if spec.wanted == "improved":
            return {"better_by": None if self.excess is None else -self.excess, **found}
        return {"worse_by": self.excess, **found}


def compare(
    memory: ComparedMemory, spec: ComparedSpec, at: float, value: float, reference: float | None
) -> ComparedMemory:
    """The memory after one more finite value.

    Args:
        memory: What is remembered.
        spec: What is asked.
        at: Progress at the observation, in the unit of ``spec.lasting``.
        value: The value, finite.
        reference: The value to compare with; ``None``: there is none, and nothing is known.
    """
    if reference is None:
        return memory
    share = spec.worse * (value - reference) / abs(reference) if reference else math.inf
    excess = share if math.isfinite(share) else None
    if not spec.holds(value, reference):
        return ComparedMemory(None, 0, False, excess)
    since = at if memory.since is None else memory.since
    count = memory.count + 1
    if spec.lasting is None:
        return ComparedMemory(since, count, True, excess)
    lasted = at - since >= spec.lasting * (1 - SLACK)
    return ComparedMemory(since, count, count >= 2 and lasted, excess)
