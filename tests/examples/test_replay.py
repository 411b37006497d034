"""The main example's own journal, played again without a model."""

from pathlib import Path

import stagegraph as sg
from stagegraph.runs.journal import read_journal

ROOT = Path(__file__).parents[2]
JOURNAL = ROOT / "tests" / "data" / "journals" / "grow_gpt.jsonl"
"""What ``make demo`` wrote: torch 2.13.0 on a CPU, seed 0, all 3,000 steps."""


def moves(records):
    return [
        (r["step"], r["edge"], r["source"], r["via"], r["target"])
        for r in records
        if r["type"] == "move"
    ]


def test_the_demos_journal_played_again_gives_the_same_transitions_at_the_same_steps():
    graph = sg.load(ROOT / "examples" / "grow_gpt" / "grow.yaml")
    recorded = read_journal(JOURNAL)
    assert recorded[0]["digest"] == sg.digest(graph), "grow.yaml has changed: run `make demo` anew"
    again = sg.simulate(graph, metrics=JOURNAL)
    assert moves(again.records) == moves(recorded)
    assert (again.ended, again.steps) == ("final", 3000)


def test_both_growths_of_the_demo_came_from_the_plateau():
    growths = [r for r in read_journal(JOURNAL) if r["type"] == "move" and r["via"]]
    assert [(r["step"], r["edge"]) for r in growths] == [
        (1250, "main:train.transitions[0]"),
        (1900, "main:train.transitions[0]"),
    ]
    assert all(r["evidence"]["of"][0]["sees"]["verdict"] == "plateau" for r in growths)
