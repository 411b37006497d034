"""The templates at work, on numbers: what fires when, by hand; the sketches' defects not."""

from __future__ import annotations

import json

import pytest

import stagegraph as sg
from stagegraph.graph.compile import compile_graph
from tests.engine.driving import Run

DEEPEN = {"type": "deepen", "stack": "b", "add": 1}
ALWAYS = {"growth": [DEEPEN], "trigger": "step >= 0", "warmup": "2 steps", "consolidate": "4 steps"}
METRICS = {"m": {"goal": "minimize"}}


def lived(graph, steps=0, **values):
    costs = {key: 10 for key, stage in compile_graph(graph)[0].stages.items() if stage.growths}
    run = Run(json.loads(sg.dump(graph, "json")), params=100, costs=costs)
    run.core.start()
    return run.step(steps, **values)


def growths(run):
    return [(r["boundary"], r["via"][0]) for r in run.of_type("move") if r["via"]]


def entered(run):
    return [(boundary, stage.partition(":")[2]) for boundary, stage in run.entered]


# sequential


def test_a_growth_never_fires_while_the_one_before_consolidates():
    run = lived(sg.sequential([ALWAYS, ALWAYS], name="x"), 20)
    assert entered(run) == [
        (0, "grow_cycle1.wait"),
        (1, "grow_cycle1.warmup"),
        (3, "grow_cycle1.consolidate"),
        (7, "grow_cycle2.wait"),
        (8, "grow_cycle2.warmup"),
        (10, "grow_cycle2.consolidate"),
        (14, "done"),
    ]
    assert run.of_type("end", "reason") == ["final"]


def test_a_growth_without_trigger_waits_for_the_consolidation_before_it_to_be_over():
    """Also where something ends it sooner: the lock is the region's own."""
    at_once = {key: value for key, value in ALWAYS.items() if key != "trigger"}
    early = {**at_once, "until": "step >= 3"}
    run = lived(sg.sequential([early, at_once], name="x"), 20)
    assert entered(run) == [
        (0, "grow_cycle1.warmup"),
        (2, "grow_cycle1.consolidate"),
        (6, "grow_cycle2.warmup"),
        (8, "grow_cycle2.consolidate"),
        (12, "done"),
    ]


def test_the_consolidation_ends_when_it_is_told_to_or_over():
    until = {**ALWAYS, "until": "m < 1"}
    graph = sg.sequential([until], name="x", metrics=METRICS)
    assert entered(lived(graph, 5, m=2.0).step(1, m=0.5))[-1] == (6, "done")
    assert entered(lived(graph, 20, m=2.0))[-1] == (7, "done")


@pytest.mark.parametrize(("otherwise", "last"), [("grow", "warmup"), ("skip", "done")])
def test_a_trigger_that_does_not_come_is_waited_for_no_longer_than_said(otherwise, last):
    cycle = {**ALWAYS, "trigger": "m < 1", "wait": "5 steps", "otherwise": otherwise}
    run = lived(sg.sequential({"c": cycle}, name="x", metrics=METRICS), 5, m=2.0)
    stage = last if last == "done" else f"c.{last}"
    assert entered(run) == [(0, "c.wait"), (5, stage)]


# undo


def test_a_growth_that_made_it_worse_is_taken_back_and_not_tried_again():
    cycle = {**ALWAYS, "settle": "2 steps", "undo": {"metric": "m", "by": "10%"}}
    run = lived(sg.sequential({"c": cycle}, name="x", metrics=METRICS), 4, m=1.0)
    assert run.core.state.facts.params == 110
    run.step(1, m=2.0)
    assert (run.core.progress.step, run.stage) == (1, "c.undone")
    assert run.core.state.facts.params == 100
    run.step(10, m=2.0)
    assert growths(run) == [(1, "main:c.grow")]
    assert entered(run)[-2:] == [(5, "c.undone"), (9, "done")]
    assert run.core.state.spent.step == 9


def test_a_worse_metric_in_the_warm_up_takes_nothing_back():
    cycle = {**ALWAYS, "undo": {"metric": "m", "by": "10%"}}
    run = lived(sg.sequential({"c": cycle}, name="x", metrics=METRICS), 1, m=1.0)
    run.step(1, m=5.0).step(8, m=1.0)
    assert run.of_type("roll_back") == []
    assert run.core.state.facts.params == 110


# overlapping


def three(**options):
    growths = {name: dict(ALWAYS) for name in ("a", "b", "c")}
    return sg.overlapping(growths, name="x", **options)


