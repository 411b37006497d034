from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings

from stagegraph.schema.dump import canonical, dump
from stagegraph.schema.json_reader import read_json
from stagegraph.schema.json_schema import SCHEMA_NAME, json_schema, write
from stagegraph.schema.yaml_reader import read_yaml
from tests.properties.strategies import graphs

ROOT = Path(__file__).parent.parent.parent
DATA = ROOT / "tests" / "data"
COMMITTED = ROOT / "schemas" / SCHEMA_NAME
SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)

ONLY_THE_LOADER_SEES = {
    "metric-named-or",
    *("guard_amount_outside", "guard_bad_duration", "guard_in_double_quotes"),
    *("guard_in_single_quotes", "guard_is_a_number", "guard_of_a_reference"),
    *("guard_over_two_lines", "guard_unknown_argument", "guard_unknown_call"),
    *("guard_with_python", "json_guard", "growth_without_size", "plateau_told_twice"),
    *("ramp_that_stands_still", "trial_option_saves"),
}
"""What is wrong inside a guard string, or between keys."""


def reading(path):
    return (read_json if path.suffix == ".json" else read_yaml)(path.read_text(encoding="utf-8"))


def structurally_broken():
    for path in sorted((DATA / "broken").iterdir()):
        text = path.suffix != ".txt" and path.stem not in {"utf16", "latin1", "byte_order_mark"}
        if text and not reading(path).defects and path.stem not in ONLY_THE_LOADER_SEES:
            yield path


def test_committed_schema_is_fresh():
    said = json.loads(COMMITTED.read_text(encoding="utf-8"))
    assert said == SCHEMA, "stale: run `stagegraph schema` or stagegraph.schema.json_schema.write"


def test_write_writes_the_committed_bytes(tmp_path):
    assert write(tmp_path).read_bytes() == COMMITTED.read_bytes()


def test_schema_is_a_schema():
    jsonschema.Draft7Validator.check_schema(SCHEMA)


def test_valid_documents_validate(valid_documents):
    for path in valid_documents:
        assert list(VALIDATOR.iter_errors(reading(path).data)) == []


@pytest.mark.parametrize("path", list(structurally_broken()), ids=lambda path: path.stem)
def test_structurally_broken_documents_fail(path):
    assert list(VALIDATOR.iter_errors(reading(path).data))


@pytest.mark.parametrize("name", sorted(ONLY_THE_LOADER_SEES))
def test_what_only_the_loader_sees_is_no_error_in_an_editor(name):
    path = next((DATA / "broken").glob(f"{name}.*"))
    assert list(VALIDATOR.iter_errors(reading(path).data)) == []


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(graphs())
def test_what_is_dumped_validates(graph):
    VALIDATOR.validate(json.loads(dump(graph, "json")))
    VALIDATOR.validate(json.loads(canonical(graph)))


@pytest.mark.parametrize(
    ("broken", "place"),
    [
        ({"kind": "train", "duratoin": "1 steps"}, []),
        ({"kind": "grow", "actions": [{"type": "deepen", "add": 1}], "next": "a"}, ["actions", 0]),
        ({"kind": "settle", "lr_factor": 2}, ["lr_factor"]),
        ({"kind": "warmup", "during": [{"type": "freeze", "of": 3}]}, ["during", 0, "of"]),
        ({"kind": "nothing"}, ["kind"]),
        ({"use": "x"}, []),
    ],
)
def test_an_error_is_single_and_at_its_place(broken, place):
    graph = {"stagegraph": 1, "name": "x", "initial": "a", "stages": {"a": broken}}
    (error,) = VALIDATOR.iter_errors(graph)
    assert list(error.absolute_path) == ["stages", "a", *place]


def test_every_key_of_every_model_is_described():
    for name, model in SCHEMA["definitions"].items():
        for key, said in model.get("properties", {}).items():
            assert key in {"type", "kind"} or said.get("description"), f"{name}.{key}"


def test_patterns_are_those_of_javascript():
    for pattern in re.findall(r'"pattern": "(.*?)"', json.dumps(SCHEMA)):
        assert r"\z" not in pattern.lower()
    names = [key for model in walk(SCHEMA) for key in model.get("patternProperties", {})]
    assert names
    assert all(name.endswith("$") for name in names)


def walk(node):
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)
