"""Laws of the templates, for any fields: what they expand to is sound, plain and the same run."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import stagegraph as sg
from stagegraph.graph.compile import compile_graph
from stagegraph.schema.stages import UseTemplate
from stagegraph.schema.templates.template import UseRegions
from tests.engine.driving import Run
from tests.properties.templates import EVENTS, METRICS, built_graphs, overlappings, regions_of

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
few = settings(max_examples=15, suppress_health_check=SLOW)
many = settings(max_examples=1000, suppress_health_check=SLOW)

values = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, -1.0, math.nan, math.inf, 1e300])
updates = st.fixed_dictionaries({}, optional={"m": values, "n": values, "ping": st.just(None)})
streams = st.lists(updates, min_size=5, max_size=60)


def run_of(graph):
    costs = {key: 10 for key, stage in compile_graph(graph)[0].stages.items() if stage.growths}
    run = Run(json.loads(sg.dump(graph, "json")), params=100, costs=costs)
    run.core.start()
    return run


def update(run, given):
    given = dict(given)
    if "ping" in given:
        del given["ping"]
        run.core.send("ping")
    run.core.step(**given)
    if run.core.wants_evaluation:
        run.core.observe(m=given.get("m", 1.0))


def machine(graph):
    """Everything that a compiled graph says but where it is written."""
    compiled, problems = compile_graph(graph)
    assert problems.found == {}
    return without_pointers(compiled.regions), without_pointers(dict(compiled.stages))


def without_pointers(value):
    if is_dataclass(value):
        names = [field.name for field in fields(value) if field.name != "pointer"]
        return {name: without_pointers(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {key: without_pointers(one) for key, one in value.items()}
    if isinstance(value, tuple):
        return [without_pointers(one) for one in value]
    return value


def plain(graph):
    if isinstance(graph.regions, UseRegions):
        return False
    stages = [r.stages for r in graph.all_regions.values()]
    stages += [sub.stages for sub in graph.graphs.values()]
    return not any(isinstance(s, UseTemplate) for group in stages for s in group.values())


def is_sound_and_ends(graph, formula):
    assert [str(f) for f in sg.check(graph) if f.severity == "error"] == []
    costs = {key: 10 for key, stage in compile_graph(graph)[0].stages.items() if stage.growths}
    plan = sg.simulate(
        graph, metrics={"m": formula, "n": formula}, params=100, costs=costs, max_steps=2000
    )
    assert plan.ended in ("final", "stop")
    assert plan.ended == "final" or "stop" in sg.dump(graph)


def expands_to_the_same(graph, stream):
    expanded = sg.expand(graph)
    assert plain(expanded)
    assert sg.expand(expanded) is expanded
    assert sg.load(sg.dump(expanded)) == expanded
    assert sg.digest(sg.load(sg.dump(expanded, "json"))) == sg.digest(expanded)
    assert machine(expanded) == machine(graph)
    # as sets: equal templates share an entry, and so what is found in it
    assert {(f.code, f.severity) for f in sg.check(expanded)} == {
        (f.code, f.severity) for f in sg.check(graph)
    }
    runs = run_of(graph), run_of(expanded)
    for given_ in stream:
        for run in runs:
            update(run, given_)
    assert list(runs[0]) == list(runs[1])
    assert runs[0].actor.boundaries == runs[1].actor.boundaries
    assert runs[0].actor.tuned == runs[1].actor.tuned


def resumes_anywhere(graph, stream, cut):
    run = run_of(graph)
    for given_ in stream[:cut]:
        update(run, given_)
    other, already = run.resumed(), len(run)
    assert other.actor.deeds == [], "no entry action runs again"
    for given_ in stream[cut:]:
        update(run, given_)
        update(other, given_)
    assert run.core.state_dict() == other.core.state_dict()
    assert run[already:] == list(other)


def curve(numbers):
    return lambda step: numbers[step % len(numbers)]


finite = st.lists(st.floats(-2, 4), min_size=1, max_size=12)


@few
@given(built_graphs(), finite)
def test_any_fields_make_a_sound_graph_that_ends(graph, numbers):
    is_sound_and_ends(graph, curve(numbers))


@few
@given(built_graphs(), streams)
def test_the_expanded_graph_is_plain_and_decides_the_same(graph, stream):
    expands_to_the_same(graph, stream)


@few
@given(overlappings(), st.none() | st.integers(1, 4))
def test_regions_by_a_template_are_those_of_the_builder(template, overlap):
    common = {"name": "x", "metrics": METRICS, "events": EVENTS}
    said = {} if overlap is None else {"max_overlap": overlap}
    used = sg.load({"stagegraph": 1, **common, **said, "regions": regions_of(template)})
    every = {name: template.priorities.get(name, 0) for name in template.growths}
    built = sg.overlapping(
        template.growths, priorities=every, watch=template.watch, **said, **common
    )
    assert sg.expand(used) == sg.expand(built)
    assert machine(used) == machine(built)


@few
@given(built_graphs(), streams, st.data())
def test_resuming_anywhere_changes_nothing(graph, stream, data):
    resumes_anywhere(graph, stream, data.draw(st.integers(0, len(stream))))


@pytest.mark.slow
@many
@given(built_graphs(), finite)
def test_any_fields_make_a_sound_graph_that_ends_in_many(graph, numbers):
    is_sound_and_ends(graph, curve(numbers))


@pytest.mark.slow
@many
@given(built_graphs(), streams)
def test_many_expanded_graphs_decide_the_same(graph, stream):
    expands_to_the_same(graph, stream)


@pytest.mark.slow
@settings(many, max_examples=300)
@given(built_graphs(), streams)
def test_resuming_at_every_update_changes_nothing(graph, stream):
    for cut in range(len(stream) + 1):
        resumes_anywhere(graph, stream, cut)
