"""Quiet updates are counted in another place than others; nothing else may come of it."""

import json
from fractions import Fraction
from functools import cache
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stagegraph as sg
from stagegraph.engine.core import Core
from stagegraph.engine.numbers import NumbersActor
from stagegraph.engine.simulate import runnable
from stagegraph.errors import MetricError, MissingFact, ProgressError

GRAPH = """
{stagegraph: 1, name: quiet, initial: a, events: [go],
 metrics: {val: {goal: minimize, every: 23 steps}, free: {goal: minimize}},
 budget: {epochs: 40, seconds: 2 h},
 stages: {
   a: {kind: train, duration: 31 steps, next: b,
       transitions: [{target: c, when: "event(go)"}, {target: b, when: "free < 1"},
                     {target: done, when: "spent(samples) > 900"}]},
   b: {kind: train, duration: 2.5 epochs, next: c,
       transitions: [{target: a, when: "val < 1"}, {target: c, when: "elapsed(5 min)"}]},
   c: {kind: train, duration: 120 tokens, next: a,
       actions: [{type: snapshot, name: s}],
       transitions: [{target: a, when: "elapsed(77 samples)", at_most: 2,
                      actions: [{type: roll_back, to: s, data: skip, rng: fork}]}]},
   done: {kind: final}}}
"""


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Records(list):
    """What was journalled."""

    def write(self, records):
        self.extend(json.dumps(one, sort_keys=True) for one in records)


@cache
def compiled():
    return runnable(sg.load(GRAPH))


class Half:
    """A core, its clock and its journal; counts all updates the long way if it is told to."""

    def __init__(self, *, long):
        self.clock, self.records, self.quiet = Clock(), Records(), 0
        self.core = Core(compiled(), NumbersActor(None, {}), sink=self.records, clock=self.clock)
        if long:
            self.core.meter.arm = lambda *_: None

    def resume(self, *, long):
        """As a checkpoint in JSON brings it back."""
        new = Half(long=long)
        new.clock, new.records, new.quiet = self.clock, self.records, self.quiet
        new.core = Core(compiled(), NumbersActor(None, {}), sink=new.records, clock=new.clock)
        if long:
            new.core.meter.arm = lambda *_: None
        new.core.load_state_dict(json.loads(json.dumps(self.core.state_dict())))
        return new

    def do(self, what, value):
        return getattr(self, what)(value)

    def steps(self, value):
        core, (number, samples, tokens, spread, batches, size, seconds) = self.core, value
        for n in range(number):
            if batches is not None:
                core.meter.announce(ceil(core.meter.reading * size) + batches, size)
            self.clock.now += seconds
            before = core.quiet.count
            more = n * n % spread
            core.step(samples=samples + more, tokens=tokens + 2 * more, loss=0.5)
            self.quiet += core.quiet.count > before
            if core.wants_evaluation:
                core.observe(val=3.0)

    def told(self, value):
        self.core.step(samples=1, tokens=1, epoch=self.core.meter.reading + Fraction(value, 7))

    def observe(self, value):
        self.core.observe(free=value)

    def metric(self, value):
        self.core.step(samples=2, tokens=1, free=value)

    def send(self, _):
        self.core.send("go")

    def explain(self, _):
        self.core.explain()

    def foretell(self, value):
        return self.core.evaluation_follows(samples=value, tokens=value)

    def seen(self):
        core = self.core
        return core.progress, core.unabsorbed, core.stages, core.done, core.loss


UPDATES = st.tuples(
    st.just("steps"),
    st.tuples(
        st.integers(1, 12),
        st.integers(1, 4),
        st.integers(0, 3),
        st.sampled_from([1, 1, 4]),
        st.none() | st.integers(0, 3),
        st.sampled_from([4, 9]),
        st.sampled_from([0.0, 1.0, 13.0]),
    ),
)
OTHERS = st.one_of(
    st.tuples(st.just("told"), st.integers(0, 3)),
    st.tuples(st.sampled_from(["observe", "metric"]), st.sampled_from([0.5, 4.0])),
    st.tuples(st.sampled_from(["send", "explain", "resume"]), st.none()),
    st.tuples(st.just("foretell"), st.integers(0, 3)),
)
FIRST = ("steps", (2, 1, 1, 1, 1, 4, 1.0))  # what the graph reads must be counted by somebody


def assert_alike(doings):
    one, other = Half(long=False), Half(long=True)
    one.core.start()
    other.core.start()
    for what, value in [FIRST, *doings]:
        if what == "resume":
            one, other = one.resume(long=False), other.resume(long=True)
        else:
            assert one.do(what, value) == other.do(what, value)
        assert one.seen() == other.seen()
    states = [json.dumps(half.core.state_dict(), sort_keys=True) for half in (one, other)]
    assert states[0] == states[1]
    assert list(one.records) == list(other.records)
    assert other.quiet == 0
    return one.quiet