def test_two_growths_at_one_boundary_go_one_after_the_other_by_priority():
    run = lived(three(max_overlap=3), 20)
    assert growths(run) == [(1, "a:growth.grow"), (2, "b:growth.grow"), (3, "c:growth.grow")]
    other = lived(three(max_overlap=3, priorities={"c": 9}), 20)
    assert [region[0] for _, region in growths(other)] == ["c", "a", "b"]


@pytest.mark.parametrize("overlap", [1, 2, 3])
def test_no_more_growths_overlap_than_may(overlap):
    run = lived(three(max_overlap=overlap))
    most = 0
    for _ in range(40):
        run.step()
        most = max(most, sum(region.open for region in run.core.state.regions.values()))
    assert most == overlap
    assert run.of_type("end", "reason") == ["final"]


def test_every_consolidation_ends_and_does_what_it_does_once():
    cycle = {**ALWAYS, "undo": {"metric": "m"}, "settle": "1 step"}
    graph = sg.overlapping([cycle, cycle], name="x", metrics=METRICS)
    run = lived(graph, 30)
    assert run.of_type("end", "reason") == ["final"]
    assert len(run.actor.deeds) == len(set(run.actor.deeds)) == 4  # two snapshots, two growths
    for region in ("grow_cycle1", "grow_cycle2"):
        stages = [s for _, s in run.entered if s.startswith(f"{region}:growth.")]
        assert stages == [
            f"{region}:growth.{name}" for name in ("wait", "warmup", "settle", "consolidate")
        ]


def test_growths_overlap_two_at_a_time_unless_told_otherwise():
    assert three().max_overlap == 2
    assert sg.overlapping([ALWAYS], name="x").max_overlap == 1


# warm-up, stable, decay


def anneals(**fields):
    fields = {"stable": ["4 steps", "6 steps"], "decay": ["2 steps", "3 steps"], **fields}
    return sg.sequential({"lr": sg.WarmupStableDecay(**fields)}, name="x")


def test_the_trunk_goes_on_from_before_the_anneal():
    run = lived(anneals(), 30)
    assert [(r["boundary"], r["step"], r["target"]) for r in run.of_type("move")] == [
        (0, 0, "main:lr.stable1"),
        (4, 4, "main:lr.anneal1"),
        (6, 6, "main:lr.stable2"),  # told at the branch's end, as all that comes before
        (12, 10, "main:lr.anneal2"),
        (15, 13, "main:done"),
    ]
    assert (run.core.state.spent.step, run.core.progress.step) == (15, 13)
    assert run.of_type("end", "reason") == ["final"]


def test_the_branches_are_paid_for():
    graph = sg.sequential(
        {"lr": sg.WarmupStableDecay(stable=["4 steps", "6 steps"], decay="2 steps")},
        name="x",
        budget={"steps": 9},
    )
    run = lived(graph, 30)
    assert run.of_type("end", "reason") == ["budget"]
    assert (run.core.state.spent.step, run.core.progress.step) == (9, 7)


@pytest.mark.parametrize(("data", "rewinds", "fork"), [("rewind", True, 1), ("skip", False, None)])
def test_what_differs_after_an_anneal_is_said(data, rewinds, fork):
    run = lived(anneals(data=data), 30)
    (restore,) = [b.restore for b in run.actor.boundaries if b.restore]
    assert (restore.rewind_data, restore.fork) == (rewinds, fork)


def test_an_anneal_ends_at_its_end_and_is_released():
    run = lived(anneals(end=0.25, decay=["2 steps", "3 steps"]), 6)
    assert run.actor.tuned == [{"main:lr.anneal1.during[0]": 0.625}]
    assert run.stage == "lr.stable2"
    assert run.actor.boundaries[-1].held == ()
    run.step(8)
    ramp = [told["main:lr.anneal2.during[0]"] for told in run.actor.tuned[1:]]
    assert ramp == [0.75, 0.5]


def test_a_snapshot_of_the_trunk_takes_the_place_of_the_one_before():
    graph = anneals(stable=["2 steps"] * 4, decay="1 step")
    run = lived(graph, 30)
    assert [s.name for s in run.core.state.snapshots] == ["lr.trunk"]


# spikes


def watched(**fields):
    rule = sg.SpikeRule(metric="m", **{"by": "50%", "every": "5 steps", "at_most": 2, **fields})
    train = sg.WarmupStableDecay(stable="40 steps", decay="2 steps")
    return sg.sequential({"lr": train}, name="x", metrics=METRICS, watch=rule)


