"""Families of maps: where the new units of a space come from.

``split`` copies units and divides what they are read with among the copies: evenly (Net2Net,
1511.05641; HyperCloning, 2409.12903) or unevenly (LEMON, 2310.07999). ``zero_out`` adds units that
write something new and are read with zero; ``zero_in`` adds units that write zero and are read
with something new (2308.06103); ``pair`` adds them in twos that write the same and are read with
opposite signs. In the last three new units come from no old one; what fills them is the business
of whoever applies the map.

A norm over the space looks at all units at once, so the new ones must not change their statistics.
There a split is of whole copies, and what is left over is filled with units that hold the mean of
all others where the norm subtracts it (LayerNorm), and nothing where it does not (RMSNorm).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from stagegraph.actions.growth.width.maps import MEAN, NEW, SpaceMap

__all__ = ["Family", "copied", "normalised", "space_map"]

Family = Literal["split", "uneven", "zero_out", "zero_in", "pair"]


def copied(before: int, sources: Sequence[int], weights: Sequence[float]) -> SpaceMap:
    """A map of copies alone, each read with a weight of its own.

    >>> copied(2, [0, 1, 0], [0.5, 1.0, 0.5]).fold()
    tensor([[0.5000, 0.0000, 0.5000],
            [0.0000, 1.0000, 0.0000]], dtype=torch.float64)
    """
    return SpaceMap(
        before,
        torch.tensor(sources, dtype=torch.int64),
        torch.ones(len(sources), dtype=torch.float64),
        torch.tensor(weights, dtype=torch.float64),
    )


def space_map(family: Family, before: int, after: int, *, seed: int = 0) -> SpaceMap:
    """The map of a space that no norm looks at as a whole.

    Args:
        family: Where the new units come from.
        before: n.
        after: N.
        seed: For the shares of an uneven split; nobody else's random numbers are drawn.

    Raises:
        ValueError: N is not larger than n, or the new units of a ``pair`` are odd in number.
    """
    _refuse_no_growth(before, after)
    added = after - before
    if family in ("split", "uneven"):
        sources = [place % before for place in range(after)]
        return copied(before, sources, _shares(sources, before, family, seed))
    if family == "pair" and added % 2:
        raise ValueError(f"pairs come in twos, and {added} units more is an odd number")
    return _with_rest(list(range(before)), [1.0] * before, NEW, added, before)


def normalised(
    family: Family, before: int, after: int, *, subtracts_mean: bool
) -> tuple[SpaceMap, float]:
    """The map of a space that a norm looks at as a whole.

    Args:
        family: Where the new units come from; ``split`` or ``zero_in``.
        before: n.
        after: N.
        subtracts_mean: Whether a norm over it subtracts the mean (LayerNorm).

    Returns:
        The map, and which share of the grown units the mean of squares is spread over: the norm's
        gain is multiplied by its root, and its eps by itself. 1 where N is a multiple of n.

    Raises:
        ValueError: N is not larger than n, or the family would change the norm's statistics.
    """
    _refuse_no_growth(before, after)
    if family not in ("split", "zero_in"):
        raise ValueError(
            f"{family!r} would change what a norm over this space sees; there 'split' and 'zero_in'"
            " keep the function"
        )
    times = after // before if family == "split" else 1
    sources = [place % before for place in range(times * before)]
    rest = after - len(sources)
    filler = MEAN if subtracts_mean else NEW
    space = _with_rest(sources, [1 / times] * len(sources), filler, rest, before)
    return space, len(sources) / after


def _refuse_no_growth(before: int, after: int) -> None:
    if after <= before:
        raise ValueError(f"there are {before} units already, {after} is no growth")


def _with_rest(
    sources: Sequence[int], weights: Sequence[float], filler: int, rest: int, before: int
) -> SpaceMap:
    """Copies, followed by so many units of another origin, which nothing old reads."""
    origin = torch.tensor([*sources, *[filler] * rest], dtype=torch.int64)
    write = torch.ones(len(origin), dtype=torch.float64)
    read = torch.tensor([*weights, *[0.0] * rest], dtype=torch.float64)
    return SpaceMap(before, origin, torch.where(origin == NEW, 0.0, write), read)


def _shares(sources: Sequence[int], before: int, family: Family, seed: int) -> list[float]:
    """Per unit of the grown space the weight it is read with; those of one old unit sum to 1."""
    copies = [0] * before
    for source in sources:
        copies[source] += 1
    if family == "split":
        return [1 / copies[source] for source in sources]
    generator = torch.Generator().manual_seed(seed)
    raw = torch.rand(len(sources), generator=generator, dtype=torch.float64) + 0.5
    totals = torch.zeros(before, dtype=torch.float64)
    totals.index_add_(0, torch.tensor(sources), raw)
    return [float(raw[place] / totals[source]) for place, source in enumerate(sources)]
