"""A host's updates told through a tally: the same decisions as told one by one, at less cost."""

import json
from fractions import Fraction
from functools import cache
from unittest.mock import ANY

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import stagegraph as sg
from stagegraph.engine.core import Core
from stagegraph.engine.numbers import NumbersActor
from stagegraph.engine.simulate import runnable
from stagegraph.errors import MetricError, ProgressError, StageGraphError
from stagegraph.progress import Progress, Unit
from stagegraph.session.tally import Tally

GRAPH = """
{stagegraph: 1, name: told, initial: a,
 metrics: {val: {goal: minimize, every: EVERY, source: [eval_val]}, free: {goal: minimize}},
 budget: {epochs: 9},
 stages: {
   a: {kind: train, transitions: [{target: b, when: "tokens >= 37"}, {target: c, when: "free < 1"}],
       duration: 5/STEPS, next: b},
   b: {kind: train, transitions: [{target: c, when: "elapsed(0.7 epochs)"},
                                  {target: a, when: "val < 1"}],
       duration: 900 steps, next: c},
   c: {kind: train, transitions: [{target: a, when: "elapsed(11 samples)"},
                                  {target: b, when: "last(val) > 8 and left(epochs) > 3"}],
       duration: 4 steps, next: d},
   d: {kind: train, duration: 1.3 epochs, next: a,
       transitions: [{target: done, when: "spent(samples) > 160"}]},
   done: {kind: final}}}
""".replace("5/STEPS", "19 steps")

EVERY = ["3 steps", "1 epoch", "7 samples", "25 tokens", "0.35 epochs"]


def engine_of(every):
    engine = sg.Engine(sg.load(GRAPH.replace("EVERY", every)))
    engine.start()
    return engine


@cache
def compiled(every):
    return runnable(sg.load(GRAPH.replace("EVERY", every)))


class Records:
    """What was journalled."""

    def __init__(self):
        self.seen = []

    def write(self, records):
        self.seen += [json.dumps(one, sort_keys=True) for one in records]


def core_of(every, sink):
    """All of an engine that a tally needs."""
    return Core(compiled(every), NumbersActor(None, {}), sink=sink)


def seen(engine):
    return engine.stages, engine.done, engine.progress


def again(engine, tally, every, sink):
    """Both, as a checkpoint in JSON brings them back."""
    state, owed = json.loads(json.dumps([engine.state_dict(), tally.to_json()]))
    resumed = core_of(every, sink)
    resumed.load_state_dict(state)
    new = Tally(resumed, resumed, quick=True)
    new.load(owed)
    assert new.to_json() == owed
    return resumed, new


UPDATES = st.lists(
    st.tuples(
        st.integers(1, 3),  # micro-batches
        st.integers(0, 4),  # samples of each
        st.integers(0, 5),  # tokens of each
        st.none() | st.sampled_from([0.5, 2.0, 9.0]),  # what the evaluation gives or a log
        st.booleans(),  # whether it is cut here
    ),
    min_size=5,
    max_size=60,
)


def assert_alike(updates, size, every):
    told, one_by_one = Records(), Records()
    engine, other = core_of(every, told), core_of(every, one_by_one)
    engine.start()
    other.start()
    tally, batches = Tally(engine, engine, quick=True), 0
    other.meter.arm = lambda *_: None  # counts each update the long way
    # The first has some of all: what the graph reads must be counted by somebody.
    for micro, samples, tokens, value, cut in [(1, 1, 1, None, False), *updates]:
        for _ in range(micro):
            batches += 1
            tally.samples += samples
            tally.tokens += tokens
            tally.loss = 1.0 if tally.loss is None else tally.loss + 1.0
        follows = tally.updated(passes=(batches, size))
        metrics = {} if value is None or follows else {"free": value}
        tally.metrics |= {"eval_val": value or 3.0} if follows else metrics
        if cut and not engine.done:
            engine, tally = again(engine, tally, every, told)
        stops = tally.tell()
        other.step(
            samples=micro * samples, tokens=micro * tokens, epoch=Fraction(batches, size),
            loss=float(micro), **metrics,
        )  # fmt: skip
        assert follows == other.wants_evaluation
        if follows:
            other.observe(eval_val=value or 3.0)
        assert seen(engine) == seen(other)
        assert stops == engine.done
        assert not tally.owes
    for one in (engine, other):  # a resumed engine looks at its first update in any case
        one.state_dict()
    assert told.seen == one_by_one.seen


@settings(max_examples=15, deadline=None)
@given(updates=UPDATES, size=st.integers(1, 9), every=st.sampled_from(EVERY))
def test_a_tally_tells_the_same_as_one_call_per_update(updates, size, every):
    assert_alike([(*update[:4], False) for update in updates], size, every)


