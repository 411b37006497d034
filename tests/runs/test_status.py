"""A run's sign of life, and what it says of who runs a folder."""

import math

import pytest

from stagegraph.runs.status import MOST_BYTES, Place, presence, read_status, write_status


def test_a_status_is_written_over_and_read(tmp_path):
    write_status(tmp_path, {"step": 1})
    write_status(tmp_path, {"step": 2, "loss": math.nan, 3: (math.inf, None, object)})
    found = read_status(tmp_path)
    assert found["step"] == 2 and found["loss"] == "nan" and found["3"][:2] == ["inf", None]
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b"[" * 9999, b" " * (MOST_BYTES + 1)])
def test_what_is_no_status_is_none(tmp_path, content):
    assert read_status(tmp_path) is None
    (tmp_path / "status.json").write_bytes(content)
    assert read_status(tmp_path) is None


@pytest.mark.parametrize(
    ("status", "running", "words"),
    [
        (None, False, "no process has run it"),
        ({"written": 100.0, "state": "running", "host": "elsewhere"}, True, "it runs"),
        ({"written": 100.0, "state": "paused", "host": "elsewhere"}, True, "it is paused"),
        ({"written": 10.0, "state": "running", "host": "x"}, False, "no sign of life for 91 s"),
        ({"written": 100.0, "state": "closed"}, False, "its process has left it"),
        ({"written": "?", "state": "running"}, False, "no sign of life for inf s"),
        ({"written": 100.0, "host": Place.here().host, "pid": 2**22 + 1}, False, "is gone"),
    ],
)
def test_whether_somebody_runs_a_folder_is_told_by_its_status(status, running, words):
    found = presence(status, now=101.0)
    assert found.running is running and words in found.words
