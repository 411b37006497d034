"""Cuts: after which updates a run is ended, to be resumed."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Literal

from stagegraph.errors import StageGraphError
from stagegraph.testing.lives import Life

__all__ = ["Cuts", "choose_cuts"]

Cuts = Literal["spread", "all"] | int | Iterable[int]
"""``spread``, ``all``, how many at least, or the updates themselves."""

SPREAD = 8
"""How many at least."""


def choose_cuts(cuts: Cuts, whole: Life) -> tuple[int, ...]:
    """The updates after which to end the run.

    Args:
        cuts: What was asked for. A spread has one inside each kind of stage, the boundary before,
            at and after each structural change, one within a later pass over the data, and more at
            equal distances.
        whole: The run, uninterrupted.

    Raises:
        StageGraphError: One is no update of the run, or there is none.
    """
    possible = [update for update in sorted(whole.readings) if update < whole.last]
    if not possible:
        raise StageGraphError(
            f"the run has {len(whole.readings)} updates; to be ended and resumed it needs two"
        )
    if cuts == "all":
        return tuple(possible)
    if isinstance(cuts, int | str):
        return _spread(possible, whole, SPREAD if isinstance(cuts, str) else cuts)
    chosen = sorted(set(cuts))
    wrong = [cut for cut in chosen if cut not in possible]
    if wrong or not chosen:
        raise StageGraphError(
            f"cuts={chosen}: the run can be ended after the updates {possible[0]} to {possible[-1]}"
        )
    return tuple(chosen)


def _spread(possible: list[int], whole: Life, number: int) -> tuple[int, ...]:
    chosen = set(_inside_each_kind(possible, whole))
    for at in whole.structural:
        chosen |= {at - 1, at, at + 1}
    later = [update for update in possible if _is_within_later_pass(update, whole)]
    if later and not chosen & set(later):
        chosen.add(later[len(later) // 2])
    chosen &= set(possible)
    # The farthest from all others comes next.
    while len(chosen) < min(number, len(possible)):
        chosen.add(max(possible, key=lambda u: (min((abs(u - c) for c in chosen), default=0), -u)))
    return tuple(sorted(chosen))


def _inside_each_kind(possible: list[int], whole: Life) -> Iterable[int]:
    for kind in sorted({kind for update in possible for kind in whole.kinds[update]}):
        times = [
            list(group)
            for inside, group in groupby(possible, key=lambda update: kind in whole.kinds[update])
            if inside
        ]
        longest = max(times, key=len)
        yield longest[len(longest) // 2]


def _is_within_later_pass(update: int, whole: Life) -> bool:
    passes = whole.epochs[update]
    return passes > 1 and passes.denominator != 1
