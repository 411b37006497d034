"""A pass over the data that is gone on with gives the batches that were still to come."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import stagegraph as sg
from stagegraph.actions.data.exactness import exactness
from stagegraph.actions.keeping.checkpoint import read_checkpoint, take_checkpoint
from tests.actions.keeping.test_checkpoint import contents

ITEMS = TensorDataset(torch.arange(23))
EVEN = TensorDataset(torch.arange(24))


class Noisy(Dataset):
    """Items with random numbers of the process that makes them."""

    def __len__(self):
        return 23

    def __getitem__(self, index):
        return index + torch.rand(()) + random.random()


LOADERS = {
    "seeded": lambda: DataLoader(ITEMS, 4, sampler=sg.SeededSampler(ITEMS, seed=1)),
    "seeded, two workers": lambda: DataLoader(
        ITEMS, 4, sampler=sg.SeededSampler(ITEMS, seed=1), num_workers=2
    ),
    "in order": lambda: DataLoader(ITEMS, 4),
    "shuffled": lambda: DataLoader(ITEMS, 4, shuffle=True),
    "shuffled, last one dropped": lambda: DataLoader(ITEMS, 4, shuffle=True, drop_last=True),
    "shuffled, two workers": lambda: DataLoader(ITEMS, 4, shuffle=True, num_workers=2),
    "shuffled, with a generator": lambda: DataLoader(
        ITEMS, 4, shuffle=True, generator=torch.Generator().manual_seed(5)
    ),
    "shuffled, with a generator, all batches whole": lambda: DataLoader(
        EVEN, 4, shuffle=True, generator=torch.Generator().manual_seed(5)
    ),
    "shuffled, workers that stay": lambda: DataLoader(
        ITEMS, 4, shuffle=True, num_workers=2, persistent_workers=True
    ),
    "workers that stay, with a generator": lambda: DataLoader(
        EVEN,
        4,
        shuffle=True,
        num_workers=2,
        persistent_workers=True,
        generator=torch.Generator().manual_seed(5),
    ),
    "seeded, workers that stay": lambda: DataLoader(
        ITEMS,
        4,
        sampler=sg.SeededSampler(ITEMS, seed=1),
        num_workers=2,
        persistent_workers=True,
    ),
    "with replacement": lambda: DataLoader(ITEMS, 4, sampler=RandomSampler(ITEMS, True, 70)),
    "weighted": lambda: DataLoader(ITEMS, 4, sampler=WeightedRandomSampler(range(1, 24), 23)),
    "batches of a sampler": lambda: DataLoader(
        ITEMS, batch_sampler=BatchSampler(RandomSampler(ITEMS), 4, drop_last=False)
    ),
    "random items": lambda: DataLoader(Noisy(), 4, shuffle=True),
    "a list": lambda: [[i] for i in range(6)],
}


def numbers(batch):
    return [x.tolist() if isinstance(x, torch.Tensor) else x for x in batch] + [
        torch.rand(()).item()  # training draws too
    ]


def passes(loader, position, count):
    """Batches of some passes, with the position after each."""
    for index in range(count):
        batches, used, _ = position.enter(index, loader, index)
        for batch in batches:
            used = position.batches = used + 1
            yield index, numbers(batch)
        position.ended = True


def keep(position):
    """A checkpoint of the position and the random numbers."""
    from stagegraph.actions.randomness import RandomState

    state = {"position": position.state(), "random": RandomState.capture().pack()}
    return contents(take_checkpoint(state))


def go_on(files, loader, count):
    from stagegraph.actions.data.position import Position
    from stagegraph.actions.randomness import RandomState

    state = read_checkpoint(files)
    position = Position()
    position.load(state["position"])
    torch.manual_seed(99)
    random.seed(99)
    RandomState.unpack(state["random"]).restore()
    index = position.coming(77)
    for number in range(index, count):
        batches, used, _ = position.enter(number, loader, number)
        for batch in batches:
            used = position.batches = used + 1
            yield number, numbers(batch)
        position.ended = True


@pytest.mark.parametrize("name", LOADERS)
def test_it_goes_on_where_it_was(name):
    from stagegraph.actions.data.position import Position

    torch.manual_seed(3)
    random.seed(3)
    position, seen, kept = Position(), [], []
    for one in passes(LOADERS[name](), position, 3):
        seen.append(one)
        kept.append(keep(position))
    assert len({index for index, _ in seen}) == 3
    cuts = range(len(kept)) if "workers" not in name else (0, 4, 5, 8, 11)
    for cut in cuts:
        again = list(go_on(kept[cut], LOADERS[name](), 3))
        assert again == seen[cut + 1 :], f"cut after {cut + 1} batches"


class Stateful:
    """A loader that keeps its own position, as torchdata's does."""

    def __init__(self):
        self.at = 0

    def __len__(self):
        return 5

    def __iter__(self):
        start, self.at = self.at, 0
        for number in range(start, 5):
            self.at = number + 1
            yield [number]
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def test_a_loader_that_keeps_its_position_is_asked_for_it():
    from stagegraph.actions.data.position import Position

    position, seen, kept = Position(), [], []
    for one in passes(Stateful(), position, 3):
        seen.append(one)
        kept.append(keep(position))
    for cut, files in enumerate(kept):
        assert list(go_on(files, Stateful(), 3)) == seen[cut + 1 :], f"cut after {cut + 1}"


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # which torchdata still calls
@pytest.mark.parametrize("workers", [0, 2])
def test_torchdatas_stateful_loader_goes_on(workers):
    loaders = pytest.importorskip("torchdata.stateful_dataloader")
    from stagegraph.actions.data.position import Position

    def make():
        return loaders.StatefulDataLoader(ITEMS, 4, shuffle=True, num_workers=workers)

    torch.manual_seed(3)
    position, seen, kept = Position(), [], []
    for one in passes(make(), position, 2):
        seen.append(one)
        kept.append(keep(position))
    for cut in range(len(kept)) if not workers else (1, 5):
        assert list(go_on(kept[cut], make(), 2)) == seen[cut + 1 :], f"cut after {cut + 1}"


