"""What a graph asks for in vain of the trainer, the strategy or the scheduler it is to run with."""

import json
from pathlib import Path

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

import stagegraph as sg
from stagegraph.cli.main import main
from stagegraph.graph.rules.outside import OUTSIDE, REFUSED
from stagegraph.session.strategies import STRATEGIES
from tests.graph.documents import mended, read_case

CASES = sorted((Path(__file__).parents[1] / "data" / "outside").glob("*.yaml"))
ELSEWHERE = {"plateau-under-decay", "late-growth", "scheduler-follows-metric", "scheduler-unknown"}
"""Those have their cases in test_host_schedule."""


def findings(document, given):
    graph = sg.load({"stagegraph": 1, "name": "case", **document})
    given = dict(given)
    if "one_cycle" in given:
        optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        given["scheduler"] = OneCycleLR(optimizer, 1.0, total_steps=given.pop("one_cycle"))
    return sg.check(graph, **given)


def test_each_has_a_case():
    assert {path.stem for path in CASES} | ELSEWHERE == {*OUTSIDE, *REFUSED}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_it_is_found_and_after_the_mend_it_is_not(path):
    case = read_case(path)
    found = {f.pointer: f for f in findings(case["bad"], case["given"]) if f.code == path.stem}
    finding = found[case["pointer"]]
    assert finding.severity == case["severity"]
    assert case["says"] in finding.message and finding.remedy
    again = findings(mended(case["bad"], case["mend"]), case["given"])
    assert [f for f in again if f.code == path.stem or f.severity == "error"] == []


EVERYTHING = """
stagegraph: 1
name: everything that a strategy may mind
metrics: {val_loss: {goal: minimize, every: 5 steps}}
spaces: {tensors: {up.weight: hidden _}}
initial: a
stages:
  a:
    kind: train
    actions: [{type: snapshot, name: kept}, {type: teacher, name: old}]
    during: [{type: freeze, of: head}, {type: lr_factor, factor: 0.5}]
    duration: 5 steps
    next: deeper
  deeper: {kind: grow, actions: [{type: deepen, stack: blocks, add: 1}], next: w1}
  w1: {kind: warmup, during: [{type: lr_ramp, of: grown, start: 0, over: 5 steps}], next: c1}
  c1: {kind: consolidate, duration: 5 steps, next: wider}
  wider: {kind: grow, actions: [{type: widen, space: hidden, add: 1}], next: w2}
  w2: {kind: warmup, during: [{type: lr_ramp, of: grown, start: 0, over: 5 steps}], next: c2}
  c2: {kind: consolidate, duration: 5 steps, next: b}
  b:
    kind: train
    duration: 5 steps
    transitions:
      - target: c2
        when: val_loss > 9
        at_most: 1
        actions: [{type: roll_back, to: kept, data: skip, lr_factor: 0.5}]
    next: done
  done: {kind: final}
"""

UNDER = {
    "ddp": set(),
    "fsdp2": {"main:wider.actions[0]"},
    "fsdp": {
        "main:a.actions[0]",
        "main:a.actions[1]",
        "main:a.during[0]",
        "main:deeper.actions[0]",
        "main:wider.actions[0]",
        "main:b.transitions[0].actions[0]",
    },
}
UNDER |= dict.fromkeys(("deepspeed", "tensor_parallel", "pipeline_parallel"), UNDER["fsdp"])


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_minds_what_it_cannot_do_and_nothing_else(name):
    found = sg.check(sg.load(EVERYTHING), strategy=name)
    assert {f.message.split(": ")[0] for f in found if f.code == "strategy-cannot"} == UNDER[name]
    assert all(f.severity == "error" and f.pointer for f in found if f.code == "strategy-cannot")


def test_all_structural_actions_but_deepen_are_minded_by_fsdp2():
    from typing import get_args

    from stagegraph.schema.actions import Action

    structural = {
        get_args(kind.model_fields["type"].annotation)[0]
        for kind in get_args(get_args(Action)[0])
        if kind.structural
    }
    assert structural >= {"widen", "attach", "add_experts", "inherit", "prune"}
    assert structural & STRATEGIES["fsdp2"].can == {"deepen"}


def test_a_trial_is_minded_where_the_model_cannot_be_brought_back():
    graph = sg.load((Path(__file__).parents[1] / "data/kinds/trial.valid.yaml").read_text("utf-8"))
    found = [f for f in sg.check(graph, strategy="fsdp") if "a trial brings" in f.message]
    assert len(found) == 1 and found[0].code == "strategy-cannot"


def test_a_trainer_that_does_not_run_under_a_strategy_says_so():
    deepens = sg.load({
        "stagegraph": 1, "name": "deepens", "initial": "grow",
        "stages": {
            "grow": {"kind": "grow", "actions": [{"type": "deepen", "stack": "b", "add": 1}],
                     "next": "done"},
            "done": {"kind": "final"},
        },
    })  # fmt: skip
    found = sg.check(deepens, trainer="huggingface", strategy="fsdp2")
    [one] = [f for f in found if f.code == "strategy-cannot"]
    assert one.message == (
        "the graph: the Hugging Face Trainer runs no graph under FSDP2 (fully_shard), but with ddp"
    )
    found = sg.check(deepens, trainer="huggingface", strategy="ddp")
    assert not [f for f in found if f.code == "strategy-cannot"]
    assert not [
        f
        for f in sg.check(sg.load(EVERYTHING), trainer="loop", strategy="ddp")
        if f.code in REFUSED
    ]


def test_an_unknown_strategy_is_refused_with_what_was_meant():
    with pytest.raises(
        sg.StageGraphError, match="no strategy 'deepsped'; did you mean 'deepspeed'"
    ):
        sg.check(sg.load(EVERYTHING), strategy="deepsped")


def test_a_waiver_of_a_short_scheduler_is_known():
    case = read_case(next(path for path in CASES if path.stem == "scheduler-too-short"))
    document = {**case["bad"], "waive": {"scheduler-too-short": "it is stepped every other update"}}
    [found] = [f for f in findings(document, case["given"]) if f.code == "scheduler-too-short"]
    assert found.waived == "it is stepped every other update"


def test_the_command_takes_both(tmp_path, capsys):
    path = tmp_path / "graph.yaml"
    path.write_text(EVERYTHING)
    words = ["validate", str(path), "--format", "json"]
    assert main(words) == 0
    assert main([*words, "--strategy", "ddp"]) == 0
    capsys.readouterr()
    assert main([*words, "--trainer", "loop", "--strategy", "fsdp2"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [f["code"] for f in told["findings"] if f["severity"] == "error"] == ["strategy-cannot"]
    assert told["summary"]["errors"] == 1
    assert main(["validate", str(path), "--strategy", "zero"]) == 2
    assert "there is no strategy 'zero'" in capsys.readouterr().err
