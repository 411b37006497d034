"""A growth that added no block, where another option would have: alpha ramps leave it out."""

import json

import pytest

from stagegraph.engine.state import State
from stagegraph.errors import SnapshotError
from tests.engine.driving import Run

GRAPH = """
budget: {params: 10k, steps: 400}
initial: a
stages:
  a: {kind: train, duration: 3 steps, next: g}
  g:
    kind: grow
    options:
      - {name: wide, actions: [{type: widen, space: s, add: 1}]}
      - {name: deep, actions: [{type: deepen, stack: s, add: 2}]}
    next: warm
  warm: {kind: warmup, during: [{type: alpha_ramp, of: grown, over: 4 steps}], next: rest}
  rest: {kind: consolidate, duration: 2 steps, next: a}
"""
COSTS = {"main:g.wide": 1, "main:g.deep": 2}


def begun(document=GRAPH):
    run = Run(document, params=100, costs=dict(COSTS))
    run.core.start()
    return run


def alphas(run, updates):
    found = []
    for _ in range(updates):
        run.core.step()
        found.append((run.core.progress.step, dict(run.core.alphas)))
    return found


def test_no_alpha_is_asked_of_it_and_the_journal_says_so():
    run = begun()
    seen = alphas(run, 16)
    assert all("main:g.wide#1" not in now for _, now in seen)
    assert [now.get("main:g.deep#2") for _, now in seen[11:15]] == [0.0, 0.25, 0.5, 0.75]
    growths = [r for r in run if r["type"] == "growth"]
    assert [(r["cohort"], r.get("unblended")) for r in growths] == [
        ("main:g.wide#1", True),
        ("main:g.deep#2", None),
    ]
    asked = [boundary.alphas for boundary in run.actor.boundaries]
    assert asked[1] == {"main:g.wide#1": 1.0}


def test_where_no_option_adds_a_block_it_stays_the_mistake_that_it_is():
    run = begun(GRAPH.replace("deepen, stack: s, add: 2", "widen, space: s, add: 2"))
    assert alphas(run, 4)[-1][1] == {"main:g.wide#1": 0.25}
    assert run.core.state.unblended == ()


@pytest.mark.parametrize("cut", range(1, 17))
def test_a_resumed_run_leaves_it_out_too(cut):
    whole, run = begun(), begun()
    expected = alphas(whole, 18)
    alphas(run, cut)
    again = begun()
    again.core.load_state_dict(json.loads(json.dumps(run.core.state_dict())))
    assert alphas(again, 18 - cut) == expected[cut:]


def test_an_earlier_state_has_none_and_one_that_is_damaged_is_refused():
    run = begun()
    alphas(run, 4)
    saved = json.loads(json.dumps(run.core.state_dict()))
    assert saved["engine"]["unblended"] == ["main:g.wide#1"]
    for wrong in (["main:nobody#1"], [3]):
        with pytest.raises(SnapshotError):
            begun().core.load_state_dict(
                {**saved, "engine": {**saved["engine"], "unblended": wrong}}
            )
    older = {key: value for key, value in saved["engine"].items() if key != "unblended"}
    again = begun()
    again.core.load_state_dict({**saved, "engine": older})
    assert again.core.state.unblended == State().unblended == ()
