"""The manifest: what was written is read back, and nothing else is."""

import contextlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagegraph.runs.durable import Written
from stagegraph.runs.lines import Mark
from stagegraph.runs.manifest import Manifest, NewerFormat
from stagegraph.runs.sealed import Unsealed, seal, unseal

WHOLE = Manifest(
    number=7,
    parent=5,
    run="a",
    step=10,
    boundary=11,
    why="due",
    metrics={"loss": 0.5},
    journal=Mark(3, 400, "0123abcd"),
    about={"stages": {"main": "train"}, "größe": [1, None, True]},
    files={"engine.json": Written(13, "0" * 64), "empty": Written(0, "f" * 64)},
)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text() | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def test_what_was_written_is_read_back():
    assert Manifest.from_bytes(WHOLE.to_bytes()) == WHOLE


@settings(max_examples=200, deadline=None)
@given(
    metrics=st.dictionaries(st.text(), st.floats()),
    why=st.text(),
    about=st.dictionaries(st.text(), plain, max_size=3),
)
def test_anything_that_can_be_said_is_read_back(metrics, why, about):
    manifest = Manifest(1, None, "", 0, 0, why, metrics, Mark(0, 0, ""), about)
    try:
        content = manifest.to_bytes()
    except ValueError:
        return  # a number with too many digits
    read = Manifest.from_bytes(content)
    assert (read.why, read.about) == (why, about)
    for name, value in metrics.items():
        found = read.metrics[name]
        assert found == value if math.isfinite(value) else math.isnan(found)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_what_says_anything_else_is_refused_or_a_manifest(data):
    said = unseal(WHOLE.to_bytes())
    place = data.draw(st.sampled_from([(), ("journal",), ("files",), ("files", "engine.json")]))
    inner = said
    for key in place:
        inner = inner[key]
    key = data.draw(st.sampled_from(sorted(inner)) | st.text())
    if data.draw(st.booleans()):
        inner.pop(key, None)
    elif (key, place) != ("sha256", ()):
        inner[key] = data.draw(plain)
    try:
        content = seal(said)
    except ValueError:
        return
    with contextlib.suppress(Unsealed, NewerFormat):
        assert isinstance(Manifest.from_bytes(content), Manifest)


@settings(max_examples=300, deadline=None)
@given(content=st.binary() | st.text().map(str.encode))
def test_no_bytes_are_a_manifest_by_chance(content):
    with pytest.raises(Unsealed):
        Manifest.from_bytes(content)


def test_sealed_data_is_not_taken_apart():
    for content, told in [
        (b"", "its end, with the checksum, is missing"),
        (WHOLE.to_bytes()[:-1], "its end, with the checksum, is missing"),
        (WHOLE.to_bytes().replace(b'"due"', b'"duo"'), "its checksum does not fit what it says"),
        (WHOLE.to_bytes() + b"\n", "its end, with the checksum, is missing"),
    ]:
        with pytest.raises(Unsealed, match=told):
            unseal(content)
    with pytest.raises(ValueError, match="none that is 'sha256'"):
        seal({"a": 1, "sha256": "x"})
