"""The journal: whole lines or none, whatever fails."""

import errno
import json
import math
import os

import pytest

from stagegraph.errors import RunFolderError
from stagegraph.runs.journal import Journal, read_journal

MOVE = {
    "type": "move",
    "step": 1,
    "region": "a",
    "edge": "e",
    "source": None,
    "via": [],
    "target": "b",
}
METRIC = {"type": "metric", "step": 2, "name": "m", "value": 0.5}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.jsonl"


def test_what_was_written_is_read_back(path):
    with Journal(path) as journal:
        journal.write((MOVE, METRIC))
        journal.write(())
        journal.write(({"type": "note", "step": 3, "text": "größer ✓", "nothing": None},))
    assert read_journal(path) == [
        MOVE,
        METRIC,
        {"type": "note", "step": 3, "text": "größer ✓", "nothing": None},
    ]


def test_torn_last_line_is_not_a_record(path):
    with Journal(path) as journal:
        journal.write((MOVE, METRIC))
    whole = path.read_bytes()
    for cut in range(1, len(whole) + 1):
        path.write_bytes(whole[:-cut] if cut < len(whole) else b"")
        whole_lines = path.read_bytes().count(b"\n")
        if whole_lines:
            assert read_journal(path) == [MOVE, METRIC][:whole_lines]
        else:
            with pytest.raises(RunFolderError, match="holds no record: the run never began"):
                read_journal(path)


def test_going_on_cuts_the_torn_tail_off(path):
    with Journal(path) as journal:
        journal.write((MOVE, METRIC))
    path.write_bytes(path.read_bytes()[:-5])
    with Journal(path, resume=True) as journal:
        journal.write((METRIC,))
    assert read_journal(path) == [MOVE, METRIC]


def test_damaged_line_is_named(path):
    path.write_bytes(b'{"type":"note","step":1}\n{"type":"me\xfftric"}\n{"type":"end"}\n')
    with pytest.raises(RunFolderError, match=r"journal\.jsonl:2: this line is damaged"):
        read_journal(path)


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "1",
        "{}",
        "null",
        '{"type": 3, "step": 1}',
        '{"type": "note"}',
        '{"type": "note", "step": true}',
        '{"type": "metric", "step": 1}',
        '{"type": "end", "step": 1}',
    ],
)
def test_line_that_is_no_record_is_named(path, line):
    path.write_text(f'{{"type":"note","step":1}}\n{line}\n')
    with pytest.raises(RunFolderError, match=r"journal\.jsonl:2: this line is no record"):
        read_journal(path)


@pytest.mark.parametrize("line", ["[" * 100_000, "", "nonsense"])
def test_line_that_is_no_json_is_named(path, line):
    path.write_text(f"{line}\n")
    with pytest.raises(RunFolderError, match=r"journal\.jsonl:1: this line is damaged"):
        read_journal(path)


def test_missing_journal_cannot_be_read(path):
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_journal(path)


def test_earlier_journal_is_not_written_over(path):
    Journal(path).close()
    with pytest.raises(RunFolderError, match="holds the journal of an earlier run"):
        Journal(path)


def test_journal_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        Journal(tmp_path / "file" / "journal.jsonl")


class Failing:
    """A raw file that takes so many bytes and then fails, as often as told."""

    def __init__(self, file, room, failures):
        self.file, self.room, self.failures = file, room, failures

    def write(self, data):
        if self.failures and self.room < len(data):
            if self.room:
                written, self.room = self.file.write(data[: self.room]), 0
                return written
            self.failures -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 1, 10, 45, 60])
def test_failed_write_takes_back_half_written_lines(path, room):
    journal = Journal(path)
    journal.write((MOVE,))
    before = path.read_bytes()
    journal._file = Failing(journal._file, room, failures=2)
    for _ in range(2):
        with pytest.raises(RunFolderError, match="No space left on device"):
            journal.write((MOVE, METRIC))
        assert path.read_bytes() == before
    journal.write((METRIC,))
    journal.close()
    assert read_journal(path) == [MOVE, METRIC]


def test_what_cannot_be_cut_is_overwritten(path):
    journal = Journal(path)
    journal.write((MOVE,))
    failing = Failing(journal._file, 20, failures=1)
    failing.truncate = lambda size: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error"))
    journal._file = failing
    with pytest.raises(RunFolderError):
        journal.write((MOVE, METRIC))
    assert read_journal(path) == [MOVE], "half a line at the end is none"
    journal.write((METRIC, METRIC))
    journal.close()
    assert read_journal(path) == [MOVE, METRIC, METRIC]


@pytest.mark.parametrize("written_in_parts", [1, 7])
def test_short_writes_are_gone_on_with(path, written_in_parts):
    journal = Journal(path)
    whole = journal._file.write

    class Slow(Failing):
        def write(self, data):
            return whole(data[:written_in_parts])

    journal._file = Slow(journal._file, 0, 0)
    journal.write((MOVE, METRIC))
    journal.close()
    assert read_journal(path) == [MOVE, METRIC]


def test_moves_are_on_the_disk_when_write_returns_and_metrics_need_not_be(path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with Journal(path) as journal:
        journal.write((METRIC,))
        assert synced == []
        journal.write((METRIC, MOVE))
        assert len(synced) == 1


def test_failed_sync_takes_the_records_back(path, monkeypatch):
    def broken(descriptor):
        raise OSError(errno.EIO, "I/O error")

    journal = Journal(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(RunFolderError, match="I/O error"):
            journal.write((MOVE,))
    journal.close()
    assert path.read_bytes() == b""


def test_numbers_that_json_does_not_know_become_null(path):
    with Journal(path) as journal:
        journal.write(
            (
                {
                    "type": "growth",
                    "step": 1,
                    "certificate": {"drift": math.nan, "by": [math.inf, 1.5]},
                },
            )
        )
    assert "NaN" not in path.read_text()
    assert read_journal(path)[0]["certificate"] == {"drift": None, "by": [None, 1.5]}


def test_text_that_is_no_unicode_is_escaped(path):
    with Journal(path) as journal:
        journal.write(({"type": "error", "step": 1, "action": "a", "reason": "\ud800"},))
    assert json.loads(path.read_text())["type"] == "error"
    assert len(read_journal(path)) == 1


def test_record_that_is_no_json_at_all_writes_nothing(path):
    with Journal(path) as journal:
        with pytest.raises(TypeError):
            journal.write((MOVE, {"type": "x", "value": object()}))
        journal.write((METRIC,))
    assert read_journal(path) == [METRIC]
