"""The growth lock and the two ways back: ``target: back`` and a rollback (S11, S14, S17)."""

import json

import pytest

from stagegraph.engine.commands import Message
from stagegraph.errors import ActionError
from tests.engine.driving import Run

BACK = """
metrics: {{m: {{goal: minimize}}}}
max_overlap: {max_overlap}
regions:
  a:
    priority: {priority}
    initial: g
    stages:
      g: {{kind: grow, actions: [{{type: deepen, stack: s, add: 1}}], next: hold}}
      hold: {{kind: consolidate, duration: 6 steps, next: done}}
      away: {{kind: {away}, transitions: [{{target: back, when: elapsed(3 steps)}}]}}
      done: {{kind: final}}
    interrupts: [{{name: out, within: [hold], when: m > 9, target: away, at_most: 1}}]
  b:
    initial: wait
    stages:
      wait: {{kind: train, transitions: [{{target: g, when: step >= {at}}}]}}
      g: {{kind: grow, actions: [{{type: deepen, stack: s, add: 1}}], next: hold}}
      hold: {{kind: consolidate, duration: 4 steps, next: done}}
      done: {{kind: final}}
"""


def interrupted(*, at, max_overlap=1, priority=0, away="train", document=BACK):
    """``a`` grows at 0, is out of its consolidation from 2 on, and wants back at 5."""
    text = document.format(at=at, max_overlap=max_overlap, priority=priority, away=away)
    text = text.replace("kind: settle,", "kind: settle, lr_factor: 0.5,")
    run = Run(text, params=1, costs={"a:g": 1, "b:g": 1})
    return run.step().step(m=10.0)


def is_open(run):
    return {name for name, region in run.core.state.regions.items() if region.open}


def test_training_stage_closes_a_region_and_back_opens_it_again():
    """Without that, b would grow at 6, into the consolidation."""
    run = interrupted(at=6)
    assert run.stages["a"] == "away" and is_open(run) == set()
    run.step(3)
    assert run.stages["a"] == "hold" and is_open(run) == {"a"}
    run.step(20)
    assert run.moves == [
        (2, "a:interrupts.out"),
        (5, "a:away.transitions[0]"),
        (9, "a:hold.next"),
        (10, "b:wait.transitions[0]"),
        (14, "b:hold.next"),
    ]
    assert run.of_type("blocked", "boundary", "reason") == [
        (6, "'a' not consolidated yet, and max_overlap is 1")
    ]


def test_back_waits_while_another_region_is_open():
    """b grows at 3, while a is away; a's consolidation goes on only when b's is over."""
    run = interrupted(at=3).step(20)
    assert run.moves == [
        (2, "a:interrupts.out"),
        (3, "b:wait.transitions[0]"),
        (7, "b:hold.next"),
        (8, "a:away.transitions[0]"),
        (12, "a:hold.next"),
    ]
    assert run.of_type("blocked", "boundary", "edge", "reason") == [
        (5, "a:away.transitions[0]", "'b' not consolidated yet, and max_overlap is 1")
    ]
    assert run.of_type("unblocked", "boundary") == [8]


def test_back_waits_for_nobody_where_both_may_be_open():
    run = interrupted(at=3, max_overlap=2).step(3)
    assert run.stages == {"a": "hold", "b": "hold"} and is_open(run) == {"a", "b"}


@pytest.mark.parametrize(("priority", "first"), [(1, "a"), (-1, "b")])
def test_back_and_a_growth_at_one_boundary_go_by_priority(priority, first):
    """Each sees the other closed; together they would be two."""
    run = interrupted(at=5, priority=priority).step(3)
    assert [edge[0] for boundary, edge in run.moves if boundary == 5] == [first]
    assert is_open(run) == {first}


def test_region_that_stays_open_while_away_goes_back_freely():
    """A settle stage closes nothing: a has held the lock all the time."""
    run = interrupted(at=3, away="settle")
    assert is_open(run) == {"a"}
    run.step(3)
    assert run.stages == {"a": "hold", "b": "wait"}
    assert run.of_type("blocked", "edge") == ["b:wait.transitions[0]"]


