"""How exactly a loader can be gone on with after a crash, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from stagegraph.actions.data.curriculum import CurriculumLoader
from stagegraph.actions.data.position import keeps_position
from stagegraph.actions.data.sampling import SeededSampler

__all__ = ["Exactness", "exactness"]

_REPEATABLE = (
    SequentialSampler,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    DistributedSampler,
    SeededSampler,
)
"""Samplers whose order is settled by the random numbers at the pass's beginning."""


@dataclass(frozen=True, slots=True)
class Exactness:
    """What a resumed run gets of the batches that the uninterrupted one would have got.

    Attributes:
        label: ``exact``: the same batches, if an item depends on its index alone. ``order exact``:
            the same items in the same order; what is drawn while they are made may differ. ``not
            exact``: nobody can say.
        why: Where it comes from, in a sentence.
        remedy: How to have it better.
    """

    label: Literal["exact", "order exact", "not exact"]
    why: str
    remedy: str = ""


_SEEDED = "make the order with sampler=stagegraph.SeededSampler(dataset, seed=...)"


def exactness(loader: Any) -> Exactness:
    """How exactly a run over this loader can be resumed."""
    if isinstance(loader, CurriculumLoader):
        return _of_curriculum(loader)
    if isinstance(loader, DataLoader) and not keeps_position(loader):
        return _of_data_loader(loader)
    if keeps_position(loader):
        if getattr(loader, "use_stateful_dataloader", False) and loader.persistent_workers:
            return Exactness(
                "not exact",
                "workers that stay from pass to pass draw fewer random numbers than those that are "
                "started anew when a run is resumed",
                "leave persistent_workers or use_stateful_dataloader out",
            )
        return Exactness(
            "order exact",
            f"the {type(loader).__name__} keeps its own position, which the checkpoint holds; "
            "random numbers of a dataset without a state of its own go on elsewhere",
        )
    if isinstance(loader, list | tuple | range):
        return Exactness("exact", f"a {type(loader).__name__} gives the same batches at each pass")
    return Exactness(
        "not exact",
        f"a {type(loader).__name__} tells nothing of its order; the batches that were used are "
        "fetched again and dropped, and the rest is right only if each pass repeats itself",
        f"use a DataLoader, and {_SEEDED}; or give the loader state_dict() and load_state_dict()",
    )


def _of_curriculum(loader: CurriculumLoader[Any]) -> Exactness:
    if loader.isolated:
        return Exactness(
            "exact",
            "CurriculumLoader: a batch depends on its number and on what is in force there, an "
            "item on seed, epoch and index",
        )
    return Exactness(
        "order exact",
        "CurriculumLoader: the items and their order depend on the batch's number; what they "
        "draw of global random numbers may differ",
        "leave out isolated=False",
    )


def _of_data_loader(loader: DataLoader[Any]) -> Exactness:
    batch_sampler = _inside_of_shards(loader.batch_sampler)
    own = type(batch_sampler) not in (BatchSampler, type(None))
    # With a batch sampler of the user's, or of Accelerate's, the loader's own is never asked.
    sampler = getattr(batch_sampler, "sampler", loader.sampler)
    if isinstance(loader.dataset, IterableDataset):
        return Exactness(
            "not exact",
            "the dataset is a stream without a position: what was used is read again and dropped",
            "use torchdata's StatefulDataLoader and give the dataset state_dict()",
        )
    if own or not _is_repeatable(sampler):
        what = type(batch_sampler if own else sampler).__name__
        return Exactness("not exact", f"nobody knows what the order of {what} depends on", _SEEDED)
    if type(sampler) is SeededSampler or type(sampler) is SequentialSampler:
        return Exactness("exact", f"{type(sampler).__name__}: a batch depends on its number alone")
    return Exactness(
        "order exact",
        f"the order of {type(sampler).__name__} is made again from the random numbers at the "
        "beginning of the pass; the batches that were used are fetched again and dropped",
        _SEEDED,
    )


def _inside_of_shards(batch_sampler: Any) -> Any:
    """The batch sampler that Accelerate gives each process its share of."""
    while type(batch_sampler).__name__ == "BatchSamplerShard":
        batch_sampler = batch_sampler.batch_sampler
    return batch_sampler


def _is_repeatable(sampler: object) -> bool:
    # Accelerate's draws from a seed and the number of the pass, which it is told.
    return type(sampler) in _REPEATABLE or type(sampler).__name__ == "SeedableRandomSampler"
