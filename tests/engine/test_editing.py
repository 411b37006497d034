"""Editing the future: what may be changed under a run, what may not, and what is carried over."""

from __future__ import annotations

import json

import pytest

from stagegraph.engine.commands import Message
from stagegraph.engine.editing import edit, edit_saved, judge
from stagegraph.errors import SnapshotError
from tests.engine.driving import Run

DOCUMENT = """
metrics: {m: {goal: minimize, every: 4 steps}, unseen: {goal: minimize}}
events: [e, quiet]
budget: {steps: 60, params: 1000}
activities:
  slow: {type: lr_factor, factor: 0.5}
initial: warm
stages:
  warm:
    kind: train
    actions: [{type: snapshot, name: s}]
    during: [slow]
    duration: 4 steps
    next: train
  train:
    kind: train
    during: [slow, {type: freeze, of: "x.*"}, {type: lr_ramp, end: 0, over: 1 step}]
    transitions:
      - {target: g, when: step >= 6, at_most: 2}
      - {target: tail, when: "plateau(m, patience=8 steps)"}
      - {target: done, when: m < 0.1}
  g: {kind: grow, actions: [{type: deepen, stack: x, add: 1}], next: ease}
  ease: {kind: warmup, during: [{type: alpha_ramp, of: grown, over: 4 steps}], next: train}
  tail: {kind: train, duration: 5 steps, next: done}
  done: {kind: final}
interrupts:
  - {name: away, within: [ease, train], when: event(e), target: aside, at_most: 2}
  - {name: never, within: [train], when: step > 900, target: done}
"""
DOCUMENT = DOCUMENT.replace(
    "  done: {kind: final}",
    "  aside: {kind: train, transitions: [{target: back, when: elapsed(2 steps)}]}\n"
    "  done: {kind: final}",
)
COSTS = {"main:g": 10, "main:more": 7}
IN_TRAIN = 22


def begun(document=DOCUMENT, steps=IN_TRAIN):
    """Warmed up, grown twice, away and back again by an interrupt, and 3 steps on."""
    run = Run(document, params=100, costs=COSTS)
    for step in range(steps):
        if step == 16:
            run.core.send("e")
        run.step()
        if run.core.wants_evaluation:
            run.core.observe(m=1.0)
    return run


def edited(old, new, *, steps=IN_TRAIN, document=DOCUMENT):
    """The run, and another that goes on from it under an edited document."""
    assert document.count(old) == 1, f"{old!r} stands there {document.count(old)} times"
    run = begun(document, steps)
    other = Run(document.replace(old, new), params=100, costs=COSTS)
    saved, found = edit_saved(
        json.loads(json.dumps(run.core.state_dict())), run.core.graph, other.core.graph
    )
    other.core.load_state_dict(saved)
    return run, other, found


def refused(old, new, **options):
    with pytest.raises(SnapshotError) as caught:
        edited(old, new, **options)
    first, *lines, last = str(caught.value).splitlines()
    assert first.startswith("the run cannot go on under the edited graph 'test'; what has happened")
    assert last == "else resume under the graph that ran"
    return "\n".join(line.strip() for line in lines)


def test_the_run_is_where_the_tests_want_it():
    run = begun()
    assert run.stage == "train"
    assert run.moves == [
        (4, "main:warm.next"),
        (6, "main:train.transitions[0]"),
        (10, "main:ease.next"),
        (11, "main:train.transitions[0]"),
        (15, "main:ease.next"),
        (17, "main:interrupts.away"),
        (19, "main:aside.transitions[0]"),
    ]


