"""``stagegraph report`` and ``stagegraph explain``, on the folder of a run."""

from __future__ import annotations

import json
import re

import pytest

import stagegraph as sg
from stagegraph.cli.main import main

GRAPH = """\
stagegraph: 1
name: a run on numbers
metrics: {loss: {goal: minimize}}
budget: {params: 1000, steps: 60}
waive: {no-monitor: short}
initial: train
stages:
  train:
    kind: train
    transitions: [{target: grow, when: loss < 0.5 and affordable(grow), at_most: 1}]
    duration: 20 steps
    next: done
  grow: {kind: grow, actions: [{type: deepen, stack: blocks, add: 1}], next: warmup}
  warmup:
    kind: warmup
    during: [{type: alpha_ramp, of: grown, over: 4 steps}]
    next: consolidate
  consolidate: {kind: consolidate, duration: 4 steps, next: train}
  done: {kind: final}
interrupts:
  - {name: stuck, within: [consolidate], when: loss > 9, target: stop}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "a"
    engine = sg.Engine(sg.load(GRAPH), params=600, costs={"grow": 200}, run=path)
    for step in range(1, 60):
        engine.step(loss=1 - step / 10)
    assert engine.ended == "final"
    engine.close()
    return path


def test_the_report_goes_into_the_folder(folder, capsys):
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    page = (folder / "report.html").read_text("utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    for word in ("a run on numbers", "loss &lt; 0.5", "warmup", "consolidate", "final"):
        assert word in page
    assert re.findall(r"""(?:src|href)\s*=\s*["']?(?!\#|data:)[^\s>"']+""", page) == []


def test_the_report_goes_where_it_is_told(folder, tmp_path, capsys):
    path = tmp_path / "own.html"
    assert main(["report", str(folder), "-o", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert "a run on numbers" in path.read_text("utf-8")


def test_the_explanation_tells_each_transition_with_what_it_saw(folder, capsys):
    assert main(["explain", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("step 0: main:train  (the beginning)\n")
    assert (
        "step 6: main:train -> main:grow -> main:warmup  (main:train.transitions[0])\n"
        "    true: loss < 0.5 and affordable(main:grow)\n"
        "      true: loss < 0.5  [loss=0.4]\n"
        "      true: affordable(main:grow)"
    ) in out
    assert out.endswith("step 34: the end (final)\n")


def test_the_explanation_as_json(folder, capsys):
    assert main(["explain", str(folder), "--format", "json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert {record["type"] for record in records} == {"move", "end"}
    assert [r["target"] for r in records if r["type"] == "move"] == [
        "main:train",
        "main:warmup",
        "main:consolidate",
        "main:train",
        "main:done",
    ]


@pytest.mark.parametrize("command", ["report", "explain"])
def test_a_folder_without_a_run_exits_with_2(command, tmp_path, capsys):
    assert main([command, str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert str(tmp_path) in captured.err


@pytest.mark.parametrize("command", ["report", "explain"])
def test_a_damaged_journal_exits_with_2_and_its_line(command, folder, tmp_path, capsys):
    (tmp_path / "graph.json").write_text((folder / "graph.json").read_text("utf-8"))
    (tmp_path / "journal.jsonl").write_text('{"type": "run", "step": 0}\n[1]\n')
    assert main([command, str(tmp_path)]) == 2
    assert "journal.jsonl:2: this line is no record" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["report", "explain"])
def test_a_journal_whose_end_a_crash_cut_off_is_read(command, folder, tmp_path, capsys):
    (tmp_path / "graph.json").write_text((folder / "graph.json").read_text("utf-8"))
    whole = (folder / "journal.jsonl").read_bytes()
    (tmp_path / "journal.jsonl").write_bytes(whole[: whole.index(b"main:consolidate")])
    assert main([command, str(tmp_path)]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", ["report", "explain"])
def test_a_missing_folder_is_asked_for(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command])
    assert stopped.value.code == 2
    assert "RUN" in capsys.readouterr().err


def test_explain_tells_the_turns_of_a_trial_from_the_beginning(tmp_path, capsys):
    """They follow no edge either; once, each was said to be the beginning."""
    document = """
stagegraph: 1
name: a trial
metrics: {val_loss: {goal: minimize}}
budget: {steps: 40}
initial: train
stages:
  train: {kind: train, duration: 2 steps, next: try}
  try:
    kind: trial
    options:
      - {name: deep, actions: [{type: deepen, stack: blocks, add: 2}]}
      - {name: thin, actions: [{type: deepen, stack: blocks, add: 1}]}
    over: 2 steps
    metric: val_loss
    next: rest
  rest: {kind: consolidate, duration: 2 steps, next: done}
  done: {kind: final}
"""
    costs = {"try.deep": 2, "try.thin": 1}
    with sg.Engine(sg.load(document), run=tmp_path / "run", params=4, costs=costs) as engine:
        engine.resume()
        while not engine.done:
            engine.step(val_loss=1.0)
    main(["explain", str(tmp_path / "run")])
    out = capsys.readouterr().out
    assert out.count("(the beginning)") == 1
    assert out.count("main:try -> main:try  (the trial goes on)") == 1
