"""Whether an evaluation follows is asked before the update is told of: all ranks answer alike."""

import stagegraph as sg
from tests.ranks.threads import on_threads

GRAPH = """
{stagegraph: 1, name: asks, initial: a, metrics: {m: {goal: minimize, every: 24 AMOUNT}},
 stages: {a: {kind: train, transitions: [{target: done, when: "m < 0"}], duration: 9 steps,
          next: done}, done: {kind: final}}}
"""


def told(group, amount):
    """Each rank has another share of eight an update."""
    engine = sg.Engine(sg.load(GRAPH.replace("AMOUNT", amount)), group=group)
    tally, found = engine.tally(), []
    for _ in range(8):
        tally.samples, tally.tokens = (1, 7) if group.rank else (7, 1)
        follows = tally.updated()
        found.append(follows)
        if follows:
            tally.metrics["m"] = 1.0
        tally.tell()
        assert not engine.wants_evaluation  # it was foretold
    return found, engine.progress.samples, engine.progress.tokens


def test_intervals_in_samples_and_tokens_are_those_of_all_ranks():
    expected = [False, False, True, False, False, True, False, False]
    for amount in ("samples", "tokens"):
        assert on_threads(2, lambda group, of=amount: told(group, of)) == [(expected, 64, 64)] * 2


def test_an_interval_in_steps_needs_no_exchange():
    def calls(group):
        engine = sg.Engine(sg.load(GRAPH.replace("AMOUNT", "steps")), group=group)
        tally, before = engine.tally(), group.calls
        tally.samples = 4
        tally.updated()
        return group.calls - before

    assert on_threads(2, calls) == [0, 0]