# What may be edited


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("budget: {steps: 60,", "note: longer\nbudget: {steps: 90,", id="budget"),
        pytest.param("tail: {kind: train,", "tail: {kind: consolidate,", id="never entered"),
        pytest.param(
            "  done: {kind: final}",
            "  more: {kind: train, duration: 3 steps, next: done}\n  done: {kind: final}",
            id="stage",
        ),
        pytest.param("when: m < 0.1", "when: m < 0.2 and step > 30", id="guard not taken"),
        pytest.param("      - {target: done, when: m < 0.1}\n", "", id="way not taken"),
        pytest.param(
            "duration: 4 steps\n    next: train", "duration: 9 steps\n    next: train", id="left"
        ),
        pytest.param(
            "at_most: 2}\n      - {target: tail", "at_most: 5}\n      - {target: tail", id="more"
        ),
        pytest.param(", params: 1000}", ", params: 110}", id="params is a level"),
        pytest.param("unseen: {goal: minimize}", "unseen: {goal: maximize}", id="metric unseen"),
        pytest.param("events: [e, quiet]", "events: [e]", id="event not on its way"),
        pytest.param(
            "  - {name: never, within: [train], when: step > 900, target: done}\n",
            "  - {name: ever, when: step > 40, target: tail}\n",
            id="interrupt not taken",
        ),
        pytest.param(
            "within: [ease, train], when", "within: [ease, train, tail], when", id="within"
        ),
        pytest.param("next: done}\n  aside", "next: warm}\n  aside", id="next not taken"),
    ],
)
def test_the_future_may_be_edited(old, new):
    run, other, found = edited(old, new)
    assert other.stages == run.stages and other.actor.deeds == []
    assert found.differences or "note" in new
    assert len(other.actor.boundaries[0].held) == 3
    other.step(5)


def test_a_graph_that_differs_in_notes_alone_has_no_differences():
    _, _, found = edited("initial: warm", "note: a remark\ninitial: warm")
    assert found.differences == () and (found.anew, found.forgotten) == ((), ())


def test_an_added_growth_is_taken_with_its_cost():
    _, other, _ = edited(
        "      - {target: done, when: m < 0.1}\n",
        "      - {target: more, when: step >= 25 and affordable(more), at_most: 1}\n",
        document=DOCUMENT.replace(
            "  tail:",
            "  more: {kind: grow, actions: [{type: deepen, stack: y, add: 1}], next: ease}\n"
            "  tail:",
        ),
    )
    assert other.core.state.facts.costs["main:more"] == 7
    other.step(4)
    assert other.moves == [(25, "main:train.transitions[2]")]
    assert other.core.state.facts.params == 127


def test_a_present_stage_shortened_ends_at_the_next_boundary():
    run, other, _ = edited("duration: 5 steps", "duration: 1 steps", steps=30)
    assert run.stage == "tail"
    other.step()
    assert other.core.done and other.moves == [(31, "main:tail.next")]


# Places are carried over by what stands there


def test_counts_follow_an_edge_that_others_were_put_before():
    run, other, found = edited(
        "      - {target: g, when: step >= 6, at_most: 2}\n",
        "      - {target: tail, when: step > 900}\n"
        "      - {target: g, when: step >= 6, at_most: 2}\n",
    )
    assert run.core.state.fired["main:train.transitions[0]"] == 2
    assert other.core.state.fired["main:train.transitions[1]"] == 2
    assert "main:train.transitions[0]" not in other.core.state.fired
    assert found.moved == {"main:train.transitions[0]": "main:train.transitions[1]"}
    assert [str(difference) for difference in found.differences] == [
        "+ /stages/train/transitions/0: {target: tail, when: step > 900}"
    ]
    other.step(8)
    assert "main:train.transitions[1]" not in dict(map(reversed, other.moves)), "it is used up"


def test_what_is_held_follows_an_activity_that_stands_elsewhere_now():
    run, other, _ = edited(
        'during: [slow, {type: freeze, of: "x.*"}, {type: lr_ramp, end: 0, over: 1 step}]',
        'during: [{type: lr_ramp, end: 0, over: 1 step}, {type: freeze, of: "x.*"}, slow]',
    )
    was, now = run.core.state.regions["main"].held, other.core.state.regions["main"].held
    assert now["main:train.during[0]"] == was["main:train.during[2]"]
    assert now["main:train.during[1]"] == was["main:train.during[1]"]
    assert now["main:slow"] == was["main:slow"]
    kept = other.core.state.snapshots[0].state
    assert kept.regions == {}, "the snapshot at the beginning"


def test_what_an_interrupt_has_left_is_carried_over_too():
    old = 'during: [slow, {type: freeze, of: "x.*"}, {type: lr_ramp, end: 0, over: 1 step}]'
    new = 'during: [{type: lr_ramp, end: 0, over: 1 step}, {type: freeze, of: "x.*"}, slow]'
    run, other, _ = edited(old, new, steps=18)
    assert run.stage == "aside"
    back = other.core.state.regions["main"].back
    assert (
        back.held["main:train.during[0]"]
        == (run.core.state.regions["main"].back.held["main:train.during[2]"])
    )
    other.step(3)
    assert other.stage == "train"


