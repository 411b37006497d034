"""Batches that a rollback passes over are passed over for all that begins at its boundary."""

import itertools

from tests.session.test_curricula import TOP, Run, indices, loader

AGAIN = (
    TOP
    + """
initial: start
stages:
  start: {kind: train, duration: 2 steps, next: train}
  train:
    kind: train
    actions: [{type: snapshot, name: good}]
    duration: 8 steps
    next: done
  done: {kind: final}
interrupts:
  - name: spike
    within: [train]
    when: val_loss > 1
    actions: [{type: roll_back, to: good, data: skip, skip_batches: 3}]
    target: train
    at_most: 3
"""
)
INTO_A_TRIAL = (
    TOP
    + """
initial: start
stages:
  start: {kind: train, duration: 2 steps, next: train}
  train:
    kind: train
    actions: [{type: snapshot, name: good}]
    transitions:
      - target: try
        when: val_loss > 1
        actions: [{type: roll_back, to: good, data: skip, skip_batches: 3}]
        at_most: 1
  try:
    kind: trial
    options:
      - {name: one, actions: [{type: deepen, stack: blocks, add: 1}]}
      - {name: two, actions: [{type: deepen, stack: blocks, add: 2}]}
    over: 2 steps
    metric: val_loss
    next: rest
  rest: {kind: consolidate, duration: 3 steps, next: done}
  done: {kind: final}
"""
)


def order(count):
    """The batches of an undisturbed run."""
    data = loader()
    passes = itertools.chain.from_iterable(iter(data) for _ in itertools.count())
    return [indices(batch) for batch in itertools.islice(passes, count)]


def trained(document, losses):
    return [batch for _, _, batch in Run(document, loader(), losses=losses).go().seen]


def test_a_snapshot_that_is_taken_anew_at_the_return_is_behind_them():
    """So the next return to it passes over the next batches, and meets none again."""
    seen, all_ = trained(AGAIN, {3: 2.0, 5: 2.0, 7: 2.0}), order(30)
    assert seen[:4] == all_[:4]
    assert seen[4:6] == all_[5:7], "two were trained, three are passed over from the second on"
    assert seen[6:8] == all_[8:10]
    assert seen[8:] == all_[11:19]


def test_all_options_of_a_trial_begin_behind_them():
    seen, all_ = trained(INTO_A_TRIAL, {3: 2.0, 5: 0.5, 7: 0.7}), order(20)
    assert seen[:4] == all_[:4]
    assert seen[4:6] == seen[6:8] == all_[5:7]
    assert seen[8:] == all_[5:8], "what is kept too"
