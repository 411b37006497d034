"""A run's folder: one run, its graph as it was written, and clear refusals."""

import json

import pytest

from stagegraph.errors import DocumentError, RunFolderError
from stagegraph.runs.folder import RunFolder
from stagegraph.runs.identity import FORMAT
from stagegraph.runs.sealed import seal
from stagegraph.schema.dump import digest, dump
from stagegraph.schema.load import load

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
    with pytest.raises(RunFolderError, match="cannot be read"):
        folder.records()


def test_damaged_graph_is_refused(tmp_path):
    folder = RunFolder(tmp_path)
    folder.create(load(TEXT)).close()
    (tmp_path / "graph.json").write_text("{")
    with pytest.raises(DocumentError):
        folder.graph()


def test_report_is_written(tmp_path):
    assert RunFolder(tmp_path).write_report("<p>ö").read_text(encoding="utf-8") == "<p>ö"


def test_a_folder_of_a_newer_format_is_refused_in_words(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.create(load(TEXT)) as journal:
        journal.write((RUN,))
    folder.close()
    told = json.loads((tmp_path / "run.json").read_text())
    del told["sha256"]
    (tmp_path / "run.json").write_bytes(seal({**told, "format": FORMAT + 1}))
    for ask in (folder.open, folder.graph, folder.records):
        with pytest.raises(
            RunFolderError,
            match=rf"a newer stagegraph \(format {FORMAT + 1}; .*; update stagegraph",
        ):
            ask()


def test_a_folder_of_the_first_format_is_looked_at_but_not_gone_on_with(tmp_path):
    (tmp_path / "graph.json").write_text(dump(load(TEXT), "json"))
    (tmp_path / "journal.jsonl").write_text('{"type":"run","step":0}\n')
    folder = RunFolder(tmp_path)
    assert folder.graph() == load(TEXT)
    assert folder.records() == [RUN]
    with pytest.raises(
        RunFolderError, match=r"by an older stagegraph, which kept no checkpoints: .*another folder"
    ):
        folder.open()


# A graph that was edited


@pytest.fixture
def begun(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.create(load(TEXT)) as journal:
        journal.write((RUN,))
        yield folder, journal
    folder.close()


def test_every_graph_that_ran_is_kept_with_its_authors_bytes(begun, tmp_path):
    folder, journal = begun
    texts = [TEXT, TEXT.replace("10 steps", "11 steps"), TEXT.replace("10 steps", "12 steps")]
    for text in (*texts, texts[1], texts[0]):
        graph = load(text)
        path = folder.keep_graph(graph)
        assert load(path) == graph
        journal.resume(journal.mark, {"step": 0, "digest": digest(graph)})
        assert folder.graph() == graph, "the newest is that of the last resume"
    assert sorted(path.name for path in tmp_path.glob("*-*")) == [
        "author-2.yaml", "author-3.yaml", "graph-2.json", "graph-3.json",
    ]  # fmt: skip
    assert [(tmp_path / f"author{n}.yaml").read_text() for n in ("", "-2", "-3")] == texts
    assert folder.graph(digest(load(texts[1]))) == load(texts[1])


def test_a_graph_that_no_resume_tells_of_never_ran(begun):
    folder, journal = begun
    folder.keep_graph(load(TEXT.replace("10 steps", "11 steps")))
    assert folder.graph() == load(TEXT)
    journal.resume(journal.mark, {"step": 0})
    assert folder.graph() == load(TEXT), "a resume of a version that edited no graphs"


def test_a_resume_that_does_not_count_is_not_the_newest(begun):
    folder, journal = begun
    other = load(TEXT.replace("10 steps", "11 steps"))
    folder.keep_graph(other)
    mark = journal.mark
    journal.resume(mark, {"step": 0, "digest": digest(other)})
    journal.resume(mark, {"step": 0, "digest": digest(load(TEXT))})
    assert folder.graph() == load(TEXT)
