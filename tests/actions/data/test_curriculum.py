"""CurriculumLoader: what is drawn is a function of position and level, and of nothing else."""

import itertools
import json
import random
from collections import Counter
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import IterableDataset

import stagegraph as sg
from stagegraph.actions.data.draws import Knobs

SIZE = 30


class Noisy:
    """Items that draw global random numbers, as most augmentations do."""

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        return torch.tensor([index, float(torch.rand(())), random.random()], dtype=torch.float64)


def loader(data=None, **more):
    data = range(SIZE) if data is None else data
    return sg.CurriculumLoader(data, **{"batch_size": 4, "seed": 7} | more)


def hard(**more):
    return loader(**{"score": list(range(SIZE)), "levels": 3} | more)


def take(data, count):
    """The next batches, over as many passes as it takes."""
    return [batch.tolist() for batch in itertools.islice(_endless(data), count)]


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


def _endless(data):
    while True:
        yield from data.rest() if data.in_pass else data


# Orders


def test_a_pass_has_every_item_once_and_the_next_another_order():
    data = loader()
    first, second = (flat(b.tolist() for b in data) for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(SIZE))
    assert first != second
    assert [len(b) for b in data] == [4] * 7 + [2]
    assert len(data) == 8


def test_the_last_short_batch_can_be_left_to_the_next_pass():
    data = loader(drop_last=True)
    passes = [[b.tolist() for b in data] for _ in range(4)]
    assert [len(one) for one in passes] == [7] * 4 == [len(data)] * 4
    counts = Counter(index for one in passes for batch in one for index in batch)
    assert max(counts.values()) - min(counts.values()) == 1  # 112 of 30 each: nothing is lost


@pytest.mark.parametrize("cut", range(0, 17, 3))
@pytest.mark.parametrize("persistent", [False, True])
def test_goes_on_from_any_batch_with_any_workers(cut, persistent):
    whole = hard(lead=4)
    whole.steer(Knobs(level=0))
    expected, state = [], None
    for number, batch in enumerate(take_each(whole, 16)):
        expected.append(batch)
        if number + 1 == cut:
            state = whole.state_dict()
        if number + 1 == 4:
            whole.steer(Knobs(level=2))
    workers = {"num_workers": 2, "prefetch_factor": 2, "persistent_workers": persistent}
    resumed = hard(**(workers if cut in (3, 6) else {"lead": 4}))
    if state is None:
        resumed.steer(Knobs(level=0))
    else:
        resumed.load_state_dict(json.loads(json.dumps(state)))
    got = []
    for batch in take_each(resumed, 16 - cut):
        got.append(batch)
        if resumed.consumed == 4:
            resumed.steer(Knobs(level=2))
    assert got == expected[cut:]


def take_each(data, count):
    for batch in itertools.islice(_endless(data), count):
        yield batch.tolist()


def test_no_global_random_number_is_drawn_or_lost():
    random.seed(1)
    torch.manual_seed(1)
    before = (random.getstate(), torch.get_rng_state())
    take(loader(Noisy()), 10)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_an_item_is_a_function_of_seed_epoch_and_index():
    def items(data, count=16):
        found = {}
        for batch in itertools.islice(_endless(data), count):
            for index, *noise in batch.tolist():
                found[data.drawn.epoch, index] = noise
        return found

    torch.manual_seed(0)
    alone = items(loader(Noisy()))
    torch.manual_seed(99)
    assert items(loader(Noisy(), num_workers=2)) == alone
    larger = items(loader(Noisy(), batch_size=5), 12)
    assert larger == {key: alone[key] for key in larger}
    assert all(alone[0, index] != alone[1, index] for index in range(SIZE))
    assert items(loader(Noisy(), seed=8))[0, 0] != alone[0, 0]


