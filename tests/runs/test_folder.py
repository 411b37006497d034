"""A run's folder: one run, its graph as it was written, and clear refusals."""

import errno
import json
import os

import pytest

from stagegraph.errors import DocumentError, RunFolderError
from stagegraph.runs.folder import RunFolder
from stagegraph.runs.journal import Mark
from stagegraph.runs.sealed import seal, unseal
from stagegraph.schema.dump import digest
from stagegraph.schema.load import load
from tests.runs import disks

TEXT = """\
# the author's own words
stagegraph: 1
name: short
initial: a
stages:
  a: {kind: train, duration: 10 steps, next: b}
  b: {kind: final}
"""

RUN = {"type": "run", "step": 0}


def test_folder_keeps_the_graph_that_ran_and_its_authors_bytes(tmp_path):
    graph = load(TEXT)
    folder = RunFolder(tmp_path / "deep" / "run")
    folder.create(graph).close()
    assert folder.graph() == graph
    assert (folder.path / "author.yaml").read_text() == TEXT
    with pytest.raises(RunFolderError, match="holds no record: the run never began"):
        folder.records()


def test_graph_that_was_no_text_has_no_authors_bytes(tmp_path):
    graph = load({"stagegraph": 1, "name": "x", "initial": "a", "stages": {"a": {"kind": "final"}}})
    folder = RunFolder(tmp_path)
    folder.create(graph).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "graph.json",
        "journal.jsonl",
        "lock",
        "run.json",
    ]


def test_json_graph_keeps_its_ending(tmp_path):
    source = tmp_path / "g.json"
    text = '{"stagegraph": 1, "name": "x", "initial": "a", "stages": {"a": {"kind": "final"}}}'
    source.write_text(text)
    folder = RunFolder(tmp_path / "run")
    folder.create(load(source)).close()
    assert (folder.path / "author.json").read_text() == text


def test_folder_of_an_earlier_run_is_refused_and_left_alone(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.create(load(TEXT)) as journal:
        journal.write((RUN,))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    other = load(TEXT.replace("short", "other"))
    with pytest.raises(RunFolderError, match="holds an earlier run already; choose another"):
        RunFolder(tmp_path).create(other)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    for path in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(RunFolderError, match="cannot be written"):
            RunFolder(path).create(load(TEXT))


def test_folder_in_place_of_a_file_is_refused(tmp_path):
    (tmp_path / "graph.json").mkdir()
    with pytest.raises(RunFolderError, match="cannot be written"):
        RunFolder(tmp_path).create(load(TEXT))
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunFolderError, match=r"report\.html cannot be written"):
        RunFolder(tmp_path).write_report("<html>")


def test_path_that_no_system_takes_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="cannot be written"):
        RunFolder(tmp_path / ("x" * 300)).create(load(TEXT))


