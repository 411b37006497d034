"""Trials: several growths from one state, the best kept (S13; 2406.02469)."""

import pytest

from stagegraph.engine.commands import Message
from stagegraph.errors import ActionError
from tests.engine.driving import Run

TRIAL = """
budget: {{params: 1000, steps: {steps}}}
events: [ping]
metrics: {{m: {{goal: {goal}, every: 5 steps}}, other: {{goal: minimize}}}}
regions:
  arch:
    initial: a
    stages:
      a: {{kind: train, transitions: [{{target: try, when: elapsed(3 steps), at_most: 1}}]}}
      try:
        kind: trial
        options:
          - {{name: deep, actions: [{{type: deepen, stack: s, add: 1}}]}}
          - {{name: wide, actions: [{{type: deepen, stack: s, add: 2}}]}}
        over: 4 steps
        metric: m
        {more}
        next: w
      w:
        kind: warmup
        during: [{{type: lr_ramp, of: grown, start: 0, over: 2 steps}}]
        next: c
      c: {{kind: consolidate, duration: 2 steps, next: end}}
      rest: {{kind: consolidate, duration: 2 steps, next: end}}
      end: {{kind: final}}
  data:
    initial: easy
    stages:
      easy: {{kind: train, transitions: [{{target: hard, when: {hard}}}]}}
      hard: {{kind: train, transitions: [{{target: easy, when: event(ping)}}]}}
"""
COSTS = {"arch:try.deep": 10, "arch:try.wide": 20}


WORTH = "worth: 1%\n        otherwise: rest"


def begun(values, *, goal="minimize", more="", steps=500, hard="other < 1"):
    """A run whose metric is what ``values`` says of the option that is trained."""
    text = TRIAL.format(goal=goal, more=more, steps=steps, hard=hard)
    run = Run(text, params=100, costs=dict(COSTS))
    run.values = values
    run.core.start()
    return run


def go(run, updates):
    for _ in range(updates):
        run.core.step()
        if run.core.wants_evaluation:
            trial = run.core.state.trial
            value = 1.0 if trial is None else run.values[trial.option]
            run.core.observe(**({} if value is None else {"m": value}))
    return run


def statuses(run):
    return run.of_type("trial", "status", "option", "tried")


def test_every_option_starts_from_the_same_state_and_the_best_is_kept():
    run = go(begun({"deep": 0.9, "wide": 0.5}), 3)
    assert run.stages["arch"] == "try" and run.core.state.facts.params == 110
    go(run, 4)
    assert run.core.state.clock.step == 3 and run.core.state.spent.step == 7
    assert run.core.state.facts.params == 120
    go(run, 4)
    assert statuses(run) == [
        ("begun", "deep", []),
        ("goes on", "wide", [["deep", 0.9]]),
        ("kept", "wide", [["deep", 0.9], ["wide", 0.5]]),
    ]
    state = run.core.state
    assert (run.stages["arch"], state.clock.step, state.spent.step) == ("w", 3, 11)
    assert state.facts.params == 120 and state.trial is None and state.snapshots == ()
    assert state.visits["arch:try"] == 1 and state.fired["arch:try.next"] == 1
    assert state.regions["arch"].open and state.cohorts == ("arch:try.wide#1",)
    assert go(run, 4).core.stages["arch"] == "end"


def test_a_metric_to_maximize_keeps_the_highest():
    run = go(begun({"deep": 0.9, "wide": 0.5}, goal="maximize"), 11)
    assert statuses(run)[-1][:2] == ("kept", "deep")


def test_options_grow_with_the_same_seed_when_tried_and_when_kept():
    run = go(begun({"deep": 0.9, "wide": 0.5}), 11)
    deeds = [d for b in run.actor.boundaries for d in b.deeds if d.place.startswith("arch:try.w")]
    assert len(deeds) == 2 and deeds[0] == deeds[1]


