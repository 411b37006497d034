"""One growth after another, and growths that overlap: what the sketches of both got wrong.

Sequential: the next stage could fire while the last consolidated, and nobody stepped the
consolidation. Overlapping: the consolidation's action ran every epoch, its completion never came
by default, nothing bounded the overlap, and two growths at once had no rule.
"""

import pytest

from stagegraph.graph.check import check
from stagegraph.schema.load import load
from tests.engine.driving import HEADER, Run

SEQUENTIAL = """
metrics: {m: {goal: minimize}}
initial: first
stages:
  first: {kind: grow, actions: [{type: deepen, stack: s, add: 1}], next: warm}
  warm: {kind: warmup, during: [{type: alpha_ramp, of: grown, over: 2 steps}], next: settle}
  settle:
    kind: consolidate
    actions: [{type: snapshot, name: settled}]
    transitions: [{target: second, when: m < 1, at_most: 1}]
    duration: 4 steps
    next: rest
  rest: {kind: train, transitions: [{target: second, when: m < 1, at_most: 1}]}
  second: {kind: grow, actions: [{type: widen, space: s, factor: 2}], next: settle}
  away: {kind: train, transitions: [{target: back, when: elapsed(3 steps)}]}
interrupts:
  - {name: eager, within: [warm, settle], when: m < 0.5, target: second, at_most: 1}
  - {name: out, within: [settle], when: m > 9, target: away, at_most: 1}
"""


def sequential(*metrics):
    run = Run(SEQUENTIAL, params=1, costs={"main:first": 1, "main:second": 1})
    for value in metrics:
        run.step(**({} if value is None else {"m": value}))
    return run


def test_next_growth_cannot_fire_while_the_last_consolidates():
    """Its guard is true from the third update on; the consolidation lasts from 2 to 6."""
    run = sequential(*[0.7] * 6)
    assert run.of_type("blocked", "boundary", "reason") == [
        (3, "its own consolidation 'settle' is not completed")
    ]
    assert run.moves == [(2, "main:warm.next"), (6, "main:settle.transitions[0]")]


def test_not_by_an_interrupt_either():
    run = sequential(None, None, *[0.2] * 3)
    assert run.stage == "settle"
    assert run.of_type("blocked", "boundary", "edge") == [
        (3, "main:interrupts.eager"),
        (3, "main:settle.transitions[0]"),
    ]
    assert run.core.state.fired.get("main:interrupts.eager") is None


def test_consolidation_is_counted_by_the_engines_own_clock():
    """Nobody calls anything: four updates from its entry, then anew at each entry."""
    run = sequential(*[None] * 6)
    assert run.moves == [(2, "main:warm.next"), (6, "main:settle.next")]
    run.step(5).step(m=0.7).step(4)
    assert run.moves[2:] == [(12, "main:rest.transitions[0]"), (16, "main:settle.next")]


def test_consolidation_does_not_run_down_while_it_is_left():
    """In at 2, out at 3, back at 6: three of its four updates are still to come."""
    run = sequential(None, None, 10.0, *[None] * 6)
    assert run.moves == [
        (2, "main:warm.next"),
        (3, "main:interrupts.out"),
        (6, "main:away.transitions[0]"),
        (9, "main:settle.next"),
    ]


def test_action_of_a_consolidation_runs_once_for_each_entry():
    run = sequential(None, None, 10.0, *[None] * 8, 0.7, *[None] * 9)
    ran = [deed for deed in run.actor.deeds if deed == "main:settle.actions[0]"]
    assert run.core.state.visits["main:settle"] == len(ran) == 2
    assert run.core.progress.step == 21


# Overlapping

GROWER = """
  {name}:
    priority: {priority}
    initial: wait
    stages:
      wait: {{kind: train, transitions: [{{target: grow, when: step >= 2}}]}}
      grow: {{kind: grow, actions: [{{type: deepen, stack: s, add: 1}}], next: warm}}
      warm: {{kind: warmup, during: [{{type: alpha_ramp, of: grown, over: 2 steps}}], next: hold}}
      hold: {{kind: consolidate, duration: 5 steps, next: done}}
      done: {{kind: final}}
"""


def growing(priorities, *, max_overlap):
    """Regions a, b, c … that all want to grow at 2 and are open for seven updates."""
    names = "abcdefgh"[: len(priorities)]
    regions = (GROWER.format(name=n, priority=p) for n, p in zip(names, priorities, strict=True))
    document = f"max_overlap: {max_overlap}\nregions:" + "".join(regions)
    return Run(document, params=1, costs={f"{name}:grow": 1 for name in names})


def grown_at(run):
    return {m["region"]: m["boundary"] for m in run.of_type("move") if m["via"]}


@pytest.mark.parametrize(
    ("max_overlap", "expected"),
    [
        (1, {"a": 2, "b": 10, "c": 18, "d": 26}),
        (2, {"a": 2, "b": 3, "c": 10, "d": 11}),
        (3, {"a": 2, "b": 3, "c": 4, "d": 10}),
        (4, {"a": 2, "b": 3, "c": 4, "d": 5}),
    ],
)
def test_no_more_regions_are_open_than_may_overlap(max_overlap, expected):
    """Open for seven; who is next moves one boundary after the lock is free."""
    run = growing((0, 0, 0, 0), max_overlap=max_overlap)
    most = 0
    for _ in range(40):
        run.step()
        most = max(most, sum(region.open for region in run.core.state.regions.values()))
    assert grown_at(run) == expected
    assert most == max_overlap and run.core.done


def test_overlap_is_one_by_default():
    assert load(HEADER + "initial: a\nstages: {a: {kind: final}}").max_overlap == 1


@pytest.mark.parametrize(
    ("priorities", "order"),
    [((0, 0, 0), "abc"), ((0, 1, 2), "cba"), ((-1, 5, 5), "bca"), ((1, 0, 1), "acb")],
)
def test_of_growths_at_one_boundary_the_higher_priority_goes_first_then_the_name(priorities, order):
    run = growing(priorities, max_overlap=3).step(5)
    assert grown_at(run) == {region: 2 + n for n, region in enumerate(order)}
    blocked = run.of_type("blocked", "edge")
    assert blocked == [f"{region}:wait.transitions[0]" for region in order[1:]]


def test_each_region_blends_what_it_has_grown_itself():
    """Half of a's ramp is over when b's begins; cohorts are told apart by the region's name."""
    run = growing((0, 0), max_overlap=2).step(3)
    assert run.core.state.cohorts == ("a:grow#1", "b:grow#1")
    assert run.actor.boundaries[-1].alphas == {"a:grow#1": 0.5, "b:grow#1": 0.0}
    run.step(1)
    assert run.actor.boundaries[-1].alphas == {"a:grow#1": 1.0, "b:grow#1": 0.5}


@pytest.mark.parametrize(
    ("stage", "finding"),
    [
        ("{kind: consolidate}", "dead-end"),
        ("{kind: consolidate, next: done}", "next-without-duration"),
        ("{kind: consolidate, duration: 5 steps}", "duration-without-next"),
    ],
)
def test_consolidation_whose_completion_never_comes_is_found_before_the_run(stage, finding):
    found = check(
        load(
            HEADER
            + f"""
budget: {{params: 9, steps: 99}}
initial: grow
stages:
  grow: {{kind: grow, actions: [{{type: deepen, stack: s, add: 1}}], next: hold}}
  hold: {stage}
  done: {{kind: final}}
"""
        )
    )
    errors = {f.code for f in found if f.severity == "error"}
    assert finding in errors, errors
