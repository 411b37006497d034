"""Laws of the checks, over random graphs."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings

from stagegraph.graph.check import check
from stagegraph.graph.rules import RULES
from stagegraph.schema.load import load
from tests.graph.graphs import chains, documents

RELAXED = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@RELAXED
@given(documents())
def test_no_graph_makes_the_checks_fail(data):
    graph = load(data)
    found = check(graph)
    assert all(RULES[f.code].severity == f.severity for f in found)
    assert all(f.message and f.remedy for f in found)
    assert len(set(found)) == len(found)
    assert check(graph) == found


@RELAXED
@given(documents())
def test_errors_are_never_waived(data):
    found = check(load(data))
    assert not [f for f in found if f.severity == "error" and f.waived is not None]


@RELAXED
@given(chains())
def test_sound_graphs_have_no_errors(data):
    assert [str(f) for f in check(load(data)) if f.severity == "error"] == []
