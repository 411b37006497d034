"""Levels that move and teachers that are meant: the pure half of distillation."""

import pytest

from stagegraph.errors import ActionError
from tests.engine.driving import Run

MOVING = """
initial: a
stages:
  a: {kind: train, actions: [{type: teacher, name: old}], duration: 2 steps, next: b}
  b:
    kind: train
    during:
      - type: distill
        teachers: [old, {name: new, weight: {start: 0, end: 4, over: 4 steps}}]
        temperature: {start: 3, end: 1, over: 2 steps}
        weight: 0.5
    actions: [{type: teacher, name: new}]
    duration: 6 steps
    next: c
  c: {kind: train, duration: 2 steps, next: done}
  done: {kind: final}
"""
PLACE = "main:b.during[0]"


def levels(run):
    """Those that the actor was given at the last boundary."""
    (effect,) = run.actor.boundaries[-1].held
    return effect.levels


def test_levels_begin_with_the_activity():
    run = Run(MOVING).step(2)
    assert levels(run) == {"weight": 0.5, "temperature": 3, "share:old": 1, "share:new": 0}


def test_levels_move_at_every_update_and_stop_at_their_end():
    run = Run(MOVING).step(2)
    run.actor.tuned.clear()
    run.step(5)
    assert run.actor.tuned == [
        {f"{PLACE}/temperature": 2, f"{PLACE}/share:new": 1},
        {f"{PLACE}/temperature": 1, f"{PLACE}/share:new": 2},
        {f"{PLACE}/temperature": 1, f"{PLACE}/share:new": 3},
        {f"{PLACE}/temperature": 1, f"{PLACE}/share:new": 4},
    ]


@pytest.mark.parametrize("cut", range(10))
def test_levels_go_on_after_a_resume(cut):
    whole = Run(MOVING).step(cut)
    resumed = whole.resumed()
    whole.actor.tuned.clear()
    whole.step(9 - cut)
    resumed.step(9 - cut)
    assert resumed.actor.tuned == whole.actor.tuned
    assert resumed.core.state == whole.core.state


def test_a_look_at_every_update_finds_the_same():
    lazy, eager = Run(MOVING).step(7), Run(MOVING, eager=True).step(7)
    assert lazy.actor.tuned[-3:] == eager.actor.tuned[-3:]
    assert lazy.core.state.teachers == eager.core.state.teachers


def test_an_effect_names_the_teachers_that_are_meant():
    run = Run(MOVING).step(2)
    (effect,) = run.actor.boundaries[-1].held
    assert effect.teachers == {"old": "teacher:old@0.0", "new": "teacher:new@2.0"}
    assert [d.teacher for b in run.actor.boundaries for d in b.deeds] == list(
        effect.teachers.values()
    )


AGAIN = """
initial: a
stages:
  a: {kind: train, actions: [{type: teacher, name: t}], duration: 2 steps, next: b}
  b: {kind: train, actions: [{type: teacher, name: t}], duration: 2 steps, next: done}
  done: {kind: final}
"""


def test_the_older_of_a_name_is_forgotten_when_the_newer_comes():
    run = Run(AGAIN).step(2)
    assert run.core.state.teachers == {"t": "teacher:t@2.0"}
    assert run.actor.boundaries[-1].forget == ("teacher:t@0.0",)


ROLLING = """
initial: a
stages:
  a: {kind: train, actions: [{type: teacher, name: t}], duration: 2 steps, next: b}
  b: {kind: train, actions: [{type: snapshot, name: s}], duration: 2 steps, next: c}
  c: {kind: train, actions: [{type: teacher, name: t}], during: [{type: distill, teachers: t}]}
  d: {kind: train, during: [{type: distill, teachers: t}], duration: 2 steps, next: done}
  done: {kind: final}
interrupts:
  - name: undo
    within: [c]
    when: elapsed(2 steps)
    actions: [{type: roll_back, to: s, data: skip}]
    target: d
    at_most: 1
"""


def test_a_rollback_means_the_teacher_of_then_and_forgets_the_later_one():
    run = Run(ROLLING).step(4)
    assert run.actor.boundaries[-1].forget == (), "the snapshot may return to the older one"
    assert run.core.state.teachers == {"t": "teacher:t@4.0"}
    run.step(2)
    assert run.core.state.teachers == {"t": "teacher:t@0.0"}
    assert run.actor.boundaries[-1].forget == ("teacher:t@4.0",)


MAYBE = """
events: [go]
initial: a
stages:
  a:
    kind: train
    transitions:
      - {target: b, when: step >= 2}
      - {target: b, when: event(go), actions: [{type: teacher, name: t}]}
  b: {kind: train, during: [{type: distill, teachers: t}], duration: 2 steps, next: done}
  done: {kind: final}
"""


def test_a_teacher_that_was_not_made_fails_the_boundary():
    run = Run(MAYBE)
    with pytest.raises(ActionError, match=r"main:b\.during\[0\]: no teacher 't' has been made yet"):
        run.step(2)
    assert run.core.stages == {"main": "a"}
    assert run.core.state.teachers == {}


def test_a_warm_up_does_not_wait_for_levels():
    run = Run(
        """
initial: a
stages:
  a:
    kind: warmup
    actions: [{type: teacher, name: t}]
    during:
      - {type: lr_ramp, start: 0, over: 2 steps}
      - {type: distill, teachers: t, weight: {start: 1, end: 0, over: 9 steps}}
    next: done
  done: {kind: final}
"""
    ).step(2)
    assert run.core.done