def test_equal_edges_are_told_apart_by_at_most_else_refused():
    twice = DOCUMENT.replace(
        "      - {target: g, when: step >= 6, at_most: 2}\n",
        "      - {target: g, when: step >= 6, at_most: 1}\n"
        "      - {target: g, when: step >= 6, at_most: 3}\n",
    )
    one, three = (
        "{target: g, when: step >= 6, at_most: 1}",
        "{target: g, when: step >= 6, at_most: 3}",
    )
    both = f"      - {one}\n      - {three}\n"
    _, other, _ = edited(both, f"      - {three}\n      - {one}\n", document=twice, steps=13)
    assert other.core.state.fired["main:train.transitions[0]"] == 1
    assert other.core.state.fired["main:train.transitions[1]"] == 1
    other = both.replace("at_most: 1", "at_most: 7").replace("at_most: 3", "at_most: 8")
    told = refused(both, other, document=twice, steps=13).splitlines()
    assert told[0] == (
        "main:train.transitions[0] (/stages/train/transitions/0) was a way to main:g when "
        "step >= 6, is one of several that say the same: it has been taken once, and nothing tells "
        "which of them it is; let as many of them stand as there were, each with its 'at_most'"
    )
    assert len(told) == 2


# Memories


def test_an_unchanged_guard_keeps_its_memory():
    run, other, found = edited("when: m < 0.1", "when: m < 0.2")
    key = "main:train|plateau(m, patience=8 steps)"
    assert other.core.state.memories == run.core.state.memories and key in run.core.state.memories
    assert (found.anew, found.forgotten) == ((), ())


def test_a_changed_guard_begins_empty_and_that_is_told():
    _, other, found = edited("patience=8 steps", "patience=9 steps")
    assert other.core.state.memories == {}
    assert found.anew == ("main:train|plateau(m, patience=9 steps)",)
    assert found.forgotten == ("main:train|plateau(m, patience=8 steps)",)
    assert found.to_json()["anew"] == list(found.anew)


def test_a_guard_that_means_something_else_begins_empty_though_it_says_the_same():
    document = DOCUMENT.replace("patience=8 steps", "worth=5%, over=40 steps")
    _, other, found = edited("every: 4 steps", "every: 8 steps", document=document)
    assert other.core.state.memories == {}
    assert found.anew == found.forgotten == ("main:train|plateau(m, worth=0.05, over=40 steps)",)


def test_another_interval_begins_with_a_whole_one():
    _, other, _ = edited("every: 4 steps", "every: 6 steps")
    assert other.core.state.wanted == {"m": 3}
    other.step()
    assert not other.core.wants_evaluation
    other.step()
    assert other.core.wants_evaluation and other.core.progress.step == 24


def test_a_metric_that_is_declared_no_more_is_forgotten():
    document = DOCUMENT.replace("m < 0.1", "unseen < 0.1").replace(
        "plateau(m, patience=8 steps)", "step > 50"
    )
    _, other, _ = edited("m: {goal: minimize, every: 4 steps}, ", "", document=document)
    assert other.core.state.metrics == {} and other.core.state.wanted == {}
    other.step(4)


def test_errors_of_an_edge_that_was_mended_are_counted_anew():
    document = DOCUMENT.replace(
        '      - {target: tail, when: "plateau(m, patience=8 steps)"}\n',
        "      - target: tail\n        when: step >= 21\n"
        "        actions: [{type: teacher, name: t}]\n        on_error: {retry: 9, then: warm}\n",
    )
    run = Run(document, params=100, costs=COSTS)
    run.actor.failures["main:train.transitions[1].actions[0]"] = 99
    for step in range(22):
        if step == 16:
            run.core.send("e")
        run.step()
        if run.core.wants_evaluation:
            run.core.observe(m=1.0)
    assert run.core.state.errors == {"main:train.transitions[1]": 2}
    for old, new, kept in [
        ("m < 0.1", "m < 0.2", {"main:train.transitions[1]": 2}),
        ("name: t}", "name: u}", {}),
    ]:
        other = Run(document.replace(old, new), params=100, costs=COSTS)
        found = edit(run.core.graph, other.core.graph, run.core.state)
        assert found.state.errors == kept


# What may not be edited


