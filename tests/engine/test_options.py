"""Growths to choose from: which option an entry takes, and when none is left (rows 2 and 14)."""

import pytest

from stagegraph.errors import ActionError
from tests.engine.driving import Run

THREE = """
budget: {{params: {budget}}}
metrics: {{m: {{goal: minimize}}}}
initial: a
stages:
  a:
    kind: train
    transitions:
      - {{target: end, when: exhausted(g)}}
      - {{target: g, when: affordable(g)}}
  g:
    kind: grow
    {choose}
    actions: [{{type: snapshot, name: before}}]
    options:
      - {{name: small, actions: [{{type: deepen, stack: s, add: 1}}]}}
      - {{name: large, actions: [{{type: deepen, stack: s, add: 4}}]}}
      - {{name: middle, actions: [{{type: deepen, stack: s, add: 2}}]}}
    next: w
  w:
    kind: consolidate
    transitions:
      - target: a
        when: m > 1
        actions: [{{type: roll_back, to: before, exclude: g}}]
        at_most: 3
    duration: 2 steps
    next: a
  end: {{kind: final}}
"""
COSTS = {"main:g.small": 10, "main:g.large": 40, "main:g.middle": 20}


def run(choose="", budget=1000, params=100, costs=COSTS):
    made = Run(THREE.format(choose=choose, budget=budget), params=params, costs=dict(costs))
    made.core.start()
    return made


def taken(run):
    return [r["options"]["main:g"] for r in run.of_type("move") if "options" in r]


def test_each_entry_takes_the_next_and_then_none_is_left():
    plan = run().step(40)
    assert taken(plan) == ["small", "large", "middle"]
    assert plan.core.state.facts.params == 170
    assert plan.stage == "end"
    assert [c for r in plan.of_type("growth") for c in [r["cohort"]]] == [
        "main:g.small#1",
        "main:g.large#2",
        "main:g.middle#3",
    ]


def test_what_does_not_fit_is_passed_over_and_the_next_taken():
    """The sketch was silent when nothing fitted; here that is an end of its own."""
    plan = run(budget=135).step(40)
    assert taken(plan) == ["small", "middle"]
    assert plan.stage == "end", "exhausted: large does not fit, the others were taken"


def test_the_largest_that_fits_is_not_the_first_and_may_come_again():
    plan = run("choose: largest", budget=205).step(60)
    assert taken(plan) == ["large", "large", "middle"]
    assert plan.core.state.facts.params == 200 and plan.stage == "end"


def test_a_cost_that_nobody_knows_is_neither_affordable_nor_exhausted():
    plan = run(costs={}).step(40)
    assert taken(plan) == [] and plan.stage == "a"
    by_target = {e.target: e.value for e in plan.core.explain()}
    assert by_target == {"main:end": None, "main:g": None}


def test_an_entry_that_nothing_is_left_for_is_held_back_with_the_reasons():
    text = THREE.format(choose="", budget=1000).replace("when: affordable(g)", "when: step > 0")
    plan = Run(text.replace("exhausted(g)", "step > 30"), params=100, costs=dict(COSTS))
    plan.core.start()
    plan.step(20)
    assert plan.of_type("blocked", "reason") == [
        "no option of 'g' is left (small: taken already; large: taken already; "
        "middle: taken already)"
    ]


def test_a_rollback_excludes_the_option_that_was_taken_last():
    plan = run("choose: largest", budget=205).step(2)
    assert taken(plan) == ["large"]
    plan.step(m=2.0)
    (back,) = plan.of_type("roll_back")
    assert back["snapshot"].startswith("before")
    assert plan.core.state.options["main:g"].excluded == ("large",)
    plan.step(4)
    assert taken(plan)[:2] == ["large", "middle"], "the next growth option"


def test_what_was_excluded_and_taken_survives_a_resume_and_a_rollback():
    plan = run("choose: largest", budget=205).step(2)
    plan.step(m=2.0)
    other = plan.resumed()
    assert other.core.state.options == plan.core.state.options
    for one in (plan, other):
        one.step(2)
    assert other.core.state_dict() == plan.core.state_dict()


def test_excluding_where_nothing_was_taken_is_an_error_that_says_so():
    text = THREE.format(choose="", budget=1000).replace("when: affordable(g)", "when: step > 99")
    text = text.replace(
        "{target: end, when: exhausted(g)}",
        "{target: a, when: m > 1, at_most: 1, "
        "actions: [{type: roll_back, to: before, exclude: g}]}",
    ).replace("transitions:", "actions: [{type: snapshot, name: before}]\n    transitions:", 1)
    plan = Run(text, params=100, costs=dict(COSTS))
    plan.core.start()
    with pytest.raises(ActionError, match="main:g has taken no option yet"):
        plan.step(m=2.0)


def test_a_region_that_begins_again_takes_the_option_that_fits_where_it_begins():
    """Behind the rollback there is room for the larger one again; before it there was not."""
    run = Run(
        """
budget: {params: 140}
metrics: {m: {goal: minimize}}
regions:
  grows:
    initial: g
    stages:
      g:
        kind: grow
        choose: largest
        options:
          - {name: small, actions: [{type: deepen, stack: s, add: 1}]}
          - {name: large, actions: [{type: deepen, stack: s, add: 2}]}
        next: c
      c: {kind: consolidate, duration: 9 steps, next: t}
      t: {kind: train}
  watches:
    initial: u
    stages: {u: {kind: train, actions: [{type: snapshot, name: s}]}}
interrupts:
  - {name: undo, within: [watches:u], when: m > 1, target: watches:u, at_most: 1,
     actions: [{type: roll_back, to: s, rng: fork}]}
""",
        params=100,
        costs={"grows:g.small": 10, "grows:g.large": 25},
    )
    assert run.core.start() is None and run.core.state.facts.params == 125
    run.step(1, m=2.0)
    state = run.core.state
    assert state.options["grows:g"].taken == ("large", "large") and state.facts.params == 125


def test_a_rollback_waits_where_a_region_that_begins_again_has_no_option_left():
    """It would stand behind its growth, and nothing would have grown."""
    run = Run(
        """
metrics: {m: {goal: minimize}}
regions:
  grows:
    initial: g
    stages:
      g:
        kind: grow
        options:
          - {name: small, actions: [{type: deepen, stack: s, add: 1}]}
          - {name: large, actions: [{type: deepen, stack: s, add: 2}]}
        next: w
      w:
        kind: warmup
        during: [{type: alpha_ramp, of: grown, over: 9 steps}]
        next: t
      t: {kind: train}
  watches:
    initial: u
    stages:
      u: {kind: train, actions: [{type: snapshot, name: s}], duration: 1 step, next: v}
      v: {kind: train}
interrupts:
  - {name: undo, within: [watches:v], when: m > 1, target: watches:v, at_most: 5,
     actions: [{type: roll_back, to: s, rng: fork}]}
""",
        params=100,
        costs={"grows:g.small": 10, "grows:g.large": 25},
    )
    run.core.start()
    run.step(2, m=2.0)
    assert len(run.of_type("roll_back")) == 1
    assert run.core.state.options["grows:g"].taken == ("small", "large")
    run.step(2, m=2.0)
    assert len(run.of_type("roll_back")) == 1 and run.core.state.facts.params == 125
    assert run.of_type("blocked", "reason") == [
        "region 'grows' cannot begin again: no option of 'g' is left (small: taken already; "
        "large: taken already)"
    ]