def test_back_into_a_training_stage_closes_what_has_grown_while_away():
    run = Run(
        """
initial: a
stages:
  a: {kind: train}
  g: {kind: grow, actions: [{type: deepen, stack: s, add: 1}], next: hold}
  hold: {kind: consolidate, transitions: [{target: back, when: elapsed(2 steps)}]}
interrupts: [{name: out, within: [a], when: step == 2, target: g, at_most: 1}]
""",
        params=1,
        costs={"main:g": 1},
    ).step(3)
    assert run.stage == "hold" and is_open(run) == {"main"}
    run.step(1)
    assert run.stage == "a" and is_open(run) == set()


def test_command_passes_no_lock_on_the_way_back():
    run = interrupted(at=3).step(1)
    run.core.mail.append(Message("1", "command", "force", "a:back", author="ann@box"))
    run.step(1)
    assert run.stages["a"] == "away"
    assert run.of_type("command", "status", "reason") == [
        ("refused", "'b' not consolidated yet, and max_overlap is 1")
    ]


def test_event_is_kept_while_the_way_back_that_listens_waits():
    text = BACK.replace("when: elapsed(3 steps)", "when: event(calm)") + "events: [calm]\n"
    run = interrupted(at=3, document=text).step(3)
    run.core.send("calm")
    run.step(2)
    assert run.of_type("event", "boundary", "status") == [(5, "sent"), (7, "ignored")]


def test_what_is_open_behind_an_interrupt_survives_a_resume():
    run = interrupted(at=6)
    other = run.resumed()
    assert other.core.state.regions["a"].back.open
    run.step(20), other.step(20)
    assert other.moves == run.moves[1:]


def test_state_of_an_earlier_version_goes_by_the_region_as_that_version_did():
    run = interrupted(at=6)
    state = json.loads(json.dumps(run.core.state_dict()))
    del state["engine"]["regions"]["a"]["back"]["open"]
    other = interrupted(at=6)
    other.core.load_state_dict(state)
    assert other.core.state.regions["a"].back.open is False


# A rollback is exempt; the growth behind it is not

RETRY = """
metrics: {{m: {{goal: minimize}}}}
budget: {{params: {params}}}
regions:
  a:
    initial: wait
    stages:
      wait: {{kind: train, duration: {wait} steps, next: deep}}
      deep: {{kind: grow, next: hold, actions: [
          {{type: snapshot, name: before}}, {{type: deepen, stack: s, add: 1}}]}}
      wide: {{kind: grow, next: hold, actions: [{{type: widen, space: s, factor: 2}}]}}
      hold: {{kind: consolidate, duration: 9 steps, next: done}}
      done: {{kind: final}}
    interrupts:
      - {{name: retry, within: [hold], when: m > 9, target: wide, at_most: 1,
         actions: [{{type: roll_back, to: before, data: skip}}]}}
  b:
    initial: wait
    stages:
      wait: {{kind: train, transitions: [{{target: g, when: step == {at}}}]}}
      g: {{kind: grow, actions: [{{type: deepen, stack: s, add: 1}}], next: hold}}
      hold: {{kind: consolidate, duration: 3 steps, next: rest}}
      rest: {{kind: train}}
max_overlap: {max_overlap}
"""


def retrying(*, params=1000, wait=2, at=99, max_overlap=1):
    text = RETRY.format(params=params, wait=wait, at=at, max_overlap=max_overlap)
    return Run(text, params=100, costs={"a:deep": 50, "a:wide": 60, "b:g": 1})


def test_consolidation_of_what_is_undone_holds_no_other_growth_back():
    """Undo a growth and try another instead, out of the consolidation of the first."""
    run = retrying().step(3).step(m=10.0)
    assert run.moves == [(2, "a:wait.next"), (4, "a:interrupts.retry")]
    assert run.core.state.cohorts == ("a:wide#1",)
    assert run.core.state.facts.params == 160 and run.core.progress.step == 2


