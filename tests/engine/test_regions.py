"""Regions side by side: who sees what when, and the structure locks (S5, S11)."""

import pytest

from tests.engine.driving import Run

GROWING = """
    initial: {initial}
    priority: {priority}
    stages:
      wait: {{kind: train, transitions: [{{target: grow, when: step >= {at}}}]}}
      grow: {{kind: grow, actions: [{{type: deepen, stack: b, add: 1}}], next: hold}}
      hold: {{kind: consolidate, duration: {hold} steps, next: done}}
      done: {{kind: final}}
"""


def two_growing(*, hold=3, max_overlap=1, priorities=(0, 0), at=(2, 2), budget=""):
    text = f"max_overlap: {max_overlap}\n{budget}regions:\n"
    for name, priority, when in zip("ab", priorities, at, strict=True):
        text += f"  {name}:" + GROWING.format(initial="wait", priority=priority, at=when, hold=hold)
    return Run(text, params=100, costs={"a:grow": 10, "b:grow": 10})


def test_region_answers_another_one_boundary_later():
    run = Run("""
regions:
  a:
    initial: one
    stages:
      one: {kind: train, duration: 3 steps, next: two}
      two: {kind: train, transitions: [{target: done, when: in(b:two)}]}
      done: {kind: final}
  b:
    initial: one
    stages:
      one: {kind: train, transitions: [{target: two, when: in(a:two)}]}
      two: {kind: train, transitions: [{target: done, when: done(a)}]}
      done: {kind: final}
""")
    run.step(9)
    assert run.moves == [
        (3, "a:one.next"),
        (4, "b:one.transitions[0]"),
        (5, "a:two.transitions[0]"),
        (6, "b:two.transitions[0]"),
    ]


def test_all_regions_see_one_frame():
    """Both leave on the other's old stage; a second look would find neither."""
    run = Run("""
regions:
  a:
    initial: one
    stages:
      one: {kind: train, transitions: [{target: done, when: step >= 2 and in(b:one)}]}
      done: {kind: final}
  b:
    initial: one
    stages:
      one: {kind: train, transitions: [{target: done, when: step >= 2 and in(a:one)}]}
      done: {kind: final}
""")
    run.step(2)
    assert run.moves == [(2, "a:one.transitions[0]"), (2, "b:one.transitions[0]")]


def test_regions_act_by_priority_then_by_name():
    text = "regions:\n"
    for name, priority in (("a", 0), ("b", 5), ("c", 0)):
        text += f"  {name}: {{priority: {priority}, initial: x, stages: {{x: {{kind: final}}}}}}\n"
    run = Run(text)
    run.core.start()
    assert run.of_type("move", "region") == ["b", "a", "c"]


@pytest.mark.parametrize(("priorities", "first", "other"), [((0, 0), "a", "b"), ((0, 1), "b", "a")])
def test_one_structural_move_per_boundary(priorities, first, other):
    run = two_growing(max_overlap=2, priorities=priorities)
    run.step(3)
    assert run.moves == [
        (2, f"{first}:wait.transitions[0]"),
        (3, f"{other}:wait.transitions[0]"),
    ]
    assert run.of_type("blocked", "boundary", "edge", "reason") == [
        (2, f"{other}:wait.transitions[0]", f"region '{first}' changes the model at this boundary")
    ]
    assert run.of_type("unblocked", "boundary", "edge") == [(3, f"{other}:wait.transitions[0]")]


def test_growth_waits_for_another_regions_consolidation():
    """a grows at 2 and consolidates until 5; b's guard is true from 3 on."""
    run = two_growing(at=(2, 3))
    run.step(12)
    assert run.moves == [
        (2, "a:wait.transitions[0]"),
        (5, "a:hold.next"),
        (6, "b:wait.transitions[0]"),
        (9, "b:hold.next"),
    ]
    assert run.of_type("blocked", "boundary", "reason") == [
        (3, "'a' not consolidated yet, and max_overlap is 1")
    ]
    assert run.of_type("unblocked", "boundary") == [6]


def test_growth_blocked_by_max_overlap_lets_lower_edge_fire():
    run = Run(
        """
regions:
  a:
    initial: g
    stages:
      g: {kind: grow, actions: [{type: deepen, stack: b, add: 1}], next: hold}
      hold: {kind: consolidate, duration: 9 steps, next: done}
      done: {kind: final}
  b:
    initial: wait
    stages:
      wait: {kind: train, transitions: [{target: g, when: step >= 2}, {target: x}]}
      g: {kind: grow, actions: [{type: deepen, stack: b, add: 1}], next: x}
      x: {kind: train}
    interrupts: [{name: jump, within: [x], when: step >= 4, target: g, at_most: 1}]
""",
        params=1,
        costs={"a:g": 1, "b:g": 1},
    )
    run.step(8)
    assert run.moves == [(1, "b:wait.transitions[1]")]
    assert run.of_type("blocked", "boundary", "edge") == [(4, "b:interrupts.jump")]
    assert run.core.state.fired == {"b:wait.transitions[1]": 1}, "a blocked edge has not fired"
    run.step(3)
    assert run.moves[1:] == [(9, "a:hold.next")], "the run ends with a"


