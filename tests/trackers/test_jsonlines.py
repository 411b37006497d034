"""JSON lines: the journal of an engine that has no folder."""

import io
import json

import pytest

import stagegraph as sg
from stagegraph.trackers import JsonLines
from tests.trackers.running import resumed, training, whole


def test_the_file_has_every_record(tmp_path):
    run = whole(JsonLines(tmp_path / "records.jsonl"))
    run.engine.close()
    assert JsonLines.read(tmp_path / "records.jsonl") == json.loads(json.dumps(run.records))


def test_a_stream_gets_plain_lines_and_stays_open():
    out = io.StringIO()
    run = whole(JsonLines(out))
    run.engine.close()
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert lines == json.loads(json.dumps(run.records))


def test_after_a_loaded_state_each_record_counts_once(tmp_path):
    """Without a folder: the state is the user's to keep."""
    expected = whole()
    path = tmp_path / "records.jsonl"
    run = training(JsonLines(path))
    run.engine.start()
    run.go(13)
    saved, snapshots = run.save(), run.engine.snapshots()
    run.go(4)
    again = training(JsonLines(path)).load(saved)
    again.engine.load_snapshots(snapshots)
    again.go().engine.close()
    records = JsonLines.read(path)
    assert [r["type"] for r in records].count("resume") == 1
    told = [r for r in records if r["type"] != "resume"]
    assert places(told) == places(expected.records)
    assert len(path.read_text().splitlines()) > len(records)  # what was lost is still there


def places(records):
    return [(r["type"], r["step"], r["boundary"], r.get("name"), r.get("target")) for r in records]


@pytest.mark.slow
def test_beside_a_folder_it_goes_on_too(tmp_path):
    how = sg.Checkpoints(every="4 steps", background=False)
    for path in (tmp_path / "first.jsonl", tmp_path / "later.jsonl"):
        run = training(JsonLines(path), run=tmp_path / path.stem, checkpoints=how)
        run.engine.start()
        run.go(11).engine.close()
        if path.stem == "later":  # a tracker that was not there before
            path.unlink()
        resumed(JsonLines(path), run=tmp_path / path.stem, checkpoints=how).go().engine.close()
        moves = [r["boundary"] for r in JsonLines.read(path) if r["type"] == "move"]
        assert moves == [0, 3, 7, 10, 12, 15, 17, 20, 22]


def test_a_file_of_another_run_is_refused(tmp_path):
    path = tmp_path / "records.jsonl"
    whole(JsonLines(path)).engine.close()
    with pytest.raises(sg.RunFolderError, match="of an earlier run"):
        whole(JsonLines(path))