@settings(max_examples=10, deadline=None)
@given(updates=UPDATES, size=st.integers(1, 9), every=st.sampled_from(EVERY))
def test_a_tally_resumes_at_any_update_that_is_owed(updates, size, every):
    assert_alike(updates, size, every)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(updates=UPDATES, size=st.integers(1, 9), every=st.sampled_from(EVERY))
def test_many_tallies_tell_the_same(updates, size, every):
    assert_alike(updates, size, every)


ROLLS = """
{stagegraph: 1, name: rolls, initial: a,
 metrics: {val: {goal: minimize, every: 1 epoch}},
 stages: {
   a: {kind: train, duration: 1.5 epochs, next: keep},
   keep: {kind: train, actions: [{type: snapshot, name: s}], duration: 1 steps, next: b},
   b: {kind: train, duration: 2 epochs, next: done,
       transitions: [{target: b, when: "elapsed(1.2 epochs)", at_most: 2,
                      actions: [{type: roll_back, to: s, data: skip, rng: fork}]}]},
   done: {kind: final}}}
"""


@pytest.mark.parametrize("size", [1, 3, 7])
def test_passes_go_on_after_a_rollback(size):
    """The host's batches do not go back; the clock does."""
    graph = runnable(sg.load(ROLLS))
    engine, other = (Core(graph, NumbersActor(None, {})) for _ in range(2))
    tally = Tally(engine, engine, quick=True)
    other.meter.arm = lambda *_: None
    engine.start()
    for n in range(1, 12 * size):
        tally.samples += 2
        follows = tally.updated(passes=(n, size))
        tally.metrics |= {"val": 1.0} if follows else {}
        tally.tell()
        other.step(samples=2, epoch=Fraction(n, size))
        assert follows == other.wants_evaluation
        if follows:
            other.observe(val=1.0)
        assert seen(engine) == seen(other)
    assert engine.done
    assert engine.state.spent.epoch > engine.progress.epoch


def test_nothing_is_read_or_made_a_fraction_while_nothing_is_due():
    """An update at which nothing is due costs next to nothing, and never waits for a device."""

    class Read(torch.Tensor):
        read = 0

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            if func in (torch.Tensor.item, torch.Tensor.__float__, torch.Tensor.__bool__):
                cls.read += 1
            return super().__torch_function__(func, types, args, kwargs)

    engine = engine_of("900 steps")
    engine.listen(Records())
    tally, quiet = engine.tally(), engine._core.quiet
    engine.step(samples=1, tokens=1, epoch=(0, 10**6))
    for n in range(1, 9):
        tally.samples += 1
        tally.tokens += 1
        tally.loss = loss = torch.ones(()).as_subclass(Read)
        assert not tally.updated(passes=(n, 10**6))
        assert not tally.tell()
        assert quiet.count == n - 1  # at the first it may have said more, and counts the long way
        assert quiet.loss is loss
    assert Read.read == 0
    assert engine.progress == Progress(9, Fraction(8, 10**6), 9, 9, ANY)
    assert quiet.count == 7


def test_only_the_value_of_a_loss_is_kept():
    engine = engine_of("900 steps")
    engine.listen(Records())
    for n in range(6):
        weight = torch.full((), float(n), requires_grad=True)
        epoch = (n, 50) if n < 2 else None
        engine.step(loss=weight * 2, samples=1, tokens=1, epoch=epoch)
        assert engine._core.loss.grad_fn is None
        assert engine._core.loss == 2.0 * n
    assert engine._core.quiet.count == 4


def test_a_loss_that_nobody_is_shown_is_not_looked_at_while_nothing_is_due():
    engine = engine_of("900 steps")
    for n in range(4):
        engine.step(loss=torch.ones(()), samples=1, tokens=1, epoch=(n, 50) if n < 2 else None)
    engine.step(loss=torch.zeros(()), samples=1, tokens=1)
    assert engine._core.loss is None
    engine.listen(Records())
    engine.step(loss=torch.zeros(()), samples=1, tokens=1)
    assert engine._core.loss == 0


def test_a_loss_that_is_no_number_is_refused_at_any_update():
    engine = engine_of("900 steps")
    engine.listen(Records())
    for n in range(6):
        engine.step(loss=torch.ones(()), samples=1, tokens=1, epoch=(n, 50))
        engine._core.meter.coming = (n, 50)
        engine.step(loss=torch.ones(()), samples=1, tokens=1)
        before = engine.progress.step
        for bad in (torch.ones(3), torch.ones((), dtype=torch.complex64), "0.1"):
            with pytest.raises(MetricError, match="'loss' must be one number"):
                engine.step(loss=bad, samples=1, tokens=1)
        assert engine.progress.step == before


