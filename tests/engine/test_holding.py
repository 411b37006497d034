"""Activities: what is in force, with which value, and what stays (S9, S10)."""

import pytest

from stagegraph.errors import ActionError
from tests.engine.driving import Run


def values(boundary):
    return {effect.place: effect.value for effect in boundary.held}


def test_ramp_is_read_at_elapsed_updates_and_ends_exactly():
    run = Run("""
initial: w
stages:
  w: {kind: warmup, during: [{type: lr_ramp, start: 0, end: 1, over: 4 steps}], next: done}
  done: {kind: final}
""").step(5)
    assert values(run.actor.boundaries[0]) == {"main:w.during[0]": 0.0}
    assert [v["main:w.during[0]"] for v in run.actor.tuned] == [0.25, 0.5, 0.75]
    assert run.moves == [(4, "main:w.next")]


def test_ramp_shorter_than_its_stage_reaches_its_end_and_stays():
    run = Run("""
initial: a
stages:
  a: {kind: train, during: [{type: lr_ramp, start: 0, end: 0.8, over: 2 steps}],
      duration: 5 steps, next: done}
  done: {kind: final}
""").step(4)
    assert [v["main:a.during[0]"] for v in run.actor.tuned] == [0.4, 0.8]


@pytest.mark.parametrize("looks", ["transitions: [{target: b, when: step == 2}]", ""])
def test_ramp_moves_on_at_boundaries_that_bring_no_move(looks):
    """A look in between, for a guard that is not true, leaves no update without its value."""
    run = Run(f"""
metrics: {{m: {{goal: minimize, every: 3 steps}}}}
initial: a
stages:
  a: {{kind: train, during: [{{type: lr_ramp, start: 0, end: 1, over: 10 steps}}], {looks}}}
  b: {{kind: train, during: [{{type: lr_ramp, start: 0, end: 1, over: 10 steps}}]}}
""")
    run.step(2).step().step(1)
    told = [v for v in run.actor.tuned if "main:a.during[0]" in v]
    expected = [0.1] if looks else [0.1, 0.2, 0.3, 0.4]
    assert sorted({v["main:a.during[0]"] for v in told}) == pytest.approx(expected)


def test_named_activity_goes_on_and_inline_one_starts_again():
    run = Run("""
activities: {slow: {type: lr_ramp, start: 0, end: 1, over: 10 steps}}
initial: a
stages:
  a: {kind: train, during: [slow, {type: lr_ramp, start: 0, end: 1, over: 10 steps}],
      duration: 4 steps, next: b}
  b: {kind: train, during: [slow, {type: lr_ramp, start: 0, end: 1, over: 10 steps}],
      duration: 4 steps, next: c}
  c: {kind: train, duration: 1 step, next: d}
  d: {kind: train, during: [slow]}
""").step(9)
    entered = [values(boundary) for boundary in run.actor.boundaries]
    assert entered == [
        {"main:slow": 0.0, "main:a.during[1]": 0.0},
        {"main:slow": 0.4, "main:b.during[1]": 0.0},
        {},
        {"main:slow": 0.0},
    ]


def test_settle_holds_its_factor_and_releases_it():
    run = Run("""
initial: s
stages:
  s: {kind: settle, lr_factor: 0.3, duration: 2 steps, next: a}
  a: {kind: train}
""").step(2)
    assert [values(b) for b in run.actor.boundaries] == [{"main:s.lr_factor": 0.3}, {}]


GROWING = """
metrics: {{m: {{goal: minimize}}}}
initial: a
stages:
  a: {{kind: train, duration: 1 step, next: g}}
  g: {{kind: grow, actions: [{{type: deepen, stack: s, add: 1, name: first}}], next: w}}
  w:
    kind: warmup
    during: [{{type: alpha_ramp, of: grown, over: 4 steps}}]
    transitions: [{{target: c, when: m < 1}}]
    next: c
  c: {{kind: consolidate, during: [{during}], duration: 9 steps, next: done}}
  done: {{kind: final}}
"""


def test_alpha_is_of_the_last_growth_and_folded_at_one():
    run = Run(GROWING.format(during=""), params=1, costs={"main:g": 1}).step(5)
    grown = run.actor.boundaries[1]
    assert grown.alphas == {"first": 0.0} and grown.held[0].of.cohorts == ("first",)
    assert run.actor.boundaries[2].alphas == {"first": 1.0} and run.core.state.alphas == {}


def test_alpha_keeps_its_value_when_its_stage_is_left_early():
    run = Run(GROWING.format(during=""), params=1, costs={"main:g": 1}).step(2).step(m=0.5)
    assert run.stage == "c" and run.actor.boundaries[-1].alphas == {"first": 0.5}
    assert run.resumed().actor.boundaries[-1].alphas == {"first": 0.5}


def test_a_later_ramp_takes_alpha_on():
    during = "{type: alpha_ramp, of: {grown: first}, start: 0.5, over: 2 steps}"
    run = Run(GROWING.format(during=during), params=1, costs={"main:g": 1})
    run.step(2).step(m=0.5).step(3)
    assert [v.get("main:c.during[0]") for v in run.actor.tuned][-2:] == [0.75, 1.0]
    assert run.core.state_dict()["engine"]["alphas"] == {"first": 0.5}, "the ramp is in force"


def test_grown_without_a_growth_is_an_error_and_leaves_the_stage_as_it_was():
    run = Run("""
initial: a
stages:
  a: {kind: train, duration: 1 step, next: b}
  b: {kind: train, during: [{type: lr_factor, of: grown, factor: 0.5}]}
""")
    with pytest.raises(ActionError, match="'grown' is asked for, but nothing has grown yet"):
        run.step()
    assert run.stage == "a"
    run = Run("""
initial: a
stages:
  a: {kind: train, duration: 1 step, next: b}
  b: {kind: train, during: [{type: lr_factor, of: {grown: x}, factor: 0.5}]}
  g: {kind: grow, actions: [{type: deepen, name: x, stack: s, add: 1}], next: a}
""")
    with pytest.raises(ActionError, match="no growth named 'x' has happened yet"):
        run.step()


def test_every_action_has_a_seed_of_its_own_the_same_in_every_run():
    runs = [
        Run(GROWING.format(during=""), params=1, costs={"main:g": 1}, seed=s) for s in (1, 1, 2)
    ]
    seeds = [run.step(1).actor.boundaries[-1].deeds[0].seed for run in runs]
    assert seeds[0] == seeds[1] != seeds[2]


def test_inline_activity_starts_again_when_its_own_stage_is_entered_again():
    run = Run("""
activities: {slow: {type: lr_ramp, start: 0, end: 1, over: 10 steps}}
initial: a
stages:
  a: {kind: train, during: [slow, {type: lr_ramp, start: 0, end: 1, over: 10 steps}],
      duration: 4 steps, next: a}
""").step(4)
    assert values(run.actor.boundaries[1]) == {"main:slow": 0.4, "main:a.during[1]": 0.0}


def test_ramp_that_is_over_is_not_set_again_when_a_waiting_boundary_is_decided():
    run = Run("""
metrics: {m: {goal: minimize, every: 2 steps}}
initial: a
stages: {a: {kind: train, during: [{type: lr_ramp, start: 0, end: 1, over: 2 steps}]}}
""").step(2)
    assert run.core.wants_evaluation
    assert [v["main:a.during[0]"] for v in run.actor.tuned] == [0.5, 1.0]
    run.step(3)
    assert len(run.actor.tuned) == 2
