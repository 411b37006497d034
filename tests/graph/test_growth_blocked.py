"""Which growths the lock can never let through, where regions go away and come back (S11)."""

import yaml

from tests.graph.documents import findings

DOCUMENT = """
stagegraph: 1
name: test
metrics: {m: {goal: minimize, every: 5 steps}}
budget: {params: 99, steps: 999}
regions:
  a:
    initial: wait
    stages:
      wait: {kind: train, actions: [{type: snapshot, name: s}], duration: 9 steps, next: grow}
      grow: {kind: grow, actions: [{type: deepen, stack: s, add: 1}], next: hold}
      hold: {kind: consolidate, duration: 9 steps, next: done}
      away: {kind: train, transitions: [{target: back, when: elapsed(3 steps)}]}
      calm: {kind: settle, lr_factor: 0.5, duration: 9 steps, next: done}
      done: {kind: final}
    interrupts:
      - {name: out, within: [hold], when: m > 9, target: away, at_most: 1}
      - {name: undo, within: [hold], when: m > 99, target: calm, at_most: 1,
         actions: [{type: roll_back, to: s, data: skip}]}
  b:
    initial: wait
    stages:
      wait: {kind: train, transitions: [{target: grow, when: WHEN}], duration: 99 steps, next: done}
      grow: {kind: grow, actions: [{type: deepen, stack: s, add: 1}], next: hold}
      hold: {kind: consolidate, duration: 9 steps, next: done}
      done: {kind: final}
"""


def blocked(when):
    found = findings(yaml.safe_load(DOCUMENT.replace("WHEN", when)))
    return [f.pointer for f in found if f.code == "growth-blocked"]


def test_consolidation_that_is_left_and_come_back_to_is_open_all_the_same():
    assert blocked("in(a:hold)") == ["/regions/b/stages/wait/transitions/0/when"]


def test_training_stage_in_between_is_closed():
    assert blocked("in(a:away)") == []


def test_stage_behind_a_rollback_may_be_entered_closed():
    """It is reached from the consolidation alone, but the growth is undone on the way."""
    assert blocked("in(a:calm)") == []