def test_a_closed_engine_counts_nothing_more():
    engine = engine_of("900 steps")
    tally = engine.tally()
    for n in range(5):
        if n == 4:
            engine.close()
        tally.samples, tally.tokens = 2, 1
        tally.updated((n + 1, 50))
        if n < 4:
            tally.tell()
        else:
            with pytest.raises(StageGraphError, match="closed"):
                tally.tell()
    assert engine.progress.step == 4


def test_an_announced_reading_holds_for_one_update():
    engine = engine_of("900 steps")
    tally, meter = engine.tally(), engine._core.meter
    for n in range(1, 5):
        tally.samples, tally.tokens = 2, 1
        tally.updated((n, 50))
        tally.tell()
    meter.coming = (30, 50)
    tally.samples, tally.tokens = 2, 1
    tally.updated()
    tally.tell()
    assert meter.coming is None
    assert engine.progress.epoch == Fraction(4, 50)


@pytest.mark.parametrize("wrong", [{"samples": "3"}, {"samples": [1]}, {"tokens": "3"}])
def test_what_is_no_number_is_refused_at_any_update(wrong):
    engine = engine_of("900 steps")
    for n in range(4):
        engine.step(samples=2, tokens=1, epoch=(n, 50) if not n else None)
        with pytest.raises(ProgressError, match="are counted in whole numbers, got a"):
            engine.step(**wrong)
    assert engine.progress.step == 4


@pytest.mark.parametrize("samples", [-1, 10**19, 1.5, True])
def test_amounts_are_checked_at_any_update(samples):
    engine = engine_of("900 steps")
    engine.step(samples=1, tokens=1, epoch=(1, 50))
    engine.step(samples=1, tokens=1)
    if samples is True:
        engine.step(samples=samples)
        assert engine.progress.samples == 3
        return
    with pytest.raises(ProgressError):
        engine.step(samples=samples)
    assert engine.progress.step == 2


def test_an_update_counts_once_though_its_boundary_fails():
    """The loss is read when it is asked for; the update is over by then, and owed no more."""
    engine = sg.Engine(
        sg.load(
            """
            {stagegraph: 1, name: fails, initial: a, metrics: {free: {goal: minimize}},
             stages: {a: {kind: train, duration: 9 steps, next: done,
                          transitions: [{target: done, when: "free < 0"}]},
                      done: {kind: final}}}
            """
        )
    )

    class Lost(torch.Tensor):
        """A value that its device does not give back."""

        def item(self):
            raise RuntimeError("the device is gone")

    engine.start()
    tally = engine.tally()
    for n in range(3):
        tally.samples += 2
        tally.updated((n + 1, 50))
        if n == 1:
            tally.metrics["free"] = torch.ones(()).as_subclass(Lost)
            with pytest.raises(MetricError, match="'free'"):
                tally.tell()
            assert not tally.owes and not tally.metrics and tally.samples == 0
        else:
            tally.tell()
    assert engine.progress.step == 3
    assert engine.progress.samples == 6


def test_an_update_that_is_refused_is_still_owed():
    engine = engine_of("900 steps")
    tally = engine.tally()
    tally.samples, tally.tokens, tally.loss = 2, 1, torch.ones(3)
    tally.updated((1, 50))
    with pytest.raises(MetricError, match="'loss' must be one number"):
        tally.tell()
    assert tally.owes and tally.samples == 2
    assert engine.progress.step == 0
    tally.loss = torch.ones(())
    tally.tell()
    assert not tally.owes
    assert engine.progress.samples == 2


@pytest.mark.parametrize("pair", [(1,), (1, 0), (-1, 5), (1.0, 5), (1, 2, 3), (True, 5), ("1", 5)])
def test_a_pair_of_batches_must_be_one(pair):
    engine = engine_of("900 steps")
    with pytest.raises(ProgressError, match="no number of passes"):
        engine.step(epoch=pair)
    assert engine.progress.step == 0


def test_pairs_and_fractions_are_the_same_passes():
    engine = engine_of("900 steps")
    for reading in ((2, 4), Fraction(3, 4), (6, 8), 0.8, (9, 10)):
        engine.step(samples=1, tokens=1, epoch=reading)
    assert engine.progress.epoch == Fraction(9, 10)


def test_an_interval_in_seconds_is_known_once_its_update_is_told(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("stagegraph.session.engine.time.monotonic", lambda: now[0])
    engine = engine_of("10 s")
    tally = engine.tally()
    asked = []
    for n in range(1, 9):
        now[0] += 4.0
        tally.samples, tally.tokens = 1, 1
        follows = tally.updated(passes=(n, 100))
        tally.metrics |= {"val": 5.0} if follows else {}
        waits = tally.tell()
        if waits and tally.wants_evaluation:
            tally.metrics["val"] = 5.0
            tally.observe()
            follows = True
        asked.append(follows)
    assert engine.progress.of(Unit.SECONDS) == 32.0
    assert [n for n, a in enumerate(asked, 1) if a] == [3, 5, 8]