def test_room_is_asked_of_the_model_that_is_restored():
    """150 parameters now, 60 more would pass 170; from the 100 of the snapshot they fit."""
    assert retrying(params=170).step(3).step(m=10.0).core.state.facts.params == 160
    run = retrying(params=159).step(3).step(m=10.0)
    assert run.stages["a"] == "hold", "from there they would not fit either"
    assert run.of_type("blocked", "reason") == [
        "it would add 60 parameters, and 59 are left of the budget"
    ]


def test_growth_behind_a_rollback_goes_where_the_lock_was_free():
    """b grows at 1 and is open until 4."""
    run = retrying(at=1, max_overlap=2).step(5)
    assert run.stages == {"a": "hold", "b": "rest"}
    assert run.step(m=10.0).stages["b"] == "hold", "two may be open: it goes back to step 2"
    run = retrying(at=1, wait=5).step(5)
    assert run.moves[-1] == (5, "a:wait.next")
    run.step(m=10.0)
    assert run.moves[-1] == (6, "a:interrupts.retry"), "nobody was open at 5"


def test_rollback_into_what_would_open_one_too_many_waits():
    """b was open when the snapshot was taken, at 2; it is closed now, but would be open again."""
    run = Run(
        """
metrics: {m: {goal: minimize}}
regions:
  a:
    initial: wait
    stages:
      wait: {kind: train, duration: 2 steps, next: mark}
      mark: {kind: train, actions: [{type: snapshot, name: before}], duration: 3 steps, next: deep}
      deep: {kind: grow, actions: [{type: deepen, stack: s, add: 1}], next: hold}
      wide: {kind: grow, actions: [{type: widen, space: s, factor: 2}], next: hold}
      hold: {kind: consolidate, duration: 9 steps, next: done}
      done: {kind: final}
    interrupts:
      - {name: retry, within: [hold], when: m > 9, target: wide, at_most: 1,
         actions: [{type: roll_back, to: before, data: skip}]}
  b:
    initial: wait
    stages:
      wait: {kind: train, transitions: [{target: g, when: step == 1}]}
      g: {kind: grow, actions: [{type: deepen, stack: s, add: 1}], next: hold}
      hold: {kind: consolidate, duration: 3 steps, next: rest}
      rest: {kind: train}
""",
        params=100,
        costs={"a:deep": 50, "a:wide": 60, "b:g": 1},
    ).step(6)
    assert run.stages == {"a": "hold", "b": "rest"}
    run.step(m=10.0)
    assert run.stages == {"a": "hold", "b": "rest"} and is_open(run) == {"a"}
    assert run.of_type("blocked", "boundary", "reason") == [
        (7, "'b' not consolidated yet, and max_overlap is 1")
    ]


def test_region_that_begins_again_for_a_rollback_and_fails_is_the_rollbacks_fault():
    run = Run(
        """
metrics: {m: {goal: minimize}}
regions:
  a:
    priority: 1
    initial: x
    stages: {x: {kind: train, actions: [{type: snapshot, name: mine}]}, y: {kind: final}}
  b:
    initial: x
    stages:
      x:
        kind: train
        actions: [{type: snapshot, name: s}]
        transitions:
          - {target: y, when: m > 9, at_most: 2, on_error: {then: z},
             actions: [{type: roll_back, to: s, rng: fork}]}
      y: {kind: train}
      z: {kind: train}
"""
    ).step()
    run.actor.failures = {"a:x.actions[0]": 1}
    run.step(m=10.0)
    assert run.of_type("error", "edge", "action") == [("b:x.transitions[0]", "a:x.actions[0]")]
    run.step(m=10.0)
    assert run.stages["b"] == "z", "its way out for errors"


def test_boundary_zero_that_fails_is_nobodys_fault():
    run = Run("initial: x\nstages: {x: {kind: train, actions: [{type: snapshot, name: s}]}}")
    run.actor.failures = {"main:x.actions[0]": 1}
    with pytest.raises(ActionError, match="told to fail"):
        run.core.start()
    assert run.of_type("error", "edge") == [None]