ENTERED = "give what is to come a stage of another name"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        pytest.param(
            "  warm:\n    kind: train",
            "  warm:\n    kind: consolidate",
            f"main:warm (/stages/warm/kind) was train, is consolidate: it has been entered once; "
            f"{ENTERED}",
            id="kind",
        ),
        pytest.param(
            "stack: x, add: 1",
            "stack: x, add: 2",
            "main:g (/stages/g/actions/0/add) was 1, is 2: it has been entered 2 times; " + ENTERED,
            id="growth",
        ),
        pytest.param(
            "add: 1}], next: ease",
            "add: 1}], next: two",
            "main:g (/stages/g/next) was main:ease, is main:two: it has been entered 2 times; "
            + ENTERED,
            id="what a growth led to",
        ),
        pytest.param(
            "actions: [{type: snapshot, name: s}]",
            "actions: []",
            "main:warm (/stages/warm/actions/0) was {type: snapshot, name: s}, is gone: it has "
            "been entered once; " + ENTERED,
            id="snapshot",
        ),
        pytest.param(
            "ease: {kind: warmup, during: [{type: alpha_ramp, of: grown, over: 4",
            "ease: {kind: warmup, during: [{type: alpha_ramp, of: grown, over: 6",
            "main:ease (/stages/ease/during/0/over) was 4 steps, is 6 steps: it has been entered "
            "2 times; " + ENTERED,
            id="ramp",
        ),
        pytest.param(
            "slow: {type: lr_factor, factor: 0.5}",
            "slow: {type: lr_factor, factor: 0.4}",
            "main:warm (/stages/warm/during/0) was factor 0.5, is factor 0.4: it has been entered "
            "once; " + ENTERED,
            id="named activity",
        ),
        pytest.param(
            "    during: [slow]\n",
            "    during: []\n",
            "main:warm (/stages/warm/during/0) was slow, is gone: it has been entered once; "
            + ENTERED,
            id="named activity listed no more",
        ),
        pytest.param(
            '{type: freeze, of: "x.*"}, ',
            '{type: freeze, of: "x.*"}, {type: lr_factor, factor: 0.1}, ',
            "main:train (/stages/train/during/2) is new: {type: lr_factor, factor: 0.1}: it has "
            "been entered 3 times; " + ENTERED,
            id="another activity",
        ),
        pytest.param(
            "step >= 6, at_most: 2",
            "step >= 7, at_most: 2",
            "main:train.transitions[0] (/stages/train/transitions/0/when) was step >= 6, is "
            "step >= 7: it has been taken 2 times; leave it in; set 'at_most' to 2 to take it no "
            "more, and write another way beside it",
            id="guard taken",
        ),
        pytest.param(
            "{target: g, when: step >= 6, at_most: 2}",
            "{target: tail, when: step >= 6, at_most: 2}",
            "main:train.transitions[0] (/stages/train/transitions/0/target) was main:g, is "
            "main:tail: it has been taken 2 times; leave it in; set 'at_most' to 2 to take it no "
            "more, and write another way beside it",
            id="target taken",
        ),
        pytest.param(
            "step >= 6, at_most: 2",
            "step >= 6, at_most: 1",
            "main:train.transitions[0] (/stages/train/transitions/0/at_most) was 2, is 1: it has "
            "been taken 2 times; the least it can be is 2",
            id="at_most",
        ),
        pytest.param(
            "duration: 4 steps\n    next: train",
            "duration: 4 steps\n    next: tail",
            "main:warm.next (/stages/warm/next) was main:train, is main:tail: it has been taken "
            "once; write a transition with 'completed()' before it",
            id="next taken",
        ),
        pytest.param(
            "name: away, within: [ease, train]",
            "name: away, within: [ease]",
            "main:interrupts.away (/interrupts/0/within) was a way out of main:train, is none: it "
            "has been taken once; leave it so; set 'at_most' to 1 to take it no more, and write "
            "another way beside it",
            id="within",
        ),
        pytest.param(
            "name: away, within",
            "name: off, within",
            "main:interrupts.away (/interrupts/0) was a way to main:aside when event(e), is gone: "
            "it has been taken once; leave it in; set 'at_most' to 1 to take it no more, and write "
            "another way beside it",
            id="interrupt renamed",
        ),
        pytest.param(
            "m: {goal: minimize",
            "m: {goal: maximize",
            "metric 'm' (/metrics/m/goal) was minimize, is maximize: it has been seen, and its "
            "best value is by that goal; declare it under another name, with this one's 'source'",
            id="goal",
        ),
        pytest.param(
            "budget: {steps: 60",
            "budget: {steps: 22",
            "budget of steps (/budget/steps) was 60, is 22: 22 are spent, so that the run would "
            "end at once; leave more, or stop the run",
            id="budget spent",
        ),
        pytest.param(
            "tail: {kind: train, duration: 5 steps",
            "tail: {kind: train, duration: 5 tokens",
            "tokens is new: read by the edited graph: none were counted in the 22 updates so far; "
            "count in another unit",
            id="not counted",
        ),
        pytest.param(
            "initial: warm",
            "initial: train",
            "region 'main' (/initial) was 'main:warm', is 'main:train': it has begun there; leave "
            "it as it was; a new way out leads where you want to go",
            id="initial",
        ),
    ],
)
def test_the_past_may_not_be_edited(old, new, told):
    document = DOCUMENT.replace(
        "  tail:",
        "  two: {kind: warmup, during: [{type: alpha_ramp, of: grown, over: 4 steps}], "
        "next: train}\n  tail:",
    )
    assert refused(old, new, document=document).splitlines()[0] == told


