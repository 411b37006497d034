"""Bands: the items of the sources by difficulty, and what of them each level admits."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from stagegraph.errors import UnsupportedError, did_you_mean

__all__ = ["Bands", "Score", "are_mixtures", "bands_of", "scores_of"]

Score = Sequence[float] | Callable[[Any], float] | str
"""How hard each item is: a number per item, a function of the item, or ``length``."""


class Bands:
    """Which items are how hard, and what a level admits.

    Args:
        scores: Per source, a number per item.
        levels: How many levels, at equal shares of all items; or the cuts between them, ascending,
            each the highest score of its level.
        cumulative: Whether a level admits what is easier too.

    Raises:
        UnsupportedError: The scores cannot be cut so.
    """

    def __init__(
        self,
        scores: Mapping[str, Sequence[float]],
        levels: int | Sequence[float],
        *,
        cumulative: bool,
    ) -> None:
        self.cuts = _quantiles(scores, levels) if isinstance(levels, int) else _ascending(levels)
        self.num_levels = len(self.cuts) + 1
        self._cumulative = cumulative
        self.of = {
            name: [bisect_left(self.cuts, score) for score in several]
            for name, several in scores.items()
        }
        """Per source, the band of each item."""
        counts = [0] * self.num_levels
        for bands in self.of.values():
            for band in bands:
                counts[band] += 1
        empty = [band for band, count in enumerate(counts) if not count]
        if empty:
            raise UnsupportedError(
                f"levels: no item is of level {', '.join(map(str, empty))} (items per level: "
                f"{counts}), with cuts at {', '.join(f'{cut:g}' for cut in self.cuts)}: many items "
                "have one score; take fewer levels, or give cuts"
            )

    def admits(self, level: int | None) -> range:
        """The bands that a level admits; all if there is none."""
        if level is None:
            return range(self.num_levels)
        return range(0 if self._cumulative else level, level + 1)


def _quantiles(scores: Mapping[str, Sequence[float]], levels: int) -> tuple[float, ...]:
    if levels < 1:
        raise UnsupportedError(f"levels: {levels} is no number of levels; give 1 or more")
    ordered = sorted(score for several in scores.values() for score in several)
    if len(ordered) < levels:
        raise UnsupportedError(f"levels: {len(ordered)} items cannot be cut in {levels} levels")
    return tuple(
        ordered[math.ceil(level * len(ordered) / levels) - 1] for level in range(1, levels)
    )


def _ascending(cuts: Sequence[float]) -> tuple[float, ...]:
    if any(a >= b for a, b in pairwise(cuts)) or not all(map(math.isfinite, cuts)):
        raise UnsupportedError(
            f"levels: cuts are finite numbers in ascending order, got {list(cuts)!r}"
        )
    return tuple(cuts)


def scores_of(
    score: Score | Mapping[str, Score], sources: Mapping[str, Any], *, item: Callable[..., Any]
) -> dict[str, list[float]]:
    """A number per item of each source.

    Args:
        score: How hard items are, for all sources or per source.
        sources: The data sets by name.
        item: Gives the item of a source and an index.

    Raises:
        UnsupportedError: A number is missing, or is none.
    """
    if isinstance(score, Mapping):
        unknown = [name for name in score if name not in sources]
        if unknown:
            near = did_you_mean(unknown[0], sources)
            raise UnsupportedError(f"score: there is no source {unknown[0]!r}{near}")
        missing = [name for name in sources if name not in score]
        if missing:
            raise UnsupportedError(f"score: source {missing[0]!r} has none; give one for each")
        per_source = dict(score)
    else:
        per_source = dict.fromkeys(sources, score)
    return {
        name: _scored(per_source[name], name, len(data), item) for name, data in sources.items()
    }


def _scored(score: Score, name: str, size: int, item: Callable[..., Any]) -> list[float]:
    if isinstance(score, str):
        if score != "length":
            raise UnsupportedError(
                f"score: {score!r} is unknown; give 'length', a number per item, or a function"
            )
        found = [_length(item(name, index)) for index in range(size)]
    elif callable(score):
        found = [float(score(item(name, index))) for index in range(size)]
    else:
        found = [float(one) for one in score]
        if len(found) != size:
            raise UnsupportedError(
                f"score: source {name!r} has {size} items and {len(found)} scores; give one each"
            )
    for index, number in enumerate(found):
        if not math.isfinite(number):
            raise UnsupportedError(f"score: item {index} of source {name!r} has score {number}")
    return found


def _length(item: Any) -> float:
    """How long an item is; of a tuple or a mapping, its first part."""
    while isinstance(item, tuple | Mapping) and item:
        item = next(iter(item.values())) if isinstance(item, Mapping) else item[0]
    try:
        return float(len(item))
    except TypeError as error:
        raise UnsupportedError(
            f"score: 'length' is of sized items, and a {type(item).__name__} has none; give a "
            "function of the item"
        ) from error


def are_mixtures(levels: Any) -> bool:
    """Whether levels are mixtures of sources, and no cuts of scores."""
    if levels is None or isinstance(levels, int) or not len(levels):
        return False
    return all(isinstance(one, Mapping) for one in levels)


def bands_of(
    sources: Mapping[str, Any],
    score: Any,
    levels: Any,
    *,
    cumulative: bool,
    item: Callable[..., Any],
) -> Bands | None:
    """The items of the sources by difficulty, if a loader is to know any.

    Raises:
        UnsupportedError: Scores and levels do not go together.
    """
    if levels is None:
        if score is not None:
            raise UnsupportedError("score= is cut by levels=, and there is none; give both")
        return None
    if score is None:
        raise UnsupportedError(
            "levels= cut the items by score=, and there is none; give 'length', a number per "
            "item, or a function of the item"
        )
    return Bands(scores_of(score, sources, item=item), levels, cumulative=cumulative)
