"""Interrupts and the way back (S17)."""

import pytest

from stagegraph.errors import ActionError
from tests.engine.driving import Run

AWAY = """
metrics: {m: {goal: minimize}, loss: {goal: minimize}}
activities: {named: {type: lr_ramp, start: 0, over: 20 steps}}
initial: a
stages:
  a:
    kind: train
    during: [named, {type: lr_ramp, of: "x.*", start: 0, over: 10 steps}]
    actions: [{type: snapshot, name: s}]
    transitions: [{target: done, when: "plateau(loss, patience=6 steps)"}]
    duration: 10 steps
    next: done
  away: {kind: train, during: [], duration: 5 steps, next: away2}
  away2: {kind: train, transitions: [{target: back}]}
  done: {kind: final}
interrupts:
  - {name: out, within: [a], when: m > 9, target: away, at_most: 1}
"""


def test_back_restores_time_and_memory_and_runs_no_entry_action():
    """Out at 4, back at 10: six updates away, so that a is completed at 16."""
    run = Run(AWAY).step(3).step(m=10.0)
    assert run.stage == "away"
    run.step(6)
    assert run.moves == [
        (4, "main:interrupts.out"),
        (9, "main:away.next"),
        (10, "main:away2.transitions[0]"),
    ]
    region = run.core.state.regions["main"]
    assert run.stage == "a" and region.entered.step == 6
    assert run.actor.deeds == ["main:a.actions[0]"], "its entry action ran at boundary 0 only"
    assert run.core.state.visits["main:a"] == 1
    values = {e.place: e.value for e in run.actor.boundaries[-1].held}
    assert values == {"main:named": 0.2, "main:a.during[1]": 0.4}
    run.step(9)
    assert run.moves[3:] == [(16, "main:a.next")]


def test_named_activity_begins_anew_after_being_away_only_if_back_does_not_bring_it():
    run = Run(AWAY).step(3).step(m=10.0).step(6)
    assert run.core.state.regions["main"].held["main:named"].step == 6


def test_patience_goes_on_where_it_was_left():
    """Best at 1, out at 4, back at 6; no new best at 7 is six updates of patience."""
    run = (
        Run("""
metrics: {m: {goal: minimize}, loss: {goal: minimize}}
initial: a
stages:
  a: {kind: train, transitions: [{target: done, when: "plateau(loss, patience=6 steps)"}]}
  away: {kind: train, transitions: [{target: back, when: elapsed(2 steps)}]}
  done: {kind: final}
interrupts: [{name: out, within: [a], when: m > 9, target: away}]
""")
        .step(loss=1.0)
        .step(2)
        .step(m=10.0)
    )
    assert run.core.state.memories == {}
    run.step(2)
    assert run.stage == "a"
    run.step(loss=2.0)
    assert run.moves[2:] == [(7, "main:a.transitions[0]")]


def test_interrupt_out_of_a_stage_entered_by_an_interrupt_leaves_the_slot_alone():
    run = Run("""
metrics: {m: {goal: minimize}}
initial: a
stages:
  a: {kind: train, duration: 9 steps, next: done}
  x: {kind: train}
  y: {kind: train, transitions: [{target: back, when: elapsed(2 steps)}]}
  done: {kind: final}
interrupts:
  - {name: first, within: [a], when: m > 5, target: x, at_most: 1}
  - {name: second, within: [x], when: m > 5, target: y}
""").step(2)
    run.step(m=6.0).step(m=6.0).step(2)
    assert run.moves == [
        (3, "main:interrupts.first"),
        (4, "main:interrupts.second"),
        (6, "main:y.transitions[0]"),
    ]
    assert run.stage == "a" and run.core.state.regions["main"].entered.step == 3
    run.step(9)
    assert run.moves[3:] == [(12, "main:a.next")]


def test_slot_stays_through_ordinary_moves_and_is_used_once():
    run = Run("""
initial: a
stages:
  a: {kind: train, duration: 3 steps, next: x}
  x: {kind: train, transitions: [{target: back}]}
interrupts: [{name: out, within: [a], when: step == 2, target: x, at_most: 1}]
""")
    run.step(4)
    assert run.moves == [
        (2, "main:interrupts.out"),
        (3, "main:x.transitions[0]"),
        (4, "main:a.next"),
    ]
    with pytest.raises(ActionError, match="there is nothing to go back to"):
        run.step()


def test_empty_slot_takes_the_way_that_the_author_gave_for_errors():
    run = Run("""
initial: x
stages:
  x: {kind: train, transitions: [{target: back, on_error: {then: b}}]}
  b: {kind: final}
""").step(2)
    assert run.of_type("error", "boundary", "edge") == [(1, "main:x.transitions[0]")]
    assert run.of_type("move", "boundary", "kind", "target")[1:] == [(2, "fallback", "main:b")]


def test_disturbance_while_away_clears_the_trends_in_the_slot():
    run = Run(
        """
metrics: {m: {goal: minimize}, loss: {goal: minimize}}
regions:
  main:
    initial: a
    stages:
      a: {kind: train, transitions: [{target: done, when: "plateau(loss, patience=3 steps)"}]}
      x: {kind: train, transitions: [{target: back, when: elapsed(3 steps)}]}
      done: {kind: final}
    interrupts: [{name: out, within: [a], when: m > 5, target: x, at_most: 1}]
  other:
    initial: a
    stages:
      a: {kind: train, duration: 4 steps, next: b}
      b: {kind: train, during: [{type: difficulty, level: 1}]}
"""
    )
    run.step(loss=1.0).step(m=6.0)
    assert run.core.state.regions["main"].back.memories
    run.step(3)
    assert run.stages == {"main": "a", "other": "b"}
    assert run.core.state.memories == {}
    run.step(loss=2.0)
    assert run.stages["main"] == "a", "what was best before the disturbance is forgotten"
