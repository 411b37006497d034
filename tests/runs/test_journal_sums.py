"""The journal's checksums: damage is found and named; a resume follows the line it goes on from."""

import errno
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagegraph.errors import RunFolderError
from stagegraph.runs import lines
from stagegraph.runs.journal import Journal, Mark, read_journal, read_tail
from tests.runs import disks

OLD = sorted((Path(__file__).parents[1] / "data" / "journals").glob("*.jsonl"))
NOTHING = Mark(0, 0, "00000000")


def note(number, **values):
    return {"type": "note", "step": number, **values}


def written(path, count=5):
    """A journal of so many lines, and the mark before each and after the last."""
    marks = []
    with Journal(path) as journal:
        for number in range(1, count + 1):
            marks.append(journal.mark)
            journal.write((note(number, text=f"größer {number}"),))
        marks.append(journal.sync())
    return marks


def steps(records):
    return [record["step"] for record in records]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.jsonl"


@pytest.fixture
def marks(path):
    return written(path)


def test_each_line_ends_with_its_checksum_and_the_first_says_the_format(path, marks):
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert all(list(row)[-1] == "sum" and len(row["sum"]) == 8 for row in rows)
    assert [row.get("format") for row in rows] == [2, None, None, None, None]
    assert read_journal(path)[0] == note(1, text="größer 1"), "both are the journal's own"
    assert marks[-1] == Mark(5, path.stat().st_size, rows[-1]["sum"])
    assert marks[0] == NOTHING


# Damage


def test_no_flipped_bit_goes_unseen(path):
    written(path, 3)
    whole, records = path.read_bytes(), read_journal(path)
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            found = read_journal(path)
        except RunFolderError:
            continue
        assert bit // 8 == len(whole) - 1 and found == records[:-1], "a torn last line is told"
        assert read_tail(path, NOTHING).torn > 0


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda rows: rows[:1] + rows[2:], 2),
        (lambda rows: rows[:2] + rows[1:], 3),
        (lambda rows: [rows[0], rows[2], rows[1], *rows[3:]], 2),
        (lambda rows: rows[1:], 1),
        (lambda rows: [*rows, rows[-1]], 6),
        (lambda rows: [*rows[:3], b"\n", *rows[3:]], 4),
        (lambda rows: [*rows[:3], bytes(40) + b"\n", *rows[3:]], 4),
        (lambda rows: [*rows[:3], rows[3][:-1] + rows[4]], 4),
    ],
)
def test_a_missing_doubled_displaced_or_foreign_line_is_named(path, marks, change, line):
    rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(change(rows)))
    with pytest.raises(RunFolderError, match=rf"journal\.jsonl:{line}: this line is damaged: "):
        read_journal(path)


def test_a_changed_line_is_named_with_the_way_out(path, marks):
    path.write_bytes(path.read_bytes().replace(b"er 3", b"er 4"))
    with pytest.raises(
        RunFolderError,
        match=r"jsonl:3: .* its checksum does not fit, so that it was changed, .* missing, doubled "
        r"or in another place; bring the file back as it was, or take the checkpoints away",
    ):
        read_journal(path)


def test_damage_ends_what_can_be_read_after_a_mark(path, marks):
    path.write_bytes(path.read_bytes().replace(b"er 4", b"er 5"))
    tail = read_tail(path, marks[1])
    assert steps(tail.records) == [2, 3]
    assert "jsonl:4: this line is damaged" in tail.damage
    assert tail.torn == 0


def test_a_damaged_journal_goes_on_only_from_before_the_damage(path, marks):
    path.write_bytes(path.read_bytes().replace(b"er 4", b"er 5"))
    with Journal(path, resume=True) as journal:
        with pytest.raises(RunFolderError, match=r"jsonl:4: .*goes on only from before that line"):
            journal.write((note(6),))
        with pytest.raises(RunFolderError, match=r"jsonl:4: this line is damaged"):
            journal.resume(marks[5], {"step": 5})
        journal.resume(marks[3], {"step": 3})
        journal.write((note(4),))
    assert steps(read_journal(path)) == [1, 2, 3, 3, 4]
    assert read_tail(path, marks[2]).damage is None
    with pytest.raises(RunFolderError, match="jsonl:4: this line is damaged"):
        read_journal(path, everything=True)


def test_going_on_with_a_torn_tail_tells_how_much_was_cut(path, marks):
    whole = path.read_bytes()
    for size in range(marks[4].bytes, len(whole) + 1):
        path.write_bytes(whole[:size])
        with Journal(path, resume=True) as journal:
            torn = 0 if size == len(whole) else size - marks[4].bytes
            assert journal.cut == torn
            assert journal.mark == (marks[5] if size == len(whole) else marks[4])
            journal.write((note(9),))
        assert steps(read_journal(path))[-1] == 9


