"""JSON, YAML and Python are three spellings of one graph (S22)."""

from __future__ import annotations

import json
import random

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from stagegraph.schema.dump import canonical, digest, dump
from stagegraph.schema.guard_text import format_guard, parse_expression, parse_guard
from stagegraph.schema.guards import GUARD_CALLS
from stagegraph.schema.load import load
from tests.properties.strategies import durations, expressions, graphs, guards, sound_graphs

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
few = settings(max_examples=12, suppress_health_check=SLOW)
sound = settings(max_examples=25, suppress_health_check=SLOW)
many = settings(max_examples=400, suppress_health_check=SLOW)


def yaml_json_and_python_are_lossless(graph):
    for again in (load(dump(graph, "yaml")), load(dump(graph, "json")), made_by_python(graph)):
        assert again == graph
        assert hash(again) == hash(graph)
        assert canonical(again) == canonical(graph)


def made_by_python(graph):
    names: dict[str, object] = {}
    source = dump(graph, "python").removeprefix("import stagegraph as sg\n")
    exec(source.replace("sg.load", "load"), {"load": load}, names)
    return names["graph"]


def canonical_form_is_lossless_and_stable(graph):
    text = canonical(graph)
    again = load(text)
    assert canonical(again) == text
    assert digest(again) == digest(graph)
    assert again.model_copy(update={"schema_": graph.schema_}) == graph


def models_dump_what_loads(graph):
    assert load(graph.model_dump(by_alias=True)) == graph
    assert load(graph.model_dump(mode="json", by_alias=True, exclude_defaults=True)) == graph


def other_yaml_readers_read_the_same(graph):
    text = dump(graph, "yaml")
    assert yaml.safe_load(text) == json.loads(dump(graph, "json"))


forms = pytest.mark.parametrize(
    "see_that",
    [
        yaml_json_and_python_are_lossless,
        canonical_form_is_lossless_and_stable,
        models_dump_what_loads,
        other_yaml_readers_read_the_same,
    ],
    ids=lambda law: law.__name__,
)


@forms
@few
@given(graph=graphs())
def test_of_any_graph(see_that, graph):
    see_that(graph)


@pytest.mark.slow
@forms
@many
@given(graph=graphs())
def test_of_many_graphs(see_that, graph):
    see_that(graph)


def order_of_keys_means_nothing(graph, rng):
    assert digest(load(shuffled(json.loads(dump(graph, "json")), rng))) == digest(graph)


@few
@given(graphs(), st.randoms(use_true_random=False))
def test_order_of_keys_means_nothing(graph, rng):
    order_of_keys_means_nothing(graph, rng)


@pytest.mark.slow
@many
@given(graphs(), st.randoms(use_true_random=False))
def test_order_of_keys_means_nothing_in_many_graphs(graph, rng):
    order_of_keys_means_nothing(graph, rng)


def shuffled(data, rng: random.Random):
    if isinstance(data, dict):
        items = [(key, shuffled(value, rng)) for key, value in data.items()]
        rng.shuffle(items)
        return dict(items)
    return [shuffled(value, rng) for value in data] if isinstance(data, list) else data


WORDS_OF_GUARDS = {"and", "or", "not", *GUARD_CALLS}
"""Nothing forbids to call a stage so, but a string with such a name reads as something else."""


@given(guards())
def test_guard_strings_read_back_as_their_tree(guard):
    text = format_guard(guard)
    assume(len(text) <= 2000 and not texts_in(guard.model_dump()) & WORDS_OF_GUARDS)
    assert parse_guard(text) == guard


@given(expressions())
def test_expressions_read_back_as_their_tree(expression):
    named = texts_in(expression if isinstance(expression, float) else expression.model_dump())
    assume(not named & WORDS_OF_GUARDS)
    assert parse_expression(format_guard(expression)) == expression


def texts_in(data):
    if isinstance(data, dict):
        return {word for key, value in data.items() if key != "type" for word in texts_in(value)}
    if isinstance(data, list | tuple):
        return {word for value in data for word in texts_in(value)}
    return set(data.replace(":", ".").split(".")) if isinstance(data, str) else set()


@given(durations())
def test_durations_read_back(duration):
    assert type(duration).parse(str(duration)) == duration


@sound
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


@sound
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