def test_what_was_not_finite_or_did_not_come_is_never_the_best():
    run = go(begun({"deep": float("nan"), "wide": 9.0}), 11)
    assert statuses(run)[-1] == ("kept", "wide", [["deep", None], ["wide", 9.0]])
    run = go(begun({"deep": 8.0, "wide": None}), 12)
    assert statuses(run)[-1] == ("kept", "deep", [["deep", 8.0], ["wide", None]])


def test_with_nothing_to_compare_the_run_stops_and_says_what_to_do():
    run = go(begun({"deep": float("nan"), "wide": float("inf")}), 10)
    with pytest.raises(ActionError, match=r"none of the options of 'try' can be kept.*'otherwise'"):
        go(run, 1)
    run = go(begun({"deep": float("nan"), "wide": float("inf")}, more="otherwise: rest"), 11)
    assert run.stages["arch"] == "rest" and run.core.state.facts.params == 100


@pytest.mark.parametrize(("without", "kept"), [(1.0, True), (0.51, False), (float("nan"), True)])
def test_growth_that_is_not_worth_it_is_not_kept(without, kept):
    """The sketch promised to stop when growth helps no more, and did not."""
    more = "worth: 5%\n        otherwise: rest"
    run = go(begun({None: without, "deep": 0.9, "wide": 0.5}, more=more), 3)
    assert run.core.state.facts.params == 100, "without growth comes first"
    go(run, 12)
    assert [option for _, option, _ in statuses(run)][:3] == [None, "deep", "wide"]
    assert run.stages["arch"] == ("w" if kept else "rest")
    assert run.core.state.facts.params == (120 if kept else 100)
    assert run.core.state.regions["arch"].open is kept


def test_other_regions_wait_and_their_events_too():
    run = go(begun({"deep": 0.9, "wide": 0.5}), 3)
    run.core.send("ping")
    for _ in range(8):
        run.core.step(other=0.5)
        if run.core.wants_evaluation:
            trial = run.core.state.trial
            run.core.observe(m=run.values[trial.option])
        assert run.stages["data"] == "easy"
    assert [event.name for event in run.core.state.events] == ["ping"]
    run.core.step(other=0.5)
    assert run.stages["data"] == "hard", "a region answers when the trial is over"


def test_a_move_of_another_region_at_the_same_boundary_waits_until_the_trial_is_over():
    run = go(begun({"deep": 0.9, "wide": 0.5}, hard="step >= 3"), 3)
    assert run.stages == {"arch": "try", "data": "easy"}
    go(run, 8)
    assert run.core.state.trial is None and run.stages["data"] == "easy"
    assert go(run, 1).stages["data"] == "hard", "asked again one boundary after the trial"


def test_an_option_that_fails_is_recorded_and_the_others_tried():
    run = begun({"deep": 0.9, "wide": 0.5})
    run.actor.failures = {"arch:try.deep.actions[0]": 1}
    go(run, 3)
    assert run.of_type("error", "action") == ["arch:try.deep.actions[0]"]
    assert statuses(run) == [("begun", "wide", [])]
    assert run.of_type("trial", "passed_over") == [{"deep": "failed: told to fail"}]
    go(run, 4)
    assert statuses(run)[-1] == ("kept", "wide", [["wide", 0.5]])


def test_the_second_option_may_fail_too():
    run = go(begun({"deep": 0.9, "wide": 0.5}), 3)
    run.actor.failures = {"arch:try.wide.actions[0]": 1}
    go(run, 4)
    assert statuses(run)[-1] == ("kept", "deep", [["deep", 0.9]])
    assert run.core.state.facts.params == 110


def test_when_all_fail_the_trial_is_held_back_with_the_reasons():
    run = begun({"deep": 0.9, "wide": 0.5})
    run.actor.failures = {f"arch:try.{name}.actions[0]": 1 for name in ("deep", "wide")}
    go(run, 3)
    assert run.stages["arch"] == "a"
    assert run.of_type("blocked", "reason") == [
        "no option of 'try' is left (deep: failed: told to fail; wide: failed: told to fail)"
    ]


