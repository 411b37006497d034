"""The graphs that an edited run has been under: all of them are kept, and the newest is told."""

import pytest

from stagegraph.runs.folder import RunFolder
from stagegraph.schema.dump import digest
from stagegraph.schema.load import load

TEXT = """\
stagegraph: 1
name: short
initial: a
stages:
  a: {kind: train, duration: 10 steps, next: b}
  b: {kind: final}
"""
RUN = {"type": "run", "step": 0}


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