# Resume


def test_after_a_resume_only_what_it_keeps_counts(path, marks):
    with Journal(path, resume=True) as journal:
        journal.resume(marks[2], {"step": 2, "why": "crash", "type": "other", "keep": 77})
        journal.write((note(3), note(4)))
    assert steps(read_journal(path)) == [1, 2, 2, 3, 4]
    assert read_journal(path)[2] == {"type": "resume", "keep": 2, "step": 2, "why": "crash"}
    assert steps(read_journal(path, everything=True)) == [1, 2, 3, 4, 5, 2, 3, 4]
    assert steps(read_tail(path, marks[1]).records) == [2, 2, 3, 4]
    assert steps(read_tail(path, marks[2]).records) == [2, 3, 4]
    assert read_tail(path, marks[3]).records == (), "what follows it was lost"
    assert steps(read_tail(path, NOTHING).records) == [1, 2, 2, 3, 4]


def test_a_resume_may_go_back_behind_another_and_into_what_it_left(path, marks):
    with Journal(path, resume=True) as journal:
        journal.resume(marks[4], {"step": 40})
        after = journal.mark
        journal.write((note(5),))
        journal.resume(marks[1], {"step": 10})
        assert steps(read_journal(path)) == [1, 10]
        journal.resume(after, {"step": 50})
        assert steps(read_journal(path)) == [1, 2, 3, 4, 40, 50]
        journal.resume(NOTHING, {"step": 0})
        journal.write((note(1),))
    assert steps(read_journal(path)) == [0, 1]


def test_a_mark_of_another_journal_is_refused(path, marks, tmp_path):
    other = tmp_path / "other.jsonl"
    with Journal(other) as journal:
        for number in range(1, 6):
            journal.write((note(number, text=f"grösser {number}"),))
    with pytest.raises(RunFolderError, match=r"other\.jsonl:3: this is not the line after which"):
        read_tail(other, marks[3])
    with (
        Journal(other, resume=True) as journal,
        pytest.raises(RunFolderError, match="it is another run's journal; bring the right one"),
    ):
        journal.resume(marks[5], {"step": 0})


def test_a_journal_that_lost_lines_is_refused(path, marks):
    path.write_bytes(path.read_bytes()[: marks[2].bytes])
    with pytest.raises(
        RunFolderError,
        match=r"ends after line 2, and the checkpoint was made after line 4: lines were lost",
    ):
        read_tail(path, marks[4])


# Formats


@pytest.mark.parametrize("old", OLD, ids=lambda path: path.stem)
def test_old_journals_are_read_and_not_gone_on_with(old, path):
    rows = [json.loads(line) for line in old.read_text().splitlines()]
    assert read_journal(old) == rows
    shutil.copy(old, path)
    with pytest.raises(RunFolderError, match="is of format 1, which can be read but not gone on"):
        Journal(path, resume=True)
    assert path.read_bytes() == old.read_bytes()
    assert read_tail(path, NOTHING).records == tuple(rows)


def test_a_line_without_a_checksum_has_no_place_among_those_with_one(path, marks):
    with path.open("a") as file:
        file.write('{"type":"note","step":6}\n')
    with pytest.raises(
        RunFolderError, match=r"jsonl:6: .*its end, with the checksum, is not as it"
    ):
        read_journal(path)


def test_a_line_with_a_checksum_has_no_place_among_those_without(path, marks):
    rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b'{"type":"note","step":1}\n' + rows[1])
    with pytest.raises(RunFolderError, match=r"jsonl:2: .*it has a checksum, and the first line h"):
        read_journal(path)


@pytest.mark.parametrize("summed", [True, False])
def test_a_newer_format_is_no_damage(path, summed):
    body = b'{"format":3,"type":"note","step":1}'
    path.write_bytes(lines.sealed_line(body, lines.NO_SUM)[0] if summed else body + b"\n")
    for read in (read_journal, lambda path: Journal(path, resume=True)):
        with pytest.raises(
            RunFolderError, match=r"made by a newer stagegraph \(format 3; this one reads 2\)"
        ):
            read(path)


@pytest.mark.parametrize("key", ["sum", "format"])
def test_keys_of_the_journals_own_are_refused(path, key):
    with Journal(path) as journal:
        with pytest.raises(ValueError, match="are the journal's own"):
            journal.write((note(1), note(2, **{key: 1})))
        assert journal.mark == NOTHING


# Bounds


