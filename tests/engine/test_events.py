"""Events: seen once, by all, and kept when a lock held the listener back (S12)."""

import pytest

from stagegraph.errors import ProgressError
from tests.engine.driving import Run

LISTENING = """
events: [go, other]
initial: a
stages:
  a: {kind: train, transitions: [{target: b, when: event(go)}]}
  b: {kind: train, transitions: [{target: c, when: event(go)}]}
  c: {kind: final}
"""


def events(run):
    return run.of_type("event", "boundary", "name", "status")


def test_event_is_seen_at_the_next_boundary_only():
    run = Run(LISTENING).step(3)
    run.core.send("go")
    run.step(5)
    assert run.moves == [(4, "main:a.transitions[0]")]
    assert events(run) == [(3, "go", "sent"), (4, "go", "heard")]


def test_unheard_event_is_ignored_and_told():
    run = Run(LISTENING).step(1)
    run.core.send("other")
    run.step(2)
    assert events(run) == [(1, "other", "sent"), (2, "other", "ignored")]
    assert run.core.state.events == ()


def test_event_is_seen_by_all_regions():
    run = Run("""
events: [go]
regions:
  a: {initial: x, stages: {x: {kind: train, transitions: [{target: y, when: event(go)}]},
      y: {kind: final}}}
  b: {initial: x, stages: {x: {kind: train, transitions: [{target: y, when: event(go)}]},
      y: {kind: final}}}
""").step()
    run.core.send("go")
    run.step()
    assert run.moves == [(2, "a:x.transitions[0]"), (2, "b:x.transitions[0]")]


def test_event_sent_by_an_action_is_seen_one_boundary_later():
    run = Run("""
events: [go]
regions:
  a:
    initial: x
    stages:
      x: {kind: train, transitions: [{target: y, when: step >= 3, actions: [
          {type: send, event: go}]}]}
      y: {kind: train}
  b: {initial: x, stages: {x: {kind: train, transitions: [{target: y, when: event(go)}]},
      y: {kind: final}}}
""")
    run.step(6)
    assert run.moves == [(3, "a:x.transitions[0]"), (4, "b:x.transitions[0]")]


BLOCKED = """
events: [go]
regions:
  a:
    initial: g
    stages:
      g: {{kind: grow, actions: [{{type: deepen, stack: b, add: 1}}], next: hold}}
      hold: {{kind: consolidate, duration: {hold} steps, next: free}}
      free: {{kind: train}}
  b:
    initial: x
    stages:
      x: {{kind: train, transitions: [{{target: g, when: event(go)}}]}}
      g: {{kind: grow, actions: [{{type: deepen, stack: b, add: 1}}], next: y}}
      y: {{kind: final}}
"""


def test_event_is_seen_once_and_kept_when_listener_was_blocked():
    """a is open until 2, so b is blocked at 2 and moves at 3."""
    run = Run(BLOCKED.format(hold=2), params=1, costs={"a:g": 1, "b:g": 1}).step()
    run.core.send("go")
    run.step(2)
    assert run.moves == [(2, "a:hold.next"), (3, "b:x.transitions[0]")]
    assert events(run) == [(1, "go", "sent"), (3, "go", "heard")]


def test_event_is_kept_for_one_boundary_and_no_longer():
    run = Run(BLOCKED.format(hold=9), params=1, costs={"a:g": 1, "b:g": 1}).step()
    run.core.send("go")
    run.step(9)
    assert run.moves == [(9, "a:hold.next")]
    assert events(run) == [(1, "go", "sent"), (3, "go", "ignored")]


def test_event_is_put_back_when_the_boundary_fails():
    run = Run("""
events: [go]
initial: a
stages:
  a:
    kind: train
    transitions:
      - target: b
        when: event(go)
        actions: [{type: snapshot, name: s}]
        on_error: {retry: 3, then: c}
  b: {kind: final}
  c: {kind: final}
""").step()
    run.actor.failures = {"main:a.transitions[0].actions[0]": 3}
    run.core.send("go")
    run.step(9)
    assert run.of_type("error", "boundary", "attempt") == [(2, 1), (3, 2), (4, 3)]
    assert run.moves == [(5, "main:a.transitions[0]")] and run.stage == "b"


def test_event_sent_before_the_first_boundary_waits_for_guards():
    run = Run(LISTENING)
    run.core.send("go")
    run.step()
    assert run.moves == [(1, "main:a.transitions[0]")]


def test_way_that_waits_for_an_event_to_be_over_is_taken_when_it_is():
    """At 4 it is held up; nothing else happens at 5."""
    run = Run("""
events: [go]
initial: a
stages:
  a: {kind: train, transitions: [{target: b, when: step >= 4 and not event(go)}]}
  b: {kind: train}
""").step(3)
    run.core.send("go")
    run.step(9)
    assert run.moves == [(5, "main:a.transitions[0]")]


def test_block_ends_with_the_event_that_was_kept():
    run = Run(BLOCKED.format(hold=9), params=1, costs={"a:g": 1, "b:g": 1}).step()
    run.core.send("go")
    run.step(5)
    assert run.of_type("blocked", "boundary") == [2]
    assert run.of_type("unblocked", "boundary") == [4], "seen at 2, kept for 3"


def test_undeclared_event_is_refused_with_a_suggestion():
    run = Run(LISTENING)
    with pytest.raises(
        ProgressError, match=r"event 'othr' is not declared in 'events'; did you mean 'other'\?"
    ):
        run.core.send("othr")