def test_the_factor_of_a_settle_that_was_entered_is_told_once():
    document = "initial: a\nstages: {a: {kind: settle, lr_factor: 0.5, duration: 9 steps, next: b},"
    document += " b: {kind: final}}"
    run, other = Run(document).step(2), Run(document.replace("0.5", "0.4"))
    (told,) = judge(run.core.graph, other.core.graph, run.core.state)
    assert str(told) == (
        "main:a (/stages/a/lr_factor) was 0.5, is 0.4: it has been entered once; " + ENTERED
    )


def test_all_that_cannot_be_is_told_at_once():
    text = DOCUMENT.replace("add: 1", "add: 2").replace("m: {goal: minimize", "m: {goal: maximize")
    run, other = begun(), Run(text, params=100, costs=COSTS)
    found = judge(run.core.graph, other.core.graph, run.core.state)
    assert [refusal.place for refusal in found] == ["main:g", "metric 'm'"]
    assert found[0].to_json()["remedy"] == ENTERED


def test_a_stage_that_was_entered_cannot_be_renamed():
    run = begun()
    other = Run(DOCUMENT.replace("tail", "end"), params=100, costs=COSTS)
    assert judge(run.core.graph, other.core.graph, run.core.state) == []
    other = Run(DOCUMENT.replace("ease", "soften"), params=100, costs=COSTS)
    told = [str(refusal) for refusal in judge(run.core.graph, other.core.graph, run.core.state)]
    assert (
        "main:ease (/stages/ease) was a warmup stage, is gone: it has been entered 2 times; leave "
        "it in, under its name; no new way needs to lead there"
    ) in told


def test_an_event_on_its_way_stays_declared():
    run = begun()
    run.core.send("quiet")
    other = Run(DOCUMENT.replace("[e, quiet]", "[e]"), params=100, costs=COSTS)
    (told,) = judge(run.core.graph, other.core.graph, run.core.state)
    assert str(told) == (
        "event 'quiet' (/events) was declared, is gone: it is on its way; leave it declared"
    )


def test_a_stage_that_a_command_has_extended_keeps_its_unit():
    run = begun(steps=29)
    assert run.stage == "tail"
    run.core.mail.append(Message("1", "command", "extend", "3 steps", "ann"))
    run.step()
    other = Run(
        DOCUMENT.replace("duration: 5 steps", "duration: 5 seconds"), params=100, costs=COSTS
    )
    (told,) = judge(run.core.graph, other.core.graph, run.core.state)
    assert str(told) == (
        "main:tail (/stages/tail/duration) was 5 steps, is 5 seconds: ann has extended it by "
        "steps; give it a duration in steps"
    )


REGIONS = """
regions:
  a: {initial: x, stages: {x: {kind: train, duration: 9 steps, next: y}, y: {kind: final}}}
  b: {initial: x, stages: {x: {kind: train}}}
"""


def test_regions_neither_come_nor_go():
    run = Run(REGIONS).step(2)
    less = Run(REGIONS.replace("  b: {initial: x, stages: {x: {kind: train}}}\n", ""))
    more = Run(REGIONS + "  c: {initial: x, stages: {x: {kind: train}}}\n")
    gone = [str(refusal) for refusal in judge(run.core.graph, less.core.graph, run.core.state)]
    assert gone[0] == (
        "region 'b' (/regions/b) was there, is gone: it runs; leave it in; a region cannot be "
        "renamed either"
    )
    (come,) = judge(run.core.graph, more.core.graph, run.core.state)
    assert str(come) == (
        "region 'c' (/regions/c) is new: a region that did not run: regions begin with the run; "
        "put its stages into a region that runs, or begin a new run"
    )


