"""JSON, YAML and Python are three spellings of one graph (S22)."""

from __future__ import annotations

import json
import random

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stagegraph.schema.dump import canonical, digest, dump
from stagegraph.schema.guard_text import format_guard, parse_expression, parse_guard
from stagegraph.schema.load import load
from tests.properties.strategies import durations, expressions, graphs, guards, sound_graphs

slow_data = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@slow_data
@given(graphs())
def test_yaml_is_lossless(graph):
    again = load(dump(graph, "yaml"))
    assert again == graph
    assert hash(again) == hash(graph)
    assert canonical(again) == canonical(graph)


@slow_data
@given(graphs())
def test_json_is_lossless(graph):
    again = load(dump(graph, "json"))
    assert again == graph
    assert canonical(again) == canonical(graph)


@slow_data
@given(graphs())
def test_canonical_form_is_lossless_and_stable(graph):
    text = canonical(graph)
    again = load(text)
    assert canonical(again) == text
    assert digest(again) == digest(graph)
    assert again.model_copy(update={"schema_": graph.schema_}) == graph


@slow_data
@given(graphs())
def test_python_is_lossless(graph):
    names: dict[str, object] = {}
    source = dump(graph, "python").replace("import stagegraph as sg", "import types")
    exec(source.replace("sg.load", "load"), {"load": load}, names)
    assert names["graph"] == graph


@slow_data
@given(graphs())
def test_models_dump_what_loads(graph):
    assert load(graph.model_dump(by_alias=True)) == graph
    assert load(graph.model_dump(mode="json", by_alias=True, exclude_defaults=True)) == graph
    assert load(json.loads(graph.model_dump_json(by_alias=True))) == graph


@slow_data
@given(graphs(), st.randoms(use_true_random=False))
def test_order_of_keys_means_nothing(graph, rng):
    assert digest(load(shuffled(json.loads(dump(graph, "json")), rng))) == digest(graph)


def shuffled(data, rng: random.Random):
    if isinstance(data, dict):
        items = [(key, shuffled(value, rng)) for key, value in data.items()]
        rng.shuffle(items)
        return dict(items)
    return [shuffled(value, rng) for value in data] if isinstance(data, list) else data


@slow_data
@given(graphs())
def test_other_yaml_readers_read_the_same(graph):
    text = dump(graph, "yaml")
    assert yaml.safe_load(text) == json.loads(dump(graph, "json"))


@slow_data
@given(graphs())
def test_everything_in_a_dump_has_its_place(graph):
    again = load(dump(graph, "yaml"))
    for name in again.metrics:
        line, column = again.source.position(f"/metrics/{name}") or (0, 0)
        assert line > 1
        assert column >= 1


@given(guards())
def test_guard_strings_read_back_as_their_tree(guard):
    text = format_guard(guard)
    words = {"and", "or", "not"}
    try:
        again = parse_guard(text)
    except ValueError:
        assert len(text) > 2000 or words & set(text.replace("(", " ").split()) or "(" in text
    else:
        assert again == guard or words & set(text.split())


@given(expressions())
def test_expressions_read_back_as_their_tree(expression):
    text = format_guard(expression)
    if not {"and", "or", "not"} & set(text.replace("(", " ").replace(")", " ").split()):
        try:
            assert parse_expression(text) == expression
        except ValueError as error:
            assert "with parentheses" in str(error)  # a metric that has the name of a call


@given(durations())
def test_durations_read_back(duration):
    assert type(duration).parse(str(duration)) == duration


@slow_data
@given(sound_graphs())
def test_sound_graphs_resolve_their_targets(graph):
    for region in graph.all_regions.values():
        assert region.initial in region.stages
        for stage in region.stages.values():
            ways = [way.target for way in getattr(stage, "transitions", ())]
            ways += [stage.next] if getattr(stage, "next", None) else []
            assert set(ways) <= set(region.stages)
        assert all(way.target in region.stages for way in region.interrupts)
    assert load(dump(graph)) == graph


@slow_data
@given(sound_graphs())
def test_sound_graphs_lead_from_start_to_end_through_every_stage(graph):
    for region in graph.all_regions.values():
        forth = {
            name: {way.target for way in getattr(stage, "transitions", ())}
            | {getattr(stage, "next", None) or name}
            for name, stage in region.stages.items()
        }
        assert closure(forth, region.initial) == set(region.stages)
        assert all("done" in closure(forth, name) for name in region.stages)


def closure(ways, start):
    seen, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(ways[name])
    return seen
