from __future__ import annotations

import pytest

from stagegraph.schema.load import load
from stagegraph.schema.yaml_reader import read_yaml


def value(text):
    reading = read_yaml(f"a: {text}\n")
    assert reading.defects == []
    return reading.data["a"]


@pytest.mark.parametrize(
    "text",
    [
        "on",
        "off",
        "yes",
        "no",
        "y",
        "n",
        "On",
        "NO",
        "1_000",
        "2024-01-01",
        "1:30",
        "0b1",
        "1e",
        "0o9",
        "0xg",
        "20k",
        "5%",
        "nULL",
        "tRUE",
        "+.",
        ".",
        "1.2.3",
        "=",
        "+0x1",
    ],
)
def test_yaml_1_1_scalars_are_texts(text):
    assert value(text) == text


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("012", 12),
        ("-7", -7),
        ("+7", 7),
        ("0o17", 15),
        ("0xfF", 255),
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1.5e+2", -150.0),
    ],
)
def test_numbers_are_those_of_the_core_schema(text, number):
    assert value(text) == number
    assert type(value(text)) is type(number)


@pytest.mark.parametrize(
    ("text", "constant"),
    [("true", True), ("False", False), ("TRUE", True), ("null", None), ("~", None), ("Null", None)],
)
def test_constants_are_those_of_the_core_schema(text, constant):
    assert value(text) is constant


@pytest.mark.parametrize("text", ["1", "true", "null", "", "1e3", "~"])
def test_quoted_scalars_are_texts(text):
    assert value(f'"{text}"') == text
    assert value(f"'{text}'") == text
    assert read_yaml(f"a: |-\n  {text}\n").data["a"] == text


def test_keys_are_always_texts():
    assert list(read_yaml("1: a\non: b\nnull: c\ntrue: d\n1e3: e\n").data) == [
        "1",
        "on",
        "null",
        "true",
        "1e3",
    ]


@pytest.mark.parametrize("text", [".inf", "-.INF", "+.Inf", ".nan", ".NaN", "1e999", "-1e999"])
def test_numbers_that_are_not_finite_are_refused(text):
    reading = read_yaml(f"a: {text}\n")
    assert reading.defects[0].pointer == "/a"


@pytest.mark.parametrize("text", ["1" + "0" * 19, "0x" + "f" * 30, "0o" + "7" * 500, "9" * 9999])
def test_huge_whole_numbers_are_refused(text):
    assert "out of bounds" in read_yaml(f"a: {text}\n").defects[0].message


def test_positions_are_of_keys_for_collections_and_of_values_for_scalars():
    reading = read_yaml("a:\n  b: [1, {c: 2}]\n  d/e~f: x\n")
    assert reading.positions["/a"] == (1, 1)
    assert reading.positions["/a/b"] == (2, 3)
    assert reading.positions["/a/b/1"] == (2, 10)
    assert reading.positions["/a/b/1/c"] == (2, 14)
    assert reading.positions["/a/d~1e~0f"] == (3, 10)
    assert reading.keys["/a/d~1e~0f"] == (3, 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x 1", "anchor &x"),
        ("a: *x", "alias *x"),
        ("a: !!int 1", "tag !!int"),
        ("a: !x 1", "tag !x"),
        ("a: !<x:y> 1", "tag x:y"),
        ("a: ! 1", "tag !"),
        ("<<: {a: 1}", "merge keys"),
        ("a: 1\na: 2", "stands twice"),
        ("? [a]\n: b", "a key is a text"),
        ("&x a: b", "a key has no anchor"),
        ("*x : b", "a key is a text"),
        ("a: 1\n--- \nb: 2", "second document"),
    ],
)
def test_what_json_does_not_have_is_refused(text, words):
    assert words in read_yaml(text).defects[0].message


def test_all_that_is_refused_is_said_at_once():
    reading = read_yaml("a: &x 1\nb: *x\nc: 1\nc: [*x, {d: *x}]\nd: !t 1\n")
    assert [defect.line for defect in reading.defects] == [1, 2, 4, 5]


def test_a_quoted_merge_key_is_a_key():
    assert read_yaml('"<<": 1').data == {"<<": 1}


def test_a_single_document_may_have_its_marks():
    assert read_yaml("%YAML 1.2\n---\na: 1\n...\n").data == {"a": 1}


def test_without_libyaml_small_documents_are_read_the_same(monkeypatch):
    text = "a: [1, on, {b: 'x: y'}]\nc: |\n  text\n"
    fast = read_yaml(text)
    monkeypatch.setattr("stagegraph.schema.yaml_reader._LOADER", None)
    slow = read_yaml(text)
    assert (slow.data, slow.positions) == (fast.data, fast.positions)
    assert "without libyaml" in read_yaml("a: " + "x" * 60_000).defects[0].message


@pytest.mark.parametrize("quote", ["'", '"'])
def test_texts_in_quotes_are_whole_whatever_brackets_they_hold(quote):
    text = f"""
stagegraph: 1
name: x
initial: a
stages:
  a:
    kind: grow
    actions: [{{type: deepen, stack: s, add: 1, zero: [{quote}({quote}, {quote}){quote}]}}]
    next: b
  b: {{kind: final}}
"""
    assert load(text).stages["a"].actions[0].zero == ("(", ")")