# Before the beginning, and after the end


def test_before_the_beginning_all_is_future():
    run = Run(DOCUMENT, params=100, costs=COSTS)
    other = Run(
        "initial: z\nstages: {z: {kind: train, duration: 2 steps, next: y}, y: {kind: final}}"
    )
    saved, _ = edit_saved(run.core.state_dict(), run.core.graph, other.core.graph)
    other.core.load_state_dict(saved)
    assert not other.core.started and other.step(2).core.done


SHORT = DOCUMENT.replace("budget: {steps: 60", "budget: {steps: 20")


def test_a_run_that_has_spent_its_budget_goes_on_with_a_larger_one():
    run, other, found = edited("steps: 20", "steps: 25", document=SHORT, steps=20)
    assert run.core.state.ended == "budget" and found.reopened
    assert not other.core.done and other.core.stages == run.core.stages
    assert other.actor.boundaries[0].held, "what was let go at the end is held again"
    other.step(9)
    assert other.core.state.ended == "budget" and other.core.progress.step == 25


def test_a_run_that_has_spent_its_budget_stays_ended_without_a_larger_one():
    assert refused("when: m < 0.1", "when: m < 0.2", document=SHORT, steps=20) == (
        "the run (/budget/steps) was ended (budget), is to go on under an edited graph: 20 of 20 "
        "steps are spent; raise the budget of steps"
    )


def test_what_has_ended_has_no_future():
    document = DOCUMENT.replace("m < 0.1", "m < 2")
    assert refused("budget: {steps: 60", "budget: {steps: 90", document=document) == (
        "the run was ended (final), is to go on under an edited graph: what has ended has no "
        "future to edit; begin a new run from its weights"
    )
    _, other, found = edited("initial: warm", "note: a remark\ninitial: warm", document=document)
    assert other.core.done and not found.reopened


# What is no state of the graph


def test_a_state_of_a_third_graph_is_refused():
    run = begun()
    other = Run(DOCUMENT.replace("m < 0.1", "m < 0.2"), params=100, costs=COSTS)
    with pytest.raises(
        SnapshotError, match=r"another graph: .* give the one it was saved under as"
    ):
        edit_saved(run.core.state_dict(), other.core.graph, run.core.graph)


def test_a_state_that_tells_of_what_its_graph_has_not_is_refused():
    run = begun()
    saved = json.loads(json.dumps(run.core.state_dict()))
    saved["engine"]["visits"]["main:nowhere"] = 1
    with pytest.raises(SnapshotError, match="damaged: it tells of 'main:nowhere'"):
        edit_saved(saved, run.core.graph, run.core.graph)


# Options

OPTIONS = """
metrics: {m: {goal: minimize}}
initial: train
stages:
  train: {kind: train, transitions: [{target: g, when: elapsed(3 steps)}]}
  g:
    kind: grow
    options:
      - {name: one, actions: [{type: deepen, stack: x, add: 1}]}
      - {name: two, actions: [{type: deepen, stack: x, add: 2}]}
    next: rest
  rest: {kind: consolidate, duration: 2 steps, next: train}
"""


def grown_once():
    run = Run(OPTIONS, params=100, costs={"main:g.one": 1, "main:g.two": 2})
    run.core.start()
    return run.step(4)


def test_an_option_that_was_not_taken_yet_may_change_and_others_may_come():
    run = grown_once()
    three = "      - {name: three, actions: [{type: deepen, stack: x, add: 9}]}\n"
    text = OPTIONS.replace("add: 2", "add: 5").replace("    next: rest", f"{three}    next: rest")
    carried = edit(run.core.graph, Run(text).core.graph, run.core.state).state
    assert carried.options["main:g"].taken == ("one",)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("add: 1", "add: 4", r"main:g \(/stages/g/options/0/actions/0/add\) was 1, is 4"),
        ("name: one", "name: first", r"main:g \(/stages/g/options\) was an option 'one', is gone"),
    ],
)
def test_an_option_that_was_taken_stays_as_it_was(old, new, says):
    run = grown_once()
    with pytest.raises(SnapshotError, match=says):
        edit(run.core.graph, Run(OPTIONS.replace(old, new)).core.graph, run.core.state)