def test_a_line_without_bounds_is_refused(path, marks, monkeypatch):
    for module in ("lines", "journal"):
        monkeypatch.setattr(f"stagegraph.runs.{module}.MAX_LINE", 1000)
    with Journal(path, resume=True) as journal:
        with pytest.raises(
            RunFolderError, match=r"takes no record of 1,\d\d\d bytes \(type 'note'"
        ):
            journal.write((note(6), note(7, text="x" * 1000)))
        assert journal.mark == marks[5]
    with path.open("ab") as file:
        file.write(b"x" * 1001)
    with pytest.raises(RunFolderError, match="jsonl:6: this line is longer than 1,000 bytes"):
        read_journal(path)


@pytest.mark.parametrize("deep", ["[" * 50_000, '{"a":' * 50_000])
def test_a_line_without_a_bottom_is_damaged(path, marks, deep):
    with path.open("a") as file:
        file.write(deep + "\n")
    with pytest.raises(RunFolderError, match="jsonl:6: this line is damaged"):
        read_journal(path)


# Failures


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_an_error_at_every_call_takes_the_records_back(tmp_path, code):
    end = {"type": "end", "step": 9, "reason": "final"}

    def go(path, disk):
        told = []
        with Journal(path, disk=disk) as journal:
            for records in ((note(1),), (note(2), end), (note(3),)):
                try:
                    journal.write(records)
                except RunFolderError as error:
                    told.append(str(error))
                else:
                    kept.extend(records)
        return told

    kept, disk = [], disks.counting()
    go(tmp_path / "whole", disk)
    for at in range(1, len(disk.calls)):
        kept, path = [], tmp_path / str(at)
        (told,) = go(path, disks.failing(at, code))
        assert str(path) in told
        assert read_journal(path) == kept
        with Journal(path, resume=True) as journal:
            assert journal.cut == 0


def test_what_an_interruption_left_does_not_come_back(path):
    disk = disks.counting()
    with Journal(path, disk=disk) as journal:
        journal.write((note(1),))
        disk.before = disks.interrupted(disk.number).before
        with pytest.raises(KeyboardInterrupt):
            journal.write((note(2, text="long " * 50), note(3)))
        assert path.stat().st_size > journal.mark.bytes
        journal.write((note(4),))
    assert steps(read_journal(path)) == [1, 4]


def test_what_can_neither_be_cut_nor_covered_stops_the_journal(path):
    disk = disks.counting()
    with Journal(path, disk=disk) as journal:
        journal.write((note(1),))
        disk.before = disks.failing(disk.number, errno.EIO, times=3).before
        with pytest.raises(RunFolderError):
            journal.write((note(2, text="long " * 50), note(3)))
        with pytest.raises(RunFolderError, match="Input/output error"):
            journal.write((note(4),))
        journal.write((note(5),))
    assert steps(read_journal(path)) == [1, 5]


# Laws

records = st.dictionaries(
    st.text(max_size=5).filter(lambda key: key not in {"type", "step", "sum", "format", "keep"}),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)
happenings = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(records, min_size=1, max_size=3)),
        st.tuples(st.just("resume"), st.integers(0, 100)),
        st.tuples(st.just("tear"), st.integers(1, 200)),
        st.tuples(st.just("reopen"), st.none()),
    ),
    max_size=12,
)


@settings(max_examples=100, deadline=None)
@given(happenings=happenings)
def test_the_history_is_what_was_written_whatever_was_resumed_and_torn(
    tmp_path_factory, happenings
):
    path = tmp_path_factory.mktemp("laws") / "journal.jsonl"
    journal = Journal(path, disk=disks.QUICK)
    histories, marks = [[]], [journal.mark]
    for kind, value in happenings:
        if kind == "write":
            for record in value:
                journal.write(({"type": "note", "step": 1, **record},))
                histories.append([*histories[-1], len(histories)])
                marks.append(journal.mark)
        elif kind == "resume":
            keep = value % len(marks)
            journal.resume(marks[keep], {"step": 0})
            histories.append([*histories[keep], len(histories)])
            marks.append(journal.mark)
        else:
            journal.close()
            if kind == "tear":
                path.write_bytes(path.read_bytes()[:-value])
            journal = Journal(path, resume=True, disk=disks.QUICK)
            number = journal.mark.records
            assert journal.mark == marks[number]
            del histories[number + 1 :], marks[number + 1 :]
    journal.close()
    if len(marks) == 1:
        return
    everything = read_journal(path, everything=True)
    assert len(everything) == len(marks) - 1
    assert read_journal(path) == [everything[number - 1] for number in histories[-1]]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_change_of_any_kind_goes_unseen(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("laws") / "journal.jsonl"
    written(path, 6)
    whole, before = path.read_bytes(), read_journal(path)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(start + 60, len(whole))))
    put = data.draw(st.binary(max_size=60))
    path.write_bytes(whole[:start] + put + whole[end:])
    try:
        found = read_journal(path)
    except RunFolderError:
        return
    assert found == before[: len(found)]
    assert len(found) == 6 or end == len(whole)
