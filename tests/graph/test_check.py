"""check: order, places, waivers, and that good graphs come out clean."""

from __future__ import annotations

from pathlib import Path

import pytest

from stagegraph.graph.check import check
from stagegraph.schema.load import load
from tests.graph.documents import findings

DOCUMENTS = sorted((Path(__file__).parents[1] / "data" / "documents").glob("*.yaml"))

SHORT = {
    "initial": "train",
    "stages": {
        "train": {"kind": "train", "duration": "9 steps", "next": "done"},
        "done": {"kind": "final"},
    },
}

GROWING = {
    "initial": "grow",
    "stages": {
        "grow": {
            "kind": "grow",
            "actions": [{"type": "widen", "space": "mlp", "factor": 2}],
            "next": "warmup",
        },
        "warmup": {
            "kind": "warmup",
            "during": [{"type": "lr_ramp", "of": "grown", "start": 0, "over": "9 steps"}],
            "next": "rest",
        },
        "rest": {"kind": "consolidate", "duration": "9 steps", "next": "done"},
        "done": {"kind": "final"},
    },
}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_the_documents_are_clean(path: Path):
    found = check(load(path))
    assert [str(f) for f in found if f.severity != "note" and f.waived is None] == []


def test_a_graph_with_nothing_wrong_has_no_findings():
    assert findings(SHORT) == []


def test_errors_come_first_then_the_order_of_the_document():
    text = """\
stagegraph: 1
name: order
metrics: {unread: {goal: minimize}}
events: [never]
initial: train
stages:
  train: {kind: train, duration: 9 steps, next: done}
  lost: {kind: train, duration: 9 steps, next: done}
  done: {kind: final}
  gone: {kind: final}
"""
    found = check(load(text))
    assert [(f.code, f.line) for f in found] == [
        ("unreachable-stage", 8),
        ("unreachable-stage", 10),
        ("unused-event", 4),
        ("unused-metric", 3),
    ]


def test_without_lines_the_order_is_that_of_the_model():
    data = {**SHORT, "events": ["b", "a"], "activities": {"low": {"type": "freeze", "of": "x"}}}
    found = findings(data)
    assert [f.pointer for f in found] == ["/events/0", "/events/1", "/activities/low"]
    assert {f.line for f in found} == {None}


def test_a_waived_finding_stays_with_its_reason():
    found = findings({**GROWING, "waive": {"no-monitor": "a short run"}})
    assert [(f.code, f.waived) for f in found] == [("no-monitor", "a short run")]


def test_a_waiver_does_not_reach_errors():
    data = {**SHORT, "waive": {"dead-end": "for later"}}
    data["stages"] = {**SHORT["stages"], "train": {"kind": "train"}}
    found = findings(data)
    assert [(f.code, f.severity, f.waived) for f in found][:2] == [
        ("cannot-waive", "error", None),
        ("dead-end", "error", None),
    ]


def test_a_missing_name_is_not_followed_by_what_it_causes():
    data = {**SHORT, "stages": {**SHORT["stages"], "train": {**SHORT["stages"]["train"]}}}
    data["stages"]["train"]["next"] = "finish"
    assert [f.code for f in findings(data)] == ["unknown-target"]


def test_a_group_that_is_put_in_twice_is_reported_at_its_own_place():
    group = {
        "initial": "a",
        "stages": {
            "a": {"kind": "settle", "lr_factor": 1, "duration": "9 steps", "next": "b"},
            "b": {"kind": "final"},
        },
    }
    data = {
        "initial": "c1",
        "graphs": {"cycle": group},
        "stages": {
            "c1": {"use": "cycle", "next": "c2"},
            "c2": {"use": "cycle", "next": "done"},
            "done": {"kind": "final"},
        },
    }
    found = findings(data)
    assert {f.pointer for f in found} == {"/graphs/cycle/stages/a/lr_factor"}
    assert [f.message.split(" ")[0] for f in found] == ["'c1.a'", "'c2.a'"]


def test_the_text_of_a_finding_names_place_code_and_remedy():
    text = "stagegraph: 1\nname: x\ninitial: a\nstages:\n  a: {kind: final}\n  b: {kind: final}\n"
    (finding,) = check(load(text))
    assert str(finding) == (
        "<text>:6: /stages/b error [unreachable-stage] no path from 'a' leads to 'b'\n"
        "    let a transition, an interrupt or a 'next' lead to it, or take it out"
    )
    assert finding.to_json()["line"] == 6


def test_checking_twice_gives_the_same():
    graph = load(DOCUMENTS[0])
    assert check(graph) == check(graph)


def test_an_interrupt_to_a_missing_stage_says_which_was_meant():
    data = {**SHORT, "interrupts": [{"name": "out", "target": "dome", "when": "step > 5"}]}
    (finding,) = findings(data)
    assert finding.pointer == "/interrupts/0/target"
    assert "did you mean 'done'?" in finding.message