def test_folder_without_a_run_says_what_is_missing(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(RunFolderError, match=r"holds no run: there is no graph\.json in it"):
        folder.graph()
    with pytest.raises(RunFolderError, match=r"holds no run: there is no journal\.jsonl in it"):
        folder.records()


def test_damaged_graph_is_refused(tmp_path):
    folder = RunFolder(tmp_path)
    folder.create(load(TEXT)).close()
    (tmp_path / "graph.json").write_text("{")
    with pytest.raises(DocumentError):
        folder.graph()


def test_report_is_written(tmp_path):
    assert RunFolder(tmp_path).write_report("<p>ö").read_text(encoding="utf-8") == "<p>ö"


# Which run it is


@pytest.fixture
def run(tmp_path):
    """A folder with a run that has begun and has two checkpoints, closed."""
    folder = RunFolder(tmp_path / "run")
    with folder.create(load(TEXT)) as journal:
        journal.write((RUN,))
        store = folder.checkpoints()
        for number in (1, 2):
            disks.save(store, number, journal=journal.sync())
    folder.close()
    return folder


def rewritten(folder, **values):
    path = folder.path / "run.json"
    path.write_bytes(seal({**unseal(path.read_bytes()), **values}))


def test_a_folder_knows_its_run_and_with_what_it_was_made(run):
    data = json.loads((run.path / "run.json").read_text())
    assert data["format"] == 2
    identity = run.identity()
    assert len(identity.id) == 32 and identity.id == data["id"]
    assert identity.graph == "short" and identity.digest == digest(load(TEXT))
    environment = run.environment()
    assert environment["python"].startswith(("CPython 3.", "PyPy 3."))
    assert {"stagegraph", "torch", "transitions", "pydantic", "platform"} <= set(environment)


def test_nothing_is_touched_before_it_is_asked_for(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert not folder.is_used and not folder.is_locked
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_where_it_was(run):
    assert run.is_used
    with run.open() as journal:
        assert run.is_locked
        newest, passed = run.checkpoints().newest()
        assert newest.number == 2 and passed == ()
        journal.resume(newest.journal, {"step": 20})
    run.close()
    assert [record["type"] for record in run.records()] == ["run", "resume"]


def test_what_a_dead_process_left_is_removed_when_it_is_opened(run):
    left = [run.path / ".tmp-0123abcd-report.html", run.path / "checkpoints/.new-00000003-0123abcd"]
    left[0].write_text("half")
    left[1].mkdir()
    (run.path / ".tmp-mine").write_text("")
    run.open().close()
    run.close()
    assert [path.exists() for path in left] == [False, False]
    assert (run.path / ".tmp-mine").exists()


def test_a_folder_in_use_is_refused(run):
    with run.open():
        with pytest.raises(RunFolderError, match="is in use by this very process"):
            RunFolder(run.path).open()
        assert run.is_locked
    run.close()
    RunFolder(run.path).open().close()


def test_a_changed_graph_is_not_taken_for_the_one_that_ran(run):
    path = run.path / "graph.json"
    path.write_text(path.read_text().replace("10 steps", "11 steps"))
    with pytest.raises(RunFolderError, match=r"graph\.json is not the graph of this run, 'short'"):
        run.graph()


def test_a_newer_format_is_refused_everywhere(run):
    rewritten(run, format=3)
    for ask in (run.open, run.graph, run.records, run.checkpoints, run.environment):
        with pytest.raises(
            RunFolderError,
            match=r"was made by a newer stagegraph \(format 3; this one reads 2\); update stagegra",
        ):
            ask()
    assert not run.is_locked


def test_a_damaged_identity_is_refused_with_the_way_out(run):
    path = run.path / "run.json"
    whole = path.read_bytes()
    for changed in (b"", whole[:-1], whole.replace(b"short", b"shart"), b"[]"):
        path.write_bytes(changed)
        with pytest.raises(
            RunFolderError, match=r"run\.json is damaged: .*; bring it back as it w"
        ):
            run.open()
    for values in ({"id": None, "graph": []}, {"format": 1}, {"environment": 3}):
        path.write_bytes(whole)
        rewritten(run, **values)
        with pytest.raises(RunFolderError, match=r"run\.json is damaged: it is no run's"):
            run.open()


def test_a_run_of_an_older_version_is_looked_at_only(tmp_path):
    (tmp_path / "graph.json").write_text(json.dumps({**OLD_GRAPH}))
    (tmp_path / "journal.jsonl").write_text('{"type":"run","step":0}\n')
    folder = RunFolder(tmp_path)
    assert folder.records() == [RUN]
    assert folder.graph().name == "x"
    with pytest.raises(RunFolderError, match="made by an older stagegraph, which kept no checkpoi"):
        folder.open()
    with pytest.raises(RunFolderError, match="holds an earlier run already"):
        folder.create(load(TEXT))


OLD_GRAPH = {"stagegraph": 1, "name": "x", "initial": "a", "stages": {"a": {"kind": "final"}}}


def test_there_must_be_a_run_to_go_on_with(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(RunFolderError, match="holds no run to go on with: none has begun"):
            RunFolder(path).open()
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_without_a_journal_are_no_new_beginning(run):
    run.journal.unlink()
    assert run.is_used
    with pytest.raises(RunFolderError, match=r"has checkpoints, but its journal\.jsonl is missing"):
        run.open()
    with pytest.raises(RunFolderError, match="holds an earlier run already"):
        run.create(load(TEXT))


def test_a_checkpoint_of_another_run_is_passed_over(run, tmp_path):
    other = RunFolder(tmp_path / "other")
    with other.create(load(TEXT)) as journal:
        journal.write((RUN,))
        disks.save(other.checkpoints(), 1)
    other.close()
    (other.path / "checkpoints/gen-00000001").rename(run.path / "checkpoints/gen-00000003")
    newest, (passed,) = run.checkpoints().newest()
    assert newest.number == 2 and passed.number == 3


def test_files_that_are_no_runs_are_not_written_over(tmp_path):
    (tmp_path / "graph.json").write_text("mine")
    with pytest.raises(RunFolderError, match=r"graph\.json cannot be written: it is there already"):
        RunFolder(tmp_path).create(load(TEXT))
    assert (tmp_path / "graph.json").read_text() == "mine"


# Failures


def created(path, disk):
    folder = RunFolder(path, disk=disk)
    try:
        with folder.create(load(TEXT)) as journal:
            journal.write((RUN,))
    finally:
        folder.close()


def test_a_death_at_every_call_of_creating_is_made_good(tmp_path):
    disk = disks.counting()
    created(tmp_path / "deep" / "whole", disk)
    for at in range(len(disk.calls)):
        path = tmp_path / str(at) / "run"
        with pytest.raises(disks.Death):
            created(path, disks.dying(at))
        begun = RunFolder(path).is_used
        assert begun == (at >= len(disk.calls) - 1), "the first record is what begins it"
        if not begun:
            created(path, disks.counting())
        folder = RunFolder(path)
        assert folder.graph() == load(TEXT)
        assert folder.records() == [RUN]
        assert not [entry for entry in path.iterdir() if entry.name.startswith(".")]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS])
def test_an_error_at_every_call_of_creating_is_told_and_made_good(tmp_path, code):
    disk = disks.counting()
    created(tmp_path / "whole", disk)
    for at in range(len(disk.calls)):
        path = tmp_path / str(at)
        if disk.calls[at] == "close":
            continue  # of the journal, which is synced
        with pytest.raises(RunFolderError, match=rf"cannot be written: {os.strerror(code)}; "):
            created(path, disks.failing(at, code))
        if not RunFolder(path).is_used:
            created(path, disks.counting())
        assert RunFolder(path).records() == [RUN]


def test_a_report_that_cannot_be_written_leaves_the_old_one(run):
    run.write_report("old")
    disk = disks.counting()
    RunFolder(run.path, disk=disk).write_report("old")
    for at, name in enumerate(disk.calls):
        with pytest.raises(RunFolderError, match=r"report\.html cannot be written"):
            RunFolder(run.path, disk=disks.failing(at, errno.ENOSPC)).write_report("new")
        told = (run.path / "report.html").read_text()
        assert told == ("new" if name == "sync_directory" else "old")
    assert not [path for path in run.path.iterdir() if path.name.startswith(".")]


def test_a_read_only_folder_can_be_looked_at(run, monkeypatch):
    real = os.open

    def refuse(path, flags, *rest, **options):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    folder = RunFolder(run.path, disk=disks.read_only())
    assert folder.records() == [RUN]
    assert folder.graph() == load(TEXT)
    newest, _ = folder.checkpoints().newest()
    assert disks.is_whole(newest) or newest.journal != Mark(0, 0, "")
    with pytest.raises(
        RunFolderError, match=r"lock cannot be written: Read-only file system; it is"
    ):
        folder.open()


def test_a_torn_journal_goes_on_and_says_how_much_was_cut(run):
    with run.journal.open("ab") as file:
        file.write(b'{"type":"no')
    with run.open() as journal:
        assert journal.cut == 11
    run.close()
    assert run.records() == [RUN]


def test_a_journal_torn_to_nothing_is_no_new_beginning_with_checkpoints(run):
    mark = run.checkpoints().newest()[0].journal
    run.journal.write_bytes(b"")
    assert run.is_used
    with (
        run.open() as journal,
        pytest.raises(RunFolderError, match="lines were lost, or it is another run's journal"),
    ):
        journal.resume(mark, {"step": 0})
    run.close()