LIVES = st.lists(UPDATES | OTHERS, min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(LIVES)
def test_an_update_counts_the_same_quietly_and_the_long_way(doings):
    assert_alike(doings)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@given(LIVES)
def test_many_updates_count_the_same_quietly_and_the_long_way(doings):
    assert_alike(doings)


@pytest.mark.parametrize(("spread", "least"), [(1, 26), (4, 18)])
def test_most_updates_are_quiet(spread, least):
    assert assert_alike([("steps", (20, 2, 1, spread, 1, 9, 1.0))] * 2) >= least


def calm(**step):
    """A core that has counted quietly."""
    half = Half(long=False)
    half.core.start()
    half.do("steps", (6, 2, 1, 1, 1, 9, 1.0))
    assert half.core.quiet.count == 4
    return half.core


def test_what_is_read_is_what_was_counted():
    core = calm()
    assert (core.progress.step, core.progress.samples, core.progress.tokens) == (6, 12, 6)
    assert core.progress.epoch == Fraction(6, 9)
    assert core.quiet.count == 4  # reading takes nothing in


def test_what_varies_is_summed_up():
    core = calm()
    for tokens in (0, 5, 2, 1):
        core.step(samples=3, tokens=tokens)
    assert core.quiet.count == 8
    assert (core.progress.step, core.progress.samples, core.progress.tokens) == (10, 24, 14)
    core.explain()
    assert core.quiet.count == 0
    assert (core.progress.step, core.progress.samples, core.progress.tokens) == (10, 24, 14)


def test_a_batch_that_is_drawn_is_not_learnt_from_yet():
    core = calm()
    core.meter.announce(7, 9)
    assert core.progress.epoch == Fraction(6, 9)
    core.step(samples=2, tokens=1)
    assert core.progress.epoch == Fraction(7, 9)


def test_an_update_of_no_batch_moves_no_passes():
    core = calm()
    core.step(samples=2, tokens=1)
    assert core.progress.epoch == Fraction(6, 9)
    assert core.progress.step == 7


def test_what_a_refused_update_has_announced_is_still_announced():
    core = Core(compiled(), NumbersActor(None, {}), clock=Clock())
    core.start()
    core.meter.announce(1, 4)
    for _ in range(2):
        with pytest.raises(MissingFact, match="samples"):
            core.step(tokens=1)
    core.step(samples=1, tokens=1)
    assert core.progress.epoch == Fraction(1, 4)
    assert core.progress.step == 1


def test_passes_that_were_told_once_go_on_with_the_batches():
    core = calm()
    core.meter.announce(7, 9)
    core.step(samples=2, tokens=1, epoch=Fraction(8, 9))
    assert core.progress.epoch == Fraction(8, 9)
    core.quiet.at = 8
    core.step(samples=2, tokens=1)
    core.quiet.at = 9
    core.step(samples=2, tokens=1)
    assert core.progress.epoch == 1


def test_a_state_that_is_loaded_in_place_forgets_what_was_counted():
    core = calm()
    saved = json.loads(json.dumps(core.state_dict()))
    core.quiet.at = 7
    core.step(samples=2, tokens=1)
    core.load_state_dict(saved)
    core.quiet.at = 7
    core.step(samples=2, tokens=1)
    assert core.progress.epoch == Fraction(7, 9)


def test_two_loaders_may_be_drawn_from_in_turns():
    engine = sg.Engine(sg.load(GRAPH))
    with engine:
        one, other = iter(engine.epochs(range(4))), iter(engine.epochs(range(8)))
        four, eight = iter(next(one)), iter(next(other))
        seen = []
        for batches in (four, eight, eight, four, eight):
            next(batches)
            engine.step(samples=1, tokens=1)
            seen.append(engine.progress.epoch)
        assert seen == [Fraction(n, 8) for n in (2, 3, 4, 4, 5)]


@pytest.mark.parametrize("kind", ["quiet", "loud"])
@pytest.mark.parametrize("samples", [2.0, Fraction(2), "2"])
def test_amounts_that_are_no_whole_numbers_are_refused_at_any_update(samples, kind):
    core = calm()
    if kind == "loud":
        core.meter.rest()
    with pytest.raises(ProgressError, match="samples are counted in whole numbers"):
        core.step(samples=samples, tokens=1)


def test_passes_that_go_backwards_are_refused():
    core = calm()
    core.explain()  # a look: nothing before it can be undone
    core.meter.announce(8, 9)
    core.step(samples=2, tokens=1)
    core.meter.announce(5, 9)
    with pytest.raises(ProgressError, match=r"epoch goes backwards: 0\.555556 after 0\.888889"):
        core.step(samples=2, tokens=1)
    assert core.progress.epoch == Fraction(8, 9)


@pytest.mark.parametrize("wrong", [{"samples": -2}, {"tokens": 1.5}, {"loss": [1.0, 2.0]}])
def test_what_is_wrong_is_refused_between_quiet_updates(wrong):
    core = calm()
    with pytest.raises((ProgressError, MetricError)):
        core.step(**{"samples": 2, "tokens": 1, **wrong})
    assert core.progress.step == 6
    core.step(samples=2, tokens=1)
    assert core.progress.step == 7


def test_mail_is_seen_by_the_next_update():
    core = calm()
    core.desk.nudge()
    core.step(samples=2, tokens=1)
    assert not core.mail
    assert core.unabsorbed == 0
