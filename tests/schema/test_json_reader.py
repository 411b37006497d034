from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagegraph.schema.json_reader import read_json

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=20,
)


@given(PLAIN, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_reads_what_json_writes(data, indent, ascii_only):
    text = json.dumps(data, indent=indent, ensure_ascii=ascii_only)
    reading = read_json(text)
    assert reading.defects == []
    assert reading.data == data
    assert json.dumps(reading.data) == json.dumps(data)


@given(st.text())
def test_reads_or_refuses_any_text_as_json_does(text):
    reading = read_json(text)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        assert reading.defects
    else:
        if not reading.defects:
            assert reading.data == data


def test_positions_are_found_over_lines():
    reading = read_json('{\n  "a": {"b": [1,\n  "x"]}\n}')
    assert reading.positions["/a"] == (2, 3)
    assert reading.positions["/a/b"] == (2, 9)
    assert reading.positions["/a/b/1"] == (3, 3)
    assert reading.keys["/a/b"] == (2, 9)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 5000])
def test_numbers_that_are_not_finite_or_bounded_are_refused(text):
    assert len(read_json(f'{{"a": {text}}}').defects) == 1


def test_reading_goes_on_after_a_number_that_is_refused():
    assert len(read_json('{"a": NaN, "b": Infinity, "a": 1e999}').defects) == 4


@pytest.mark.parametrize("text", ["01", "1.", ".5", "+1", "0x1", "1_0", "١"])
def test_other_spellings_of_numbers_are_refused(text):
    assert read_json(text).defects


def test_half_a_surrogate_pair_is_refused():
    assert "surrogate" in read_json(r'"\ud800"').defects[0].message
    assert read_json(r'"\ud83d\ude00"').data == "😀"


def test_deep_nesting_is_refused_without_a_recursion_error():
    for text in ("[" * 100_000, '{"a":' * 100_000):
        assert "nested deeper than 64" in read_json(text).defects[0].message
    assert read_json("[" * 64 + "]" * 64).defects == []
