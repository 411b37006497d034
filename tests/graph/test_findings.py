"""Each rule: a graph that breaks it, and the smallest change after which it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from stagegraph.graph.rules import RULES
from tests.graph.documents import FINDINGS, findings, mended, read_case

CASES = sorted(FINDINGS.glob("*.yaml"))


def test_every_rule_has_a_case_and_every_case_a_rule():
    assert {path.stem for path in CASES} == set(RULES)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_broken_graph_is_found(path: Path):
    case = read_case(path)
    found = {f.pointer: f for f in findings(case["bad"]) if f.code == path.stem}
    assert case["pointer"] in found, [str(f) for f in findings(case["bad"])]
    finding = found[case["pointer"]]
    assert finding.severity == case["severity"]
    assert case["says"] in finding.message
    assert finding.remedy
    assert finding.waived is None


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_the_mended_graph_passes(path: Path):
    case = read_case(path)
    found = findings(mended(case["bad"], case["mend"]))
    assert [str(f) for f in found if f.code == path.stem and f.waived is None] == []
    assert [str(f) for f in found if f.severity == "error"] == []