def test_a_run_whose_budget_ends_in_a_trial_ends_as_if_it_had_not_begun():
    """``steps`` counts what trials cost; what cannot be paid to its end is not begun."""
    run = go(begun({"deep": 0.9, "wide": 0.5}, steps=10), 9)
    assert run.stages["arch"] == "a"
    assert run.of_type("blocked", "reason") == ["it takes 8 steps, and 7 are left of the budget"]
    run = go(begun({"deep": 0.9, "wide": 0.5}, steps=500), 8)
    run.core.mail.append(Message("m1", "command", "stop", "", "ann"))
    go(run, 1)
    assert run.core.state.ended == "stopped" and run.stages["arch"] == "a"
    assert run.core.state.facts.params == 100
    assert statuses(run)[-1][:2] == ("given up", None)


@pytest.mark.parametrize(
    "words", [("hold", "arch"), ("extend", "9 steps arch"), ("force", "arch:end")]
)
def test_commands_that_would_disturb_a_trial_are_refused(words):
    run = go(begun({"deep": 0.9, "wide": 0.5}), 4)
    run.core.mail.append(Message("m1", "command", *words, "ann"))
    go(run, 1)
    (refused,) = run.of_type("command")
    assert refused["status"] == "refused" and "is trying growths" in refused["reason"]


def test_a_resume_at_any_tick_comes_to_the_same():
    values = {None: 0.7, "deep": 0.9, "wide": 0.5}
    whole = go(begun(values, more=WORTH), 25)
    for cut in range(1, 25):
        run = go(begun(values, more=WORTH), cut)
        other = run.resumed()
        other.values = values
        go(other, 25 - cut)
        assert other.core.state_dict() == whole.core.state_dict()
        assert [*run, *other] == [*whole]


def test_an_event_whose_listener_is_put_off_by_a_trial_is_not_lost():
    run = go(begun({"deep": 0.9, "wide": 0.5}, hard="event(ping)"), 2)
    run.core.send("ping")
    assert go(run, 1).stages == {"arch": "try", "data": "easy"}
    go(run, 8)
    assert run.core.state.trial is None and run.stages["data"] == "easy"
    assert go(run, 1).stages["data"] == "hard", "heard when the trial is over"


def test_no_trial_begins_where_the_run_ends():
    run = begun({"deep": 0.9, "wide": 0.5})
    samples = run.document.replace("steps: 500", "steps: 500, samples: 3")
    run = Run(samples, params=100, costs=dict(COSTS))
    run.core.start()
    run.step(3, samples=1)
    assert run.core.state.ended == "budget"
    assert run.core.state.stages["arch"] == "arch:a" and run.core.state.cohorts == ()
    run = go(begun({"deep": 0.9, "wide": 0.5}), 2)
    run.core.mail.append(Message("1", "command", "stop", "", author="ann@box"))
    run.core.step()
    assert run.core.state.ended == "stopped"
    assert run.core.state.stages["arch"] == "arch:a" and run.core.state.cohorts == ()


def test_no_trial_starts_from_before_boundary_0():
    text = """
budget: {params: 1000, steps: 50}
metrics: {m: {goal: minimize, every: 5 steps}}
regions:
  a:
    initial: t
    stages:
      t:
        kind: train
        actions: [{type: snapshot, name: s}]
        transitions:
          - target: try
            when: elapsed(2 steps)
            at_most: 1
            actions: [{type: roll_back, to: s, rng: fork}]
      try:
        kind: trial
        options:
          - {name: deep, actions: [{type: deepen, stack: s, add: 1}]}
          - {name: wide, actions: [{type: deepen, stack: s, add: 2}]}
        over: 2 steps
        metric: m
        next: t
  b: {initial: u, stages: {u: {kind: train}}}
"""
    run = Run(text, params=100, costs={"a:try.deep": 10, "a:try.wide": 20})
    run.core.start()
    run.step(3)
    assert run.stages == {"a": "t", "b": "u"}
    assert "boundary 0" in run.of_type("blocked", "reason")[0]


