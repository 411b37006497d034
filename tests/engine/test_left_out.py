"""Every part of the state is needed: without one of them a resumed run decides otherwise."""

import json

import pytest

from stagegraph.engine.state import State
from tests.engine.driving import Run

DOCUMENT = """
budget: {params: 10k, steps: 400}
metrics: {m: {goal: minimize, every: 1 steps}}
initial: a
stages:
  a:
    kind: train
    transitions: [{target: g, when: elapsed(12 steps)}]
  g:
    kind: grow
    actions: [{type: snapshot, name: before}]
    options:
      - {name: one, actions: [{type: deepen, stack: s, add: 1}]}
      - {name: two, actions: [{type: deepen, stack: s, add: 2}]}
    next: watch
  watch:
    kind: consolidate
    transitions:
      - {target: again, when: "unstable(m, since=before, over=4 steps, allow=2 steps)"}
      - {target: again, when: "improved(m, by=50%, since=first) and elapsed(9 steps)"}
    duration: 30 steps
    next: end
  again:
    kind: train
    actions: [{type: baseline, name: first}]
    duration: 5 steps
    next: try
  try:
    kind: trial
    options:
      - {name: deep, actions: [{type: deepen, stack: s, add: 1}]}
      - {name: wide, actions: [{type: deepen, stack: s, add: 2}]}
    over: 4 steps
    metric: m
    next: rest
  rest: {kind: consolidate, duration: 3 steps, next: b}
  b: {kind: train, transitions: [{target: g, when: elapsed(3 steps)}]}
  end: {kind: final}
"""
COSTS = {"main:g.one": 1, "main:g.two": 2, "main:try.deep": 1, "main:try.wide": 2}
UPDATES = 110


def metric(spent):
    return 10 + 0.1 * (spent * 7 % 5) + (40 if 18 <= spent <= 30 else 0) - (9 if spent > 50 else 0)


def begun():
    run = Run(DOCUMENT, params=100, costs=dict(COSTS))
    run.core.start()
    return run


def go(run, first, last):
    for _ in range(first, last):
        run.core.step()
        if run.core.wants_evaluation:
            run.core.observe(m=metric(run.core.state.spent.step))
    return run


def told(records):
    return [(r["type"], r["boundary"], r.get("target"), r.get("cohort")) for r in records]


@pytest.mark.parametrize("part", ["options", "trial", "baselines", "recent"])
def test_what_is_left_out_is_seen(part):
    whole = told(go(begun(), 0, UPDATES))
    assert {"trial", "growth", "baseline"} <= {kind for kind, *_ in whole}
    seen = []
    for cut in range(2, UPDATES, 6):
        run = go(begun(), 0, cut)
        state = json.loads(json.dumps(run.core.state_dict()))
        if state["engine"][part] == State().to_json("")[part]:
            continue
        for reset in (False, True):
            other = begun()
            del other[:]
            if reset:
                state["engine"][part] = State().to_json("")[part]
            try:
                other.core.load_state_dict(state)
                go(other, cut, UPDATES)
            except Exception as error:  # noqa: BLE001 - a refusal is seen, too
                other.append({"type": "refused", "boundary": cut, "target": repr(error)})
            same = told([*run, *other]) == whole
            seen += [not same] if reset else []
            assert reset or same
    assert any(seen), f"nobody saw that {part} was left out"
