"""diff: what differs in meaning, by pointer; spelling does not count."""

from __future__ import annotations

import json

import pytest

from stagegraph import Engine
from stagegraph.cli.main import main
from stagegraph.schema.differences import differences
from stagegraph.schema.load import load

BASE = """\
stagegraph: 1
name: short
metrics: {loss: {goal: minimize}}
initial: train
stages:
  train:
    kind: train
    transitions: [{target: done, when: loss < 0.5}]
    duration: 1k steps
    next: done
  done: {kind: final}
"""


def changed(old: str, new: str) -> list[str]:
    assert old in BASE
    return [str(d) for d in differences(load(BASE), load(BASE.replace(old, new)))]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1k steps", "1000 st"),
        ("loss < 0.5", "(loss < 50%)"),
        ("when: loss < 0.5", 'when: {type: compare, left: loss, op: "<", right: 0.5}'),
        ("kind: final", "kind: final, note: the end"),
        ("    duration: 1k steps\n    next: done", "    next: done\n    duration: 1k steps"),
    ],
)
def test_spelling_is_no_difference(old, new):
    assert changed(old, new) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("1k steps", "2k steps", ["~ /stages/train/duration: 1000 steps -> 2000 steps"]),
        ("loss < 0.5", "loss < 1", ["~ /stages/train/transitions/0/when: loss < 0.5 -> loss < 1"]),
        ("  done: {k", "  end: {kind: final}\n  done: {k", ["+ /stages/end: {kind: final}"]),
        ("transitions: [{", "transitions: [] #", [
            "- /stages/train/transitions/0: {target: done, when: loss < 0.5}"
        ]),
        ("name: short", "name: short\nbudget: {steps: 9k}", ["+ /budget/steps: 9000"]),
        ("kind: train\n", "kind: consolidate\n", ["~ /stages/train/kind: train -> consolidate"]),
        ("kind: final", "kind: settle, lr_factor: 0.5", [
            "~ /stages/done/kind: final -> settle", "+ /stages/done/lr_factor: 0.5"
        ]),
    ],
)  # fmt: skip
def test_meaning_is_told_by_pointer(old, new, said):
    assert sorted(changed(old, new)) == sorted(said)


def test_the_command(tmp_path, capsys):
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text(BASE, "utf-8")
    b.write_text(BASE.replace("1k steps", "2k steps"), "utf-8")
    assert main(["diff", str(a), str(b)]) == 0
    assert capsys.readouterr().out == (
        "~ /stages/train/duration: 1000 steps -> 2000 steps\n1 difference in meaning\n"
    )
    assert main(["diff", "--exit-code", str(a), str(b)]) == 1
    capsys.readouterr()
    assert main(["diff", "--format", "json", str(a), str(a)]) == 0
    assert json.loads(capsys.readouterr().out) == []


# A run, and a graph that it may go on under

TRAINING = """\
stagegraph: 1
name: short
metrics: {loss: {goal: minimize}}
initial: train
stages:
  train: {kind: train, duration: 5 steps, next: more}
  more: {kind: train, duration: 5 steps, next: done}
  done: {kind: final}
"""


@pytest.fixture
def stopped(tmp_path):
    folder = tmp_path / "run"
    with Engine(load(TRAINING), run=folder) as engine:
        engine.start()
        for _ in range(7):
            engine.step()
        engine.finish()
    return folder


def against(folder, old, new, *options):
    assert old in TRAINING
    graph = folder.parent / "graph.yaml"
    graph.write_text(TRAINING.replace(old, new), "utf-8")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    status = main(["diff", *options, str(folder), str(graph)])
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return status


def test_a_run_that_could_go_on(stopped, capsys):
    assert (
        against(stopped, "more: {kind: train, duration: 5", "more: {kind: train, duration: 9") == 0
    )
    assert capsys.readouterr().out == (
        "~ /stages/more/duration: 5 steps -> 9 steps\n"
        "1 difference in meaning\n"
        f"the run in {stopped} can go on under it, from its checkpoint at step 7\n"
    )


def test_a_run_that_could_not(stopped, capsys):
    assert against(stopped, "more: {kind: train", "more: {kind: consolidate") == 1
    assert capsys.readouterr().out == (
        "~ /stages/more/kind: train -> consolidate\n"
        "1 difference in meaning\n"
        f"the run in {stopped} cannot go on under it from its checkpoint at step 7:\n"
        "  main:more (/stages/more/kind) was train, is consolidate: it has been entered once; give "
        "what is to come a stage of another name\n"
    )
    assert (
        against(stopped, "more: {kind: train", "more: {kind: consolidate", "--format", "json") == 1
    )
    told = json.loads(capsys.readouterr().out)
    assert [refusal["place"] for refusal in told["refusals"]] == ["main:more"]
    assert (told["step"], len(told["differences"])) == (7, 1)


def test_a_folder_without_a_run_is_told(tmp_path, capsys):
    graph = tmp_path / "graph.yaml"
    graph.write_text(TRAINING, "utf-8")
    assert main(["diff", str(tmp_path), str(graph)]) == 2
    assert "holds no run" in capsys.readouterr().err