def test_a_baseline_is_told_once_in_a_trial_that_is_resumed():
    text = TRIAL.format(goal="minimize", more="", steps=500, hard="other < 1").replace(
        "a: {kind: train,", "a: {kind: train, actions: [{type: baseline, name: b}],"
    )
    run = Run(text, params=100, costs=dict(COSTS))
    run.values = {"deep": 0.9, "wide": 0.5}
    run.core.start()
    go(run, 4)
    other = run.resumed()
    other.values = run.values
    go(other, 10)
    assert run.of_type("baseline", "boundary") == [0] and other.of_type("baseline") == []


KEPT = """[{type: baseline, name: b}, {type: teacher, name: t}, {type: snapshot, name: s},
      {type: send, event: ping}]"""


def test_what_is_kept_on_the_way_into_a_trial_lasts_through_it_and_after_it():
    """Each option starts from the start of that boundary, which knew nothing of it yet."""
    text = TRIAL.format(goal="minimize", more="", steps=500, hard="m > 9").replace(
        "when: elapsed(3 steps), at_most: 1}",
        f"when: elapsed(3 steps), at_most: 1, actions: {KEPT}}}",
    )
    run = Run(text, params=100, costs=dict(COSTS))
    run.values = {"deep": 0.9, "wide": 0.5}
    run.core.start()
    go(run, 2)
    for _ in range(10):  # two options, then the warm-up
        go(run, 1)
        state = run.core.state
        assert list(state.baselines) == ["b"] and state.baselines["b"].taken.step == 3
        assert dict(state.teachers) == {"t": "teacher:t@3.0"}
        assert [one.name for one in state.snapshots if one.name != "trial:arch:try"] == ["s"]
    assert state.trial is None and run.stages["arch"] == "w"
    assert [name for one in run.actor.boundaries for name in one.forget] == ["trial:arch:try@3"]
    assert run.of_type("baseline", "boundary") == [3]


@pytest.mark.parametrize("kept", ["snapshot", "baseline"])
def test_a_comparison_with_what_is_taken_anew_on_the_way_into_a_trial_begins_anew(kept):
    """Another region compares with the old one; no option starts with that in mind."""
    keep = f"actions: [{{type: {kept}, name: k}}]"
    text = TRIAL.format(
        goal="minimize", more="", steps=500, hard="'improved(other, by=50%, since=k)'"
    )
    text = text.replace(
        "      a: {kind: train,",
        f"      z: {{kind: train, transitions: [{{target: a, when: step >= 1, {keep}}}]}}\n"
        "      a: {kind: train,",
    )
    text = text.replace("initial: a", "initial: z").replace("at_most: 1}", f"at_most: 1, {keep}}}")
    run = Run(text, params=100, costs=dict(COSTS))
    run.values = {"deep": 0.9, "wide": 0.5}
    run.core.start()
    for _ in range(3):
        run.core.step(other=1.0)
    assert list(run.core.state.memories), "compared with the first"
    for _ in range(9):
        go(run, 1)
        assert not run.core.state.memories
    assert run.core.state.trial is None and run.stages["arch"] == "w"


def test_what_an_option_keeps_goes_with_it():
    text = TRIAL.format(goal="minimize", more="", steps=500, hard="other < 1").replace(
        "[{type: deepen, stack: s, add: 1}]",
        "[{type: baseline, name: b}, {type: snapshot, name: s}, {type: deepen, stack: s, add: 1}]",
    )
    run = Run(text, params=100, costs=dict(COSTS))
    run.values = {"deep": 0.9, "wide": 0.5}
    run.core.start()
    state = go(run, 4).core.state
    assert list(state.baselines) == ["b"]
    assert [one.name for one in state.snapshots] == ["trial:arch:try", "s"]
    state = go(run, 4).core.state
    assert state.trial.option == "wide" and not state.baselines
    assert [one.name for one in state.snapshots] == ["trial:arch:try"]
    state = go(run, 4).core.state
    assert state.trial is None and state.snapshots == () and not state.baselines