def test_open_region_may_grow_again_itself():
    run = Run(
        """
initial: g
stages:
  g: {kind: grow, actions: [{type: deepen, stack: b, add: 1}], next: w}
  w: {kind: warmup, during: [{type: alpha_ramp, of: grown, over: 2 steps}], next: g2}
  g2: {kind: grow, actions: [{type: deepen, stack: b, add: 1}], next: done}
  done: {kind: final}
""",
        params=1,
        costs={"main:g": 1, "main:g2": 1},
    )
    run.step(2)
    assert run.core.done


def test_own_consolidation_must_be_completed_before_growth():
    run = Run(
        """
initial: hold
stages:
  hold: {kind: consolidate, duration: 4 steps, next: done, transitions: [{target: g}]}
  g: {kind: grow, actions: [{type: deepen, stack: b, add: 1}], next: hold}
  done: {kind: final}
""",
        params=1,
        costs={"main:g": 1},
    )
    run.step(4)
    assert run.of_type("blocked", "boundary", "reason") == [
        (1, "its own consolidation 'hold' is not completed")
    ]
    assert run.moves == [(4, "main:hold.transitions[0]")]


def test_growth_past_the_budget_of_parameters_is_blocked():
    run = two_growing(at=(2, 9), budget="budget: {params: 105}\n")
    run.step(5)
    assert run.moves == []
    assert run.of_type("blocked", "boundary", "reason") == [
        (2, "it would add 10 parameters, and 5 are left of the budget")
    ]


def test_growth_of_unknown_cost_is_blocked_by_a_budget():
    run = Run(
        """
budget: {params: 1M}
initial: a
stages:
  a: {kind: train, transitions: [{target: g}]}
  g: {kind: grow, actions: [{type: deepen, stack: b, add: 1}], next: a}
""",
        params=1,
    )
    run.step(3)
    assert run.of_type("blocked", "reason") == [
        "what this growth would cost is not known, and 'params' has a budget"
    ]


def test_affordable_and_left_params_see_the_model_as_it_is():
    run = Run(
        """
budget: {params: 125}
initial: a
stages:
  a:
    kind: train
    transitions:
      - {target: g, when: affordable(g)}
      - {target: done, when: not affordable(g) and left(params) == 5 and params == 120}
  g: {kind: grow, actions: [{type: deepen, stack: b, add: 1}], next: a}
  done: {kind: final}
""",
        params=100,
        costs={"main:g": 10},
    )
    run.step(5)
    assert run.entered[1:] == [(1, "main:a"), (2, "main:a"), (3, "main:done")]


def test_region_is_open_until_it_enters_train_or_final():
    run = Run(
        """
initial: g
stages:
  g: {kind: grow, actions: [{type: deepen, stack: b, add: 1}], next: s}
  s: {kind: settle, lr_factor: 0.5, duration: 1 step, next: c}
  c: {kind: consolidate, duration: 1 step, next: t}
  t: {kind: train}
""",
        params=1,
        costs={"main:g": 1},
    )
    opened = []
    for _ in range(3):
        run.step()
        opened.append((run.stage, run.core.state.regions["main"].open))
    assert opened == [("c", True), ("t", False), ("t", False)]


def test_blocked_edge_is_unblocked_when_a_metric_makes_its_guard_false():
    """Nothing else makes the engine look there."""
    run = Run(
        """
metrics: {m: {goal: minimize}}
regions:
  a:
    initial: g
    stages:
      g: {kind: grow, actions: [{type: deepen, stack: b, add: 1}], next: hold}
      hold: {kind: consolidate, duration: 99 steps, next: done}
      done: {kind: final}
  b:
    initial: wait
    stages:
      wait: {kind: train, transitions: [{target: g, when: m < 1}]}
      g: {kind: grow, actions: [{type: deepen, stack: b, add: 1}], next: wait}
""",
        params=1,
        costs={"a:g": 1, "b:g": 1},
    )
    run.step(3).step(m=0.5).step(4).step(m=2.0)
    assert run.of_type("blocked", "boundary") == [4]
    assert run.of_type("unblocked", "boundary") == [9]