def test_another_loader_is_refused():
    from stagegraph.actions.data.position import Position

    position = Position()
    walk = passes(DataLoader(ITEMS, 4), position, 1)
    next(walk), next(walk)
    state = position.state()
    again = Position()
    again.load(state)
    with pytest.raises(
        sg.SnapshotError,
        match=r"had used 2 batches of pass 0 of a loader with 6 batches of 4, and this one has 12 "
        r"batches of 2; resume with the loader",
    ):
        again.enter(0, DataLoader(ITEMS, 2), 0)


def test_what_is_no_position_is_refused():
    from stagegraph.actions.data.position import Position

    for state in (None, {}, [], {"index": 1}):
        with pytest.raises(sg.SnapshotError, match="position in the data cannot be read"):
            Position().load(state)


# The sampler


@given(st.integers(1, 40), st.integers(0, 5), st.integers(0, 3), st.integers(1, 4), st.booleans())
def test_ranks_share_the_data_evenly(size, seed, epoch, ranks, drop_last):
    shares = []
    for rank in range(ranks):
        sampler = sg.SeededSampler(
            range(size), seed=seed, num_ranks=ranks, rank=rank, drop_last=drop_last
        )
        sampler.set_epoch(epoch)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler)
    assert len({len(share) for share in shares}) == 1
    dealt = [index for share in shares for index in share]
    if drop_last:
        assert len(set(dealt)) == len(dealt) == size // ranks * ranks
    else:
        assert set(dealt) == set(range(size))


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        sampler = sg.SeededSampler(range(50), seed=seed)
        sampler.set_epoch(epoch)
        return tuple(sampler)

    before = torch.get_rng_state()
    orders = {order(seed, epoch) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    torch.manual_seed(1)
    assert order(2, 3) in orders
    torch.set_rng_state(before)
    assert order(0, 0)[:5] == (11, 25, 5, 10, 42)


def test_skipping_holds_for_one_pass():
    sampler = sg.SeededSampler(range(10), shuffle=False)
    sampler.skip(7)
    assert list(sampler) == [7, 8, 9]
    assert list(sampler) == list(range(10))


def test_a_rank_that_is_none_is_refused():
    with pytest.raises(sg.ProgressError, match="rank 2 is none of 2 ranks: 0 to 1"):
        sg.SeededSampler(range(3), num_ranks=2, rank=2)


# What is said of it


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(5))


class Own(torch.utils.data.Sampler):
    def __iter__(self):
        return iter(range(5))


LABELS = [
    (LOADERS["seeded"], "exact", "SeededSampler"),
    (LOADERS["in order"], "exact", "SequentialSampler"),
    (LOADERS["a list"], "exact", "a list gives the same batches"),
    (LOADERS["shuffled"], "order exact", "RandomSampler is made again"),
    (lambda: DataLoader(ITEMS, sampler=DistributedSampler(ITEMS, 2, 0)), "order exact", "Distrib"),
    (Stateful, "order exact", "keeps its own position"),
    (lambda: DataLoader(Stream()), "not exact", "a stream without a position"),
    (lambda: DataLoader(ITEMS, sampler=Own()), "not exact", "what the order of Own depends on"),
    (lambda: (x for x in ()), "not exact", "a generator tells nothing of its order"),
]


@pytest.mark.parametrize(("make", "label", "why"), LABELS, ids=lambda x: x if x else None)
def test_how_exact_a_resumed_run_is_is_said(make, label, why):
    found = exactness(make())
    assert (found.label, why in found.why) == (label, True), found.why
    assert bool(found.remedy) == (label == "not exact" or "RandomSampler" in why or "Dis" in why)
