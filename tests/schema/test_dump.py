from __future__ import annotations

import json

import pytest

from stagegraph.errors import DocumentError, UnsupportedError
from stagegraph.schema.dump import canonical, digest, dump
from stagegraph.schema.guard_text import parse_guard
from stagegraph.schema.load import load
from stagegraph.schema.yaml_reader import read_yaml
from stagegraph.schema.yaml_writer import write_yaml


def graph_with(guard, **more):
    stages = {
        "a": {"kind": "train", "transitions": [{"target": "b", "when": guard}]},
        "b": {"kind": "final"},
    }
    return load({"stagegraph": 1, "name": "x", "initial": "a", "stages": stages, **more})


def test_guards_are_strings_in_yaml_and_trees_in_canonical_json():
    graph = graph_with({"type": "not", "of": {"type": "event", "event": "go"}})
    assert "when: not event(go)" in dump(graph)
    (way,) = json.loads(canonical(graph))["stages"]["a"]["transitions"]
    assert way["when"] == {"type": "not", "of": {"type": "event", "event": "go"}}


def test_a_guard_that_no_string_spells_is_written_as_a_tree():
    long = {"type": "any", "of": [f"metric_with_a_long_name_{i} < {i}" for i in range(150)]}
    graph = graph_with(long)
    assert load(dump(graph)) == graph
    assert "type: any" in dump(graph)
    assert "- metric_with_a_long_name_0 < 0" in dump(graph)
    name = {"type": "name", "name": "plateau"}
    odd = graph_with({"type": "compare", "left": name, "op": "<", "right": 1})
    assert load(dump(odd)) == odd


def test_spellings_of_one_meaning_have_one_digest():
    said = [
        graph_with("loss < 5% and (event(go))"),
        graph_with(
            {
                "of": ["loss < 0.05", {"event": "go", "type": "event"}],
                "type": "all",
            },
            max_overlap=1,
            events=[],
            **{"$schema": "x"},
        ),
    ]
    assert digest(said[0]) == digest(said[1])
    assert len(digest(said[0])) == 64
    assert digest(said[0]) != digest(graph_with("loss < 5% or event(go)"))


def test_canonical_form_is_pinned():
    assert canonical(graph_with("loss < -0.0", budget={"epochs": 2.0, "steps": "20k"})) == (
        '{"budget":{"epochs":2,"steps":20000},"initial":"a","name":"x","stagegraph":1,"stages":'
        '{"a":{"kind":"train","transitions":[{"target":"b","when":{"left":{"name":"loss","type":'
        '"name"},"op":"<","right":0,"type":"compare"}}]},"b":{"kind":"final"}}}'
    )


def test_guards_nested_too_deep_are_refused_however_they_are_written():
    tree = "loss < 1"
    for _ in range(30):
        tree = {"type": "not", "of": tree}
    with pytest.raises(DocumentError, match="nested deeper than 24"):
        graph_with(tree)
    with pytest.raises(ValueError, match="nested deeper than 24"):
        parse_guard("+".join(["a"] * 24) + " < 1")


def test_an_unknown_form_names_the_known_ones():
    with pytest.raises(UnsupportedError, match="did you mean 'yaml'"):
        dump(graph_with("event(go)"), "yml")


@pytest.mark.parametrize(
    "text",
    [
        *("on", "no", "~", "null", "", "1e3", "1.", "0x10", "0o7", "012", "1_0", "2024-01-01"),
        *("x: y", "a #b", "- a", "*a", "&a", "!a", "%", "@", "`", " a", "a ", "a\nb", "\r"),
        *("1:30", "\x85"),
    ],
)
def test_texts_come_back_from_yaml(text):
    data = {"a": text, "b": [text, {"c": text}], text: 1}
    assert read_yaml(write_yaml(data)).data == data


@pytest.mark.parametrize("number", [0, -1, 10**18, 0.1, 1e-5, -2.5e-300, 1e300, 5e-324, 1e16])
def test_numbers_come_back_from_yaml(number):
    assert read_yaml(write_yaml({"a": number})).data == {"a": number}