def back(run):
    return run.of_type("roll_back")


def test_a_spike_takes_all_back_past_its_data():
    run = lived(watched(), 8, m=1.0).step(1, m=1.6)
    assert run.core.progress.step == 5
    assert run.stages == {"main": "lr.stable1", "watch": "spikes.again"}
    (restore,) = [b.restore for b in run.actor.boundaries if b.restore]
    assert (restore.rewind_data, restore.fork) == (False, None)


def test_what_is_no_spike_takes_nothing_back():
    run = lived(watched(), 8, m=1.0).step(1, m=1.4).step(3, m=1.0)
    assert back(run) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_a_spike_also_before_the_first_value(value):
    run = lived(watched(nonfinite=2), 1, m=value)
    assert back(run) == []
    run.step(1, m=value)
    assert len(back(run)) == 1
    assert run.core.progress.step == 0


def test_the_next_snapshot_is_taken_a_whole_interval_after_a_spike():
    run = lived(watched(), 8, m=1.0).step(1, m=9.0).step(5, m=1.0)
    snapshots = [b.step for b in run.actor.boundaries for d in b.deeds if d.snapshot]
    assert snapshots == [0, 5, 10]
    assert len(run.core.state.snapshots) == 1, "one is kept, however many were taken"


@pytest.mark.parametrize(("then", "ended"), [("go_on", []), ("stop", ["stop"])])
def test_what_a_spike_does_when_all_rewinds_are_used_up(then, ended):
    run = lived(watched(then=then), 6, m=1.0)
    for _ in range(3):
        run.step(1, m=9.0).step(1, m=1.0)
    assert len(back(run)) == 2
    assert run.of_type("end", "reason") == ended


def test_another_condition_takes_the_place_of_the_rules_own():
    rule = sg.SpikeRule(metric="m", when="m > 3", every="5 steps", at_most=2)
    parts = {"lr": sg.WarmupStableDecay(stable="40 steps", decay="2 steps")}
    run = lived(sg.sequential(parts, name="x", metrics=METRICS, watch=rule), 8, m=1.0)
    run.step(1, m=2.9)
    assert back(run) == []
    run.step(1, m=3.1)
    assert run.core.progress.step == 5


def test_a_spike_in_an_anneal_returns_to_the_trunk_and_anneals_again():
    """A limit on the anneal's own rollback that could be used up would hold the run in it."""
    rule = sg.SpikeRule(metric="m", by="50%", every="3 steps", at_most=2)
    lr = sg.WarmupStableDecay(stable=["4 steps", "6 steps"], decay="4 steps")
    graph = sg.sequential({"lr": lr}, name="x", metrics=METRICS, watch=rule)
    run = lived(graph, 8, m=1.0)
    assert run.stages["main"] == "lr.stable2"
    assert run.core.progress.step == 4
    run.step(1, m=9.0)  # before the next snapshot: back to the one before the anneal
    assert (run.core.progress.step, run.stages["main"]) == (3, "lr.stable1")
    run.step(5, m=1.0)
    assert run.stages["main"] == "lr.stable2", "annealed and taken back once more"
    run.step(12, m=1.0)
    assert run.of_type("end", "reason") == ["final"]


# unfreezing


def test_groups_thaw_one_by_one_and_stay_frozen_without_a_break():
    thaw = sg.GradualUnfreezing(groups=["top", "mid", "low"], every="3 steps", warmup="1 step")
    run = lived(sg.sequential({"t": thaw}, name="x"), 3)
    frozen = []
    for _ in range(9):
        held = run.core.state.regions["main"].held
        frozen.append({place[-1]: at.step for place, at in held.items() if ".frozen" in place})
        run.step()
    assert frozen == [{"3": 0}] * 4 + [{}] * 5, "the lowest is held from the start, in one piece"
    assert [s for _, s in entered(run)][:6] == [
        "t.thaw1",
        "t.warmup2",
        "t.thaw2",
        "t.warmup3",
        "t.thaw3",
        "done",
    ]


def test_lower_groups_train_more_slowly():
    thaw = sg.GradualUnfreezing(groups=["top", "mid", "low"], every="1 step", lr_decay=2)
    stages = compile_graph(sg.sequential({"t": thaw}, name="x"))[0].stages
    factors = {
        held.activity.of: held.activity.factor
        for held in stages["main:t.thaw3"].during
        if held.activity.type == "lr_factor"
    }
    assert factors == {("mid",): 0.5, ("low",): 0.25}
