"""Growths that add blocks on one entry and none on another, under an alpha ramp: real runs.

The ramp blends in what there is to blend in, and passes over what a growth in width has added; cut
after any update, the run goes on bit for bit.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import stagegraph as sg
from tests.examples.staging import Run, Task, falling
from tests.examples.test_systems import Cuts, resumed

HEAD = """
stagegraph: 1
name: mixed
metrics: {val_loss: {goal: minimize, every: 2 steps}}
budget: {params: 5000, steps: 90}
spaces:
  tensors: {blocks.*.up.weight: mlp _, blocks.*.up.bias: mlp, blocks.*.down.weight: _ mlp}
initial: train
"""
CALM = """
  warmup:
    kind: warmup
    during:
      - {type: alpha_ramp, of: grown, over: 4 steps}
      - {type: lr_ramp, of: grown, start: 0, over: 4 steps}
    next: rest
  rest: {kind: consolidate, duration: 2 steps, next: train}
  done: {kind: final}
"""
WIDE = "{name: wide, actions: [{type: widen, space: mlp, factor: 2}]}"
DEEP = "{name: deep, actions: [{type: deepen, stack: blocks, add: 1}]}"
BESIDE = "{name: beside, actions: [{type: attach, host: [blocks.0], module: linear, init: zero}]}"
OPTIONS = f"""{HEAD}stages:
  train:
    kind: train
    transitions: [{{target: done, when: exhausted(grow)}}]
    duration: 3 steps
    next: grow
  grow: {{kind: grow, options: [{WIDE}, {DEEP}, {BESIDE}], next: warmup}}
{CALM}"""
BOTH = f"""{HEAD}stages:
  train:
    kind: train
    transitions: [{{target: done, when: visits(grow) >= 1}}]
    duration: 3 steps
    next: grow
  grow:
    kind: grow
    actions: [{{type: widen, space: mlp, factor: 2}}, {{type: deepen, stack: blocks, add: 1}}]
    next: warmup
{CALM}"""
TRIAL = f"""{HEAD}stages:
  train:
    kind: train
    transitions:
      - {{target: done, when: visits(try) >= 1}}
      - {{target: try, when: elapsed(3 steps)}}
  try:
    kind: trial
    options: [{WIDE}, {DEEP}]
    over: 4 steps
    metric: val_loss
    next: warmup
{CALM}"""


MIXED = {
    "options": (OPTIONS, {"main:grow.wide#1": True, "main:grow.deep#2": False}),
    "both": (BOTH, {"main:grow#1": True, "main:grow#1#2": False}),
    "trial": (TRIAL, {"main:try.wide#1": True}),
}
"""Per case the graph, and per growth that it begins with whether a ramp passes over it."""


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MIXED)
def test_a_ramp_passes_over_a_growth_that_added_no_block(
    name: str, every: bool, tmp_path: Path
) -> None:
    text, expected = MIXED[name]
    graph = sg.load(text)
    assert [str(f) for f in sg.check(graph) if f.severity == "error"] == []
    task, cuts = Task(graph, {"val_loss": falling}), Cuts(tmp_path, every=every)
    alphas: dict[str, list[float]] = {}

    def after(run: Run) -> bool:
        for cohort, alpha in run.engine.alphas.items():
            alphas.setdefault(cohort, []).append(alpha)
        return cuts.after(run)

    run = task.live(tmp_path / "whole", after)
    assert (run.engine.ended, run.records.of("error")) == ("final", [])
    told = {one["cohort"]: one.get("unblended", False) for one in run.records.of("growth")}
    assert expected.items() <= told.items(), told
    kept = run.engine.state_dict()["engine"]["cohorts"]
    assert set(alphas) == {cohort for cohort in kept if not told[cohort]}
    for alpha in alphas.values():
        assert {0.25, 0.5, 0.75} <= set(alpha)
    assert len(cuts.digests) >= 2
    for cut, whole in cuts.digests.items():
        assert resumed(task, cuts.folder(cut), cut) == whole, f"cut after update {cut}"
