"""Options: what a CurriculumLoader is given, looked at before anything is made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from inspect import signature
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from stagegraph.actions.data.fetching import AskedItems
from stagegraph.errors import UnsupportedError, did_you_mean

__all__ = ["check_sources", "checked_loading", "checked_ranks", "positive", "shares_of"]

_NOT_OURS = {
    "dataset": "the first argument",
    "sampler": "the order, which is this loader's own",
    "batch_sampler": "the order, which is this loader's own",
    "generator": "seed=, as random numbers are drawn from nobody's generator",
}


def check_sources(sources: Mapping[str, Any]) -> None:
    """Refuse what has no items by index."""
    if not sources:
        raise UnsupportedError("a loader needs a data set, and there is none")
    for name, data in sources.items():
        gives = hasattr(type(data), "__getitem__") or isinstance(data, AskedItems)
        if isinstance(data, IterableDataset) or not isinstance(data, Sized) or not gives:
            raise UnsupportedError(
                f"source {name!r} is a {type(data).__name__}, which has no items by index; a "
                "curriculum chooses items, so give a map-style data set (a length, and items)"
            )
        if not len(data):
            raise UnsupportedError(f"source {name!r} has no items")


def checked_loading(loading: Mapping[str, Any]) -> dict[str, Any]:
    """What goes on to the DataLoader."""
    for key, instead in _NOT_OURS.items():
        if key in loading:
            raise UnsupportedError(f"{key}= is not given to a CurriculumLoader; see {instead}")
    known = signature(DataLoader.__init__).parameters
    for key in loading:
        if key not in known:
            raise UnsupportedError(
                f"{key}= is taken by no CurriculumLoader and no DataLoader"
                f"{did_you_mean(key, known)}"
            )
    if not loading.get("in_order", True):
        raise UnsupportedError("in_order=False hands batches out as they come; leave it out")
    return dict(loading)


def positive(what: str, number: int) -> int:
    """A whole number from 1 on."""
    if type(number) is not int or number < 1:
        raise UnsupportedError(f"{what} is a whole number from 1 on, got {number!r}")
    return number


def checked_ranks(
    num_ranks: int, rank: int, batch_size: int, *, drop_last: bool
) -> tuple[int, int]:
    """Ranks that can share each batch evenly."""
    if not 0 <= rank < num_ranks:
        raise UnsupportedError(f"rank {rank} is none of {num_ranks} ranks: 0 to {num_ranks - 1}")
    if num_ranks > 1 and not drop_last:
        raise UnsupportedError("with several ranks a short batch is uneven; give drop_last=True")
    if batch_size % num_ranks:
        raise UnsupportedError(
            f"batch_size={batch_size} is for all ranks together, and {num_ranks} ranks cannot "
            "share it evenly; take a multiple"
        )
    return num_ranks, rank


def shares_of(
    weights: Mapping[str, float], known: Iterable[str], *, what: str
) -> tuple[tuple[str, float], ...]:
    """Weights in the order of the sources, made to add up to 1.

    Args:
        weights: Per source how much it counts.
        known: The sources.
        what: Whose weights they are, for the message.

    Raises:
        UnsupportedError: One is of no source, is no number, or all are 0.
    """
    names = list(known)
    for name in weights:
        if name not in names:
            raise UnsupportedError(
                f"{what}: the loader has no source {name!r}{did_you_mean(name, names)}"
            )
    total = float(sum(weights.values()))
    if not 0 < total < float("inf") or min(weights.values()) < 0:
        raise UnsupportedError(
            f"{what}: weights are numbers from 0 on, and one of them is over 0; got "
            f"{dict(weights)!r}"
        )
    return tuple((name, weights[name] / total) for name in names if name in weights)
