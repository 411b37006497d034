"""``stagegraph simulate``: what a graph would do, and what is missing to tell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stagegraph.cli.main import main

GRAPHS = Path(__file__).parents[2] / "examples" / "graphs"
GROWING = str(GRAPHS / "grow-on-plateau.yaml")
LOSS = "--formula", "val_loss=2 + 300 / (step + 100)"
FACTS = "--steps-per-epoch", "100", "--params", "1.2M", "--cost", "grow=400k"

SHORT = """\
stagegraph: 1
name: short
metrics: {loss: {goal: minimize, every: 1 step}}
budget: {steps: 50}
initial: train
stages:
  train:
    kind: train
    transitions: [{target: rest, when: loss < 0.5}]
    duration: 9 steps
    next: rest
  rest: {kind: train, duration: 3 steps, next: done}
  done: {kind: final}
"""


@pytest.fixture
def short(tmp_path):
    path = tmp_path / "short.yaml"
    path.write_text(SHORT)
    return str(path)


def asked(capsys, *words):
    """Exit status, standard output, standard error."""
    try:
        status = main(["simulate", *words])
    except SystemExit as stopped:
        status = stopped.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_schedule_and_the_transitions_as_text(short, capsys):
    status, out, err = asked(capsys, short, "--formula", "loss=1 - step / 10")
    assert (status, err) == (0, "")
    assert out == (
        "        0 –         6  train\n"
        "        6 –         9  rest\n"
        "        9 –         9  done\n"
        "\n"
        "        6  main:train -> main:rest  loss < 0.5\n"
        "        9  main:rest -> main:done  completed()\n"
        "\n"
        "9 steps; final\n"
    )


def test_the_same_as_json(short, capsys):
    status, out, _ = asked(capsys, short, "--formula", "loss=1 - step / 10", "--format", "json")
    data = json.loads(out)
    assert (status, data["steps"], data["ended"]) == (0, 9, "final")
    assert data["made"] == 9
    assert data["schedule"][0] == {
        "region": "main",
        "stage": "train",
        "start": 0,
        "end": 6,
        "undone": False,
    }
    assert [r["target"] for r in data["records"] if r["type"] == "move"] == [
        "main:train",
        "main:rest",
        "main:done",
    ]


def test_a_growing_graph_on_a_formula(capsys):
    status, out, _ = asked(capsys, GROWING, *LOSS, *FACTS)
    assert status == 0
    assert out.endswith("\n18,400 steps; final\n")
    assert "    7,400  main:train -> main:warmup  plateau(val_loss, " in out


def test_metrics_from_a_csv_file(short, tmp_path, capsys):
    path = tmp_path / "curve.csv"
    path.write_text("step,loss\n2,0.9\n4,0.4\n")
    assert "        4  main:train -> main:rest" in asked(capsys, short, "--metrics", str(path))[1]


def test_metrics_from_json_lines(short, tmp_path, capsys):
    path = tmp_path / "curve.jsonl"
    path.write_text('{"step": 2, "loss": 0.9}\n\n{"step": 5, "loss": 0.4}\n')
    assert "        5  main:train -> main:rest" in asked(capsys, short, "--metrics", str(path))[1]


def test_regions_are_named_where_there_are_several(capsys):
    status, out, _ = asked(
        capsys,
        str(GRAPHS / "depth-overlapped-by-width.yaml"),
        *LOSS,
        "--params=1M",
        "--cost=depth:grow=400k",
        "--cost=width:grow=500k",
    )
    assert status == 0
    assert "  depth:warmup\n" in out and "  width:consolidate\n" in out


def test_where_to_stop(short, capsys):
    status, out, _ = asked(capsys, short, "--formula", "loss=1", "--max-steps", "5")
    assert status == 0
    assert out.endswith("5 steps; it did not come to an end\n")


@pytest.mark.parametrize(
    ("left_out", "words"),
    [
        ("--steps-per-epoch", "give --steps-per-epoch (epochs)"),
        ("--params", "give --params (params)"),
        ("--cost", "give --cost grow=400k, the parameters that each growth adds"),
        ("--formula", "reads 'val_loss', and --metrics or --formula does not have it"),
    ],
)
def test_a_missing_fact_is_named_with_the_flag_that_gives_it(left_out, words, capsys):
    given = [*LOSS, *FACTS]
    at = given.index(left_out)
    status, out, err = asked(capsys, GROWING, *given[:at], *given[at + 2 :])
    assert (status, out) == (2, "")
    assert words in err


def test_all_missing_facts_are_named_at_once(capsys):
    err = asked(capsys, GROWING, *LOSS)[2]
    assert "--steps-per-epoch (epochs), --params (params)" in err


@pytest.mark.parametrize(
    ("formula", "words"),
    [
        ("loss=2 +", "the formula of 'loss'"),
        ("loss=__import__('os')", "the formula of 'loss'"),
        ("loss=2 * epoch", "reads 'epoch'; only 'step' is known there"),
        ("los=2", "did you mean 'loss'?"),
        ("loss", "'loss' is not NAME=VALUE"),
        ("=2", "is not NAME=VALUE"),
    ],
)
def test_a_bad_formula_is_named(formula, words, short, capsys):
    status, out, err = asked(capsys, short, "--formula", formula)
    assert (status, out) == (2, "")
    assert words in err


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--params", "many", "--params"),
        ("--params", "0", "whole number from 1"),
        ("--max-steps", "1.5", "whole number from 1"),
        ("--cost", "grow", "not NAME=VALUE"),
        ("--cost", "grow=some", "--cost: 'some' is not a number"),
        ("--cost", "growth=1k", "did you mean 'grow'?"),
        ("--seconds-per-step", "fast", "--seconds-per-step"),
    ],
)
def test_a_bad_number_exits_with_2(flag, value, words, capsys):
    status, out, err = asked(capsys, GROWING, *LOSS, *FACTS, flag, value)
    assert (status, out) == (2, "")
    assert words in err


@pytest.mark.parametrize(
    ("text", "line"),
    [("step,loss\n2,high\n", 2), ("time,loss\n2,1\n", 1)],
    ids=["no number", "no step"],
)
def test_a_bad_row_is_named_with_its_line(text, line, short, tmp_path, capsys):
    path = tmp_path / "curve.csv"
    path.write_text(text)
    status, out, err = asked(capsys, short, "--metrics", str(path))
    assert (status, out) == (2, "")
    assert f"{path}:{line}:1: " in err


def test_a_metrics_file_that_is_missing_exits_with_2(short, capsys):
    status, _, err = asked(capsys, short, "--metrics", "no-such.csv")
    assert status == 2
    assert "no-such.csv" in err


def test_a_graph_with_errors_exits_with_1(tmp_path, capsys):
    path = tmp_path / "lost.yaml"
    path.write_text(SHORT + "  lost: {kind: final}\n")
    status, out, err = asked(capsys, str(path), "--formula", "loss=1")
    assert (status, out) == (1, "")
    assert f"{path}:14: /stages/lost error [unreachable-stage]" in err