def test_a_data_set_that_asks_is_told_length_epoch_and_gets_its_own_random_numbers():
    class Asking:
        def __len__(self):
            return 4

        def item(self, asked):
            noise = torch.rand(asked.length, generator=asked.generator())
            return noise + 10 * asked.epoch

    data = loader(Asking(), batch_size=2, length=3)
    state = torch.get_rng_state()
    batches = [batch for _ in range(2) for batch in data]
    assert [tuple(b.shape) for b in batches] == [(2, 3)] * 4
    assert [int(b.min()) // 10 for b in batches] == [0, 0, 1, 1]
    assert torch.equal(state, torch.get_rng_state())


# Levels


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), min_size=1, max_size=8),
    st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_nothing_is_repeated_before_what_its_level_admits_is_used_up(plan, cumulative):
    data = hard(levels=4, cumulative=cumulative, batch_size=3)
    stream = _endless(data)
    used: Counter[int] = Counter()
    epoch = 0
    for level, batches in plan:
        data.steer(Knobs(level=level))
        for _ in range(batches):
            for index in next(stream).tolist():
                band = bisected(index)
                assert band <= level if cumulative else band == level
                if used[index] > epoch:  # again: then all that is admitted was used
                    admitted = [i for i in range(SIZE) if admits(level, i, cumulative)]
                    assert min(used[i] for i in admitted) > epoch
                    epoch += 1
                    for i in range(SIZE):  # what was left out of the pass is not owed
                        used[i] = max(used[i], epoch)
                used[index] += 1


def bisected(index):
    """The band of an item: 30 items in 4 levels, cut at the quantiles."""
    return sum(index > cut for cut in (7, 14, 22))


def admits(level, index, cumulative):
    band = bisected(index)
    return band <= level if cumulative else band == level


@pytest.mark.parametrize(
    ("score", "levels", "easy"),
    [
        ("length", 2, [0, 2]),
        (lambda text: -len(text), 2, [1, 3]),
        ([5.0, 1.0, 9.0, 2.0], [4.0], [1, 3]),
    ],
    ids=["length", "function", "cuts"],
)
def test_levels_by_length_by_function_and_by_cuts(score, levels, easy):
    texts = ["a", "abcd", "ab", "abc"]
    data = loader(texts, batch_size=2, score=score, levels=levels, shuffle=False)
    data.steer(Knobs(level=0))
    assert next(iter(data)) == [texts[index] for index in easy]
    assert data.drawn.level == 0


def test_levels_by_mixture():
    data = loader(
        {"a": range(100), "b": range(1000, 1100)},
        levels=[{"a": 1}, {"a": 1, "b": 3}],
        batch_size=8,
    )
    assert data.num_levels == 2
    data.steer(Knobs(level=1, weights=data.mixture_of(1)))
    assert [data.drawn.sources for _ in itertools.islice(data, 3)] == [{"a": 2, "b": 6}] * 3


# Mixtures


def test_a_mixture_is_met_in_each_batch_up_to_rounding():
    weights = {"a": 0.55, "b": 0.25, "c": 0.2}
    sources = {"a": range(40), "b": range(100, 140), "c": range(200, 240)}
    data = loader(sources, batch_size=10, weights=weights, samples_per_epoch=2000)
    totals = Counter()
    for _ in data:
        for name, weight in weights.items():
            assert abs(data.drawn.sources.get(name, 0) - 10 * weight) < 1
        totals.update(data.drawn.sources)
    assert {name: round(total / 2000, 2) for name, total in totals.items()} == weights


def test_each_source_has_a_pass_of_its_own_and_later_weights_go_on_with_it():
    data = loader({"a": range(12), "b": range(100, 112)}, batch_size=4, samples_per_epoch=400)
    data.steer(Knobs(weights=data.mixture({"a": 1}, what="w")))
    begun = take(data, 2)
    data.steer(Knobs(weights=data.mixture({"a": 1, "b": 1}, what="w")))
    later = flat(take(data, 2))
    seen = flat(begun)
    assert not set(seen) & set(later)
    assert sorted(seen + [i for i in later if i < 100]) == list(range(12))


