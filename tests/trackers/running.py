"""A run with all that trackers show - a growth, ramps, a rollback - and ways to cut it."""

import sys

from tests.session.training import Training

SHOWING = """
stagegraph: 1
name: all that shows
metrics: {val_loss: {goal: minimize, every: 3 steps}}
initial: first
stages:
  first: {kind: train, duration: 3 steps, next: grow}
  grow: {kind: grow, actions: [{type: deepen, stack: blocks, add: 1}], next: warmup}
  warmup:
    kind: warmup
    during:
      - {type: alpha_ramp, of: grown, over: 4 steps}
      - {type: lr_ramp, of: all, start: 0, end: 1, over: 4 steps}
    next: trunk
  trunk: {kind: train, duration: 3 steps, next: anneal}
  anneal:
    kind: train
    actions: [{type: snapshot, name: before}]
    during: [{type: lr_ramp, end: 0, over: 2 steps}]
    duration: 2 steps
    transitions:
      - target: trunk
        when: completed()
        actions: [{type: roll_back, to: before, data: skip, rng: fork}]
        at_most: 2
        on_error: {retry: 1, then: done}
      - {target: done, when: completed() and visits(anneal) > 2}
  done: {kind: final}
"""

MOVES = [0, 3, 7, 10, 12, 15, 17, 20, 22]
"""The boundaries at which it moves."""

STAGES = [
    (0, 0), (3, 2), (6, 2), (7, 3), (9, 3), (10, 4), (12, 3), (14, 3), (15, 4), (17, 3), (19, 3),
    (20, 4), (22, 5),
]  # fmt: skip
"""Boundary and number of the stage, wherever it moves or is evaluated."""


def training(*trackers, **more):
    """The run, with its followers; the loop is to be told to begin or go on."""
    run = Training(SHOWING, val_loss=lambda update: 1.0, **more)
    for tracker in trackers:
        run.engine.listen(tracker)
    return run


def whole(*trackers, **more):
    """The run from its beginning to its end."""
    run = training(*trackers, **more)
    run.engine.start()
    return run.go()


def resumed(*trackers, **more):
    """The run, gone on with in its folder."""
    run = training(*trackers, **more)
    assert run.engine.resume()
    run.updates = run.engine.progress.step  # batches are numbered by the update; here they may be
    return run


def without(monkeypatch, module):
    """From here on the library is not installed."""
    monkeypatch.setitem(sys.modules, module, None)
