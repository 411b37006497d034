"""In which order ways out are asked, and when (S5, S6)."""

from tests.engine.driving import Run


def test_initial_stage_is_entered_at_boundary_zero_and_asked_after_the_first_update():
    run = Run("""
initial: a
stages:
  a: {kind: train, transitions: [{target: b}]}
  b: {kind: train, transitions: [{target: done}]}
  done: {kind: final}
""")
    run.core.start()
    assert run.entered == [(0, "main:a")]
    run.step()
    assert run.entered[1:] == [(1, "main:b")]
    run.step()
    assert run.entered[2:] == [(2, "main:done")]
    assert run.core.done


def test_constructor_decides_nothing():
    run = Run("initial: a\nstages: {a: {kind: final}}")
    assert run.stages == {} and not run and not run.core.started


def test_interrupt_is_looked_at_before_transitions():
    run = Run("""
initial: a
stages:
  a: {kind: train, transitions: [{target: own, when: step >= 3}]}
  own: {kind: final}
  caught: {kind: final}
interrupts: [{name: catch, when: step >= 3, target: caught}]
""")
    run.step(3)
    assert run.moves == [(3, "main:interrupts.catch")]


def test_interrupts_are_asked_in_list_order_and_only_within():
    run = Run("""
initial: a
stages:
  a: {kind: train, duration: 4 steps, next: b}
  b: {kind: train}
  x: {kind: final}
  y: {kind: final}
interrupts:
  - {name: early, within: [b], when: step >= 2, target: x}
  - {name: late, when: step >= 5, target: y}
""")
    run.step(10)
    assert run.moves == [(4, "main:a.next"), (5, "main:interrupts.early")]


def test_transitions_are_asked_in_list_order_and_next_last():
    run = Run("""
metrics: {m: {goal: minimize}}
initial: a
stages:
  a:
    kind: train
    duration: 3 steps
    next: c
    transitions: [{target: b, when: m < 1}, {target: b2, when: m < 2}]
  b: {kind: final}
  b2: {kind: final}
  c: {kind: final}
""")
    run.step(2).step(m=0.5)
    assert run.moves == [(3, "main:a.transitions[0]")]


def test_unknown_guard_blocks_nothing_below_it():
    run = Run("""
metrics: {m: {goal: minimize}}
initial: a
stages:
  a: {kind: train, transitions: [{target: b, when: m < 1}, {target: c, when: step >= 2}]}
  b: {kind: final}
  c: {kind: final}
""")
    run.step(5)
    assert run.moves == [(2, "main:a.transitions[1]")]


def test_min_duration_holds_transitions_and_next_but_not_interrupts():
    stages = """
metrics: {m: {goal: minimize}}
initial: a
stages:
  a:
    kind: train
    min_duration: 5 steps
    duration: 2 steps
    next: c
    transitions: [{target: b, when: m < 1}]
  b: {kind: final}
  c: {kind: final}
  x: {kind: final}
interrupts: [{name: out, when: m > 9, target: x}]
"""
    assert Run(stages).step(9, m=0.5).moves == [(5, "main:a.transitions[0]")]
    assert Run(stages).step(9).moves == [(5, "main:a.next")]
    assert Run(stages).step(2, m=1.0).step(m=10.0).moves == [(3, "main:interrupts.out")]


def test_metric_that_was_true_during_min_duration_is_not_forgotten():
    run = Run("""
metrics: {m: {goal: minimize}}
initial: a
stages:
  a: {kind: train, min_duration: 5 steps, transitions: [{target: b, when: m < 1}]}
  b: {kind: final}
""")
    run.step(m=0.5).step(9)
    assert run.moves == [(5, "main:a.transitions[0]")]


def test_a_move_goes_through_grow_and_takes_no_time():
    run = Run(
        """
initial: a
stages:
  a: {kind: train, duration: 2 steps, next: g}
  g: {kind: grow, actions: [{type: deepen, stack: blocks, add: 1}], next: h}
  h: {kind: grow, actions: [{type: deepen, stack: blocks, add: 1}], next: w}
  w: {kind: consolidate, duration: 3 steps, next: done}
  done: {kind: final}
""",
        params=100,
        costs={"main:g": 10, "main:h": 20},
    )
    run.step(5)
    assert run.of_type("move", "boundary", "via", "target")[1:] == [
        (2, ["main:g", "main:h"], "main:w"),
        (5, [], "main:done"),
    ]
    assert run.actor.deeds == ["main:g.actions[0]", "main:h.actions[0]"]
    assert run.of_type("growth", "cohort") == ["main:g#1", "main:h#1"]
    assert run.core.state.facts.params == 130


def test_at_most_limits_firings_and_lower_edges_go_on():
    run = Run("""
initial: a
stages:
  a:
    kind: train
    transitions: [{target: a, when: elapsed(2 steps), at_most: 2}, {target: b, when: step >= 7}]
  b: {kind: final}
""")
    run.step(9)
    assert run.moves == [
        (2, "main:a.transitions[0]"),
        (4, "main:a.transitions[0]"),
        (7, "main:a.transitions[1]"),
    ]


def test_visits_count_entries_this_one_included():
    run = Run("""
initial: a
stages:
  a: {kind: train, transitions: [{target: done, when: visits(a) >= 3}, {target: b}]}
  b: {kind: train, transitions: [{target: a}]}
  done: {kind: final}
""")
    run.step(9)
    assert run.entered == [
        (0, "main:a"),
        (1, "main:b"),
        (2, "main:a"),
        (3, "main:b"),
        (4, "main:a"),
        (5, "main:done"),
    ]
    assert run.of_type("move", "visit") == [1, 1, 2, 2, 3, 1]


def test_warmup_is_completed_when_its_longest_ramp_has_ended():
    run = Run("""
initial: w
stages:
  w:
    kind: warmup
    during:
      - {type: lr_ramp, start: 0, over: 3 steps}
      - {type: lr_ramp, start: 0, of: "x.*", over: 5 steps}
    next: done
  done: {kind: final}
""")
    run.step(9)
    assert run.moves == [(5, "main:w.next")]


def test_target_stop_ends_the_run_where_it_stands():
    run = Run("""
initial: a
stages:
  a: {kind: train, transitions: [{target: stop, when: step >= 3}]}
  b: {kind: final}
""")
    run.step(5)
    assert run.of_type("end", "boundary", "reason") == [(3, "stop")]
    assert run.stage == "a" and run.core.done


def test_own_actions_come_before_those_of_the_stages_entered():
    run = Run(
        """
initial: a
stages:
  a:
    kind: train
    duration: 1 step
    transitions: [{target: g, actions: [{type: snapshot, name: one}]}]
    next: a
  g:
    kind: grow
    actions: [{type: snapshot, name: two}, {type: deepen, stack: b, add: 1}]
    next: c
  c: {kind: consolidate, actions: [{type: snapshot, name: three}]}
""",
        params=1,
        costs={"main:g": 1},
    )
    run.step()
    assert run.actor.deeds == [
        "main:a.transitions[0].actions[0]",
        "main:g.actions[0]",
        "main:g.actions[1]",
        "main:c.actions[0]",
    ]