def test_without_weights_sources_are_one():
    data = loader({"a": range(5), "b": range(100, 120)}, batch_size=5)
    for _ in range(3):
        assert sorted(flat(b.tolist() for b in data)) == [*range(5), *range(100, 120)]


# What steers


def test_a_change_holds_from_consumed_and_lead_on_and_an_undone_one_not_at_all():
    data = hard(lead=3)
    take(data, 2)
    assert data.steer(Knobs(level=1)) == 5
    assert data.steer(Knobs()) == 2  # taken back before anything was drawn by it
    assert data.state_dict()["pending"] == []
    assert data.steer(Knobs(level=1)) == 5
    take(data, 2)
    assert data.steer(Knobs(level=0)) == 7
    levels = [data.drawn.level for _ in take_each(data, 5)]
    assert levels == [None, 1, 1, 0, 0]


def test_steering_before_the_first_batch_holds_at_once_though_workers_have_begun():
    data = hard(num_workers=1, prefetch_factor=2)
    batches = iter(data)
    data.steer(Knobs(level=0))
    assert max(next(batches).tolist()) < 10
    assert data.drawn.level == 0


def test_a_pass_counts_samples_so_that_larger_batches_make_it_no_longer():
    data = loader()
    shares = []
    for batch in data:
        shares.append(data.drawn.share)
        if len(shares) == 2:
            data.steer(Knobs(batch_size=11))
        assert len(batch) == data.drawn.size
    assert sum(shares) == 1
    assert shares == [Fraction(n, SIZE) for n in (4, 4, 11, 11)]
    assert (data.drawn.last, data.epoch) == (True, 1)


def test_length_by_cropping():
    texts = [torch.arange(9) + i for i in range(4)]
    data = loader(texts, batch_size=2, crop=lambda item, length: item[:length])
    data.steer(Knobs(length=5))
    assert [tuple(batch.shape) for batch in data] == [(2, 5)] * 2
    assert data.drawn.length == 5


def test_ranks_share_each_batch():
    parts = [loader(num_ranks=2, rank=rank, drop_last=True) for rank in (0, 1)]
    whole = loader(drop_last=True)
    for left, right, both in zip(*parts, whole, strict=True):
        assert sorted(left.tolist() + right.tolist()) == sorted(both.tolist())
        assert len(left) == len(right) == 2


def test_skipping_is_drawing_without_fetching():
    class Counting(list):
        fetched = 0

        def __getitem__(self, index):
            Counting.fetched += 1
            return super().__getitem__(index)

    data, plain = hard(data=Counting(range(SIZE))), hard()
    data.skip(9)
    assert Counting.fetched == 0
    assert take(data, 3) == take(plain, 12)[9:]


def test_a_running_pass_goes_on_from_where_it_is_put():
    data = hard()
    batches = iter(data)
    first = [next(batches).tolist() for _ in range(3)]
    state = data.state_dict()
    then = [next(batches).tolist() for _ in range(2)]
    data.load_state_dict(state)
    assert [next(batches).tolist() for _ in range(2)] == then
    assert first[0] != then[0]


def test_a_pass_that_was_left_is_over_and_nothing_fetched_ahead_is_lost():
    data = loader(num_workers=2, prefetch_factor=2)
    first = [batch.tolist() for batch in itertools.islice(data, 2)]
    assert data.coming_epoch == 1
    second = [batch.tolist() for batch in data]
    assert data.drawn.epoch == 1
    seen = flat(first + second[:5])
    assert len(set(seen)) == len(seen) == 28  # the source's pass goes on all the same


def test_two_passes_at_once_are_refused():
    data = loader()
    first = iter(data)
    next(first)
    next(iter(data))
    with pytest.raises(sg.ProgressError, match="another pass over this loader was begun"):
        next(first)


# States


def test_a_state_is_json_and_of_this_loader():
    data = hard(lead=2)
    take(data, 3)
    data.steer(Knobs(level=1))
    state = json.loads(json.dumps(data.state_dict()))
    again = hard(lead=2)
    again.load_state_dict(state)
    assert again.state_dict() == data.state_dict()
    for other, words in (
        (hard(batch_size=5), "batch_size=4, and this one has 5"),
        (hard(seed=8), "seed=7, and this one has 8"),
        (hard(levels=2), "items_per_level"),
        (loader(range(31)), r"sources=\{'data': 30\}"),
    ):
        with pytest.raises(sg.SnapshotError, match=words):
            other.load_state_dict(state)
    for broken in (
        {},
        {**state, "version": 2},
        {**state, "position": 3},
        {**state, "pending": [1]},
    ):
        with pytest.raises(sg.SnapshotError):
            again.load_state_dict(broken)
    assert again.state_dict() == data.state_dict()


def test_more_prefetch_than_the_run_had_is_said():
    data = loader()
    take(data, 3)
    ahead = loader(num_workers=1, prefetch_factor=4)
    with pytest.warns(UserWarning, match=r"held 0 batches later, .* fetch 4 ahead"):
        ahead.load_state_dict(data.state_dict())
    less = loader(lead=4)
    take(less, 1)
    back = loader()
    back.load_state_dict(less.state_dict())
    assert back.lead == 4


class Stream(IterableDataset):
    """Items one after the other."""

    def __len__(self):
        return 3

    def __iter__(self):
        return iter(range(3))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: loader(iter([1])), "no items by index"),
        (lambda: loader(Stream()), "no items by"),
        (lambda: loader([]), "source 'data' has no items"),
        (lambda: loader({}), "needs a data set"),
        (lambda: loader(batch_size=0), "batch_size is a whole number from 1 on, got 0"),
        (lambda: loader(levels=3), "cut the items by score=, and there is none"),
        (lambda: loader(score="length"), "score= is cut by levels="),
        (lambda: hard(score="size"), "'size' is unknown; give 'length'"),
        (lambda: hard(score=[1.0]), "30 items and 1 scores"),
        (lambda: hard(score=[float("nan")] * SIZE), "item 0 of source 'data' has score nan"),
        (lambda: hard(score=[1.0] * SIZE), "no item is of level 1, 2 .*: many items have one"),
        (lambda: hard(levels=[3.0, 1.0]), "ascending order"),
        (lambda: hard(levels=31), "30 items cannot be cut in 31 levels"),
        (lambda: hard(score={"dta": [1.0]}), "no source 'dta'; did you mean 'data'"),
        (lambda: loader(weights={"web": 1.0}), "no source 'web'"),
        (lambda: loader(weights={"data": 0.0}), "one of them is over 0"),
        (lambda: loader(num_worker=2), "num_worker= is taken by no .* did you mean 'num_workers'"),
        (lambda: loader(sampler=range(3)), "sampler= is not given to a CurriculumLoader"),
        (lambda: loader(in_order=False), "hands batches out as they come"),
        (lambda: loader(num_workers=2, lead=3), "workers fetch 4 batches ahead"),
        (lambda: loader(length=4), "cannot cut items to a length"),
        (lambda: loader(num_ranks=2), "give drop_last=True"),
        (lambda: loader(num_ranks=3, drop_last=True), "3 ranks cannot share it evenly"),
    ],
)
def test_what_does_not_go_together_is_refused(make, words):
    with pytest.raises(sg.UnsupportedError, match=words):
        make()


def test_a_source_without_an_item_of_the_level_is_refused():
    sources = {"a": range(10), "b": range(10)}
    scores = {"a": [0.0] * 5 + [1.0] * 5, "b": [1.0] * 10}
    data = loader(sources, score=scores, levels=[0.0], weights={"a": 1, "b": 1})
    with pytest.raises(sg.UnsupportedError, match=r"source 'b' has no item of level 0, and 0\.5"):
        data.steer(Knobs(level=0, weights=data.mixture({"a": 1, "b": 1}, what="w")))
