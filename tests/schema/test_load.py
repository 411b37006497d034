from __future__ import annotations

import os
import sys
from pathlib import Path
from subprocess import run

import pytest

from stagegraph.errors import DocumentError
from stagegraph.schema.limits import MAX_BYTES
from stagegraph.schema.load import load

YAML = "stagegraph: 1\nname: a\ninitial: end\nstages:\n  end: {kind: final}\n"
JSON = '{"stagegraph": 1, "name": "a", "initial": "end", "stages": {"end": {"kind": "final"}}}'
DATA = {"stagegraph": 1, "name": "a", "initial": "end", "stages": {"end": {"kind": "final"}}}


def refusal(source):
    with pytest.raises(DocumentError) as caught:
        load(source)
    return caught.value


def test_text_file_and_dict_are_the_same_graph(tmp_path, monkeypatch):
    (tmp_path / "a.yaml").write_text(YAML)
    (tmp_path / "b.JSON").write_text(JSON)
    (tmp_path / "c.txt").write_text(JSON)
    monkeypatch.chdir(tmp_path)
    sources = [YAML, JSON, DATA, "a.yaml", "b.JSON", Path("a.yaml"), Path("c.txt")]
    graphs = [load(source) for source in sources]
    assert len(set(graphs)) == 1
    assert [graph.source.file for graph in graphs] == [
        "<text>",
        "<text>",
        "<python>",
        "a.yaml",
        "b.JSON",
        "a.yaml",
        "c.txt",
    ]


def test_valid_documents_load(valid_documents):
    for path in valid_documents:
        assert load(path).name


def test_source_keeps_the_text_and_the_place_of_everything():
    source = load(YAML).source
    assert source.text == YAML
    assert source.position("/name") == (2, 7)
    assert source.position("/stages/end/kind") == (5, 15)
    assert source.position("/stages/end/transitions/3") == (5, 3)
    assert load(DATA).source.position("/name") is None


def test_a_dict_may_hold_models_and_tuples():
    graph = load(YAML)
    again = load({**DATA, "stages": graph.stages, "events": ("go",), "budget": graph.budget})
    assert again.stages == graph.stages


@pytest.mark.parametrize("source", [3, None, b"stagegraph: 1", [DATA]])
def test_what_is_no_source_is_a_type_error(source):
    with pytest.raises(TypeError, match="a path, a text or a dict"):
        load(source)


def test_a_missing_file_names_the_nearest_one(tmp_path):
    (tmp_path / "grow.yaml").write_text(YAML)
    assert "did you mean 'grow.yaml'" in str(refusal(str(tmp_path / "grwo.yaml")))
    assert "no folder" in str(refusal(str(tmp_path / "none" / "grow.yaml")))


def test_a_folder_names_what_is_in_it(tmp_path):
    (tmp_path / "grow.yaml").write_text(YAML)
    assert str(refusal(tmp_path)) == f"{tmp_path}: it is a folder, not a file; in it: grow.yaml"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes by name are a thing of POSIX")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "not a regular file" in str(refusal(tmp_path / "pipe.yaml"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_an_unreadable_file_says_why(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(YAML)
    path.chmod(0)
    assert "cannot be read: Permission denied" in str(refusal(path))


def test_a_path_with_a_null_byte_is_refused():
    assert "cannot be read" in str(refusal("a\0.yaml"))


def test_size_is_looked_at_before_reading(tmp_path):
    path = tmp_path / "big.yaml"
    with path.open("wb") as file:
        file.truncate(10**10)
    assert "10,000,000,000 bytes" in str(refusal(path))
    assert "over 1,000,000 characters" in str(refusal("a: " + "x" * MAX_BYTES))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b" \n\t\n", "it is empty"),
        (b"\xef\xbb\xbf" + YAML.encode(), "byte order mark"),
        (YAML.encode("utf-16"), "UTF-16"),
        (b"\x89PNG\0", "binary"),
        (YAML.encode() + b"# \xfc\n", "byte 0xfc in line 6"),
    ],
)
def test_files_that_are_no_text_say_what_they_are(tmp_path, data, words):
    path = tmp_path / "a.yaml"
    path.write_bytes(data)
    assert words in str(refusal(path))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({3: 4}, "a key is a text, got 3"),
        ({"name": {1, 2}}, "a Python set cannot stand"),
        ({"name": b"x"}, "a Python bytes cannot stand"),
        ({"name": "\ud800"}, "surrogate"),
        ({"\ud800": 1}, "surrogate"),
        ({"budget": {"epochs": float("nan")}}, "numbers are finite"),
        ({"budget": {"steps": 10**30}}, "at most"),
    ],
)
def test_python_data_that_is_no_document_is_refused(data, words):
    assert words in str(refusal({**DATA, **data}))


def test_data_that_contains_itself_is_refused():
    data = dict(DATA)
    data["stages"] = data
    assert "nested deeper" in str(refusal(data))
    wide: list[object] = []
    for _ in range(60):
        wide = [wide, wide]
    assert "more than 60,000" in str(refusal({**DATA, "name": wide}))


def test_defects_of_a_dict_are_in_its_order():
    defects = refusal({"name": 3, **DATA, "events": [1, "go", 2], "budget": {"stps": 1}}).defects
    pointers = [defect.pointer for defect in defects]
    assert pointers == ["/events/0", "/events/2", "/budget/stps"]


def test_windows_line_ends_keep_the_places():
    graph = load(YAML.replace("\n", "\r\n"))
    assert graph == load(YAML)
    assert graph.source.position("/stages/end/kind") == (5, 15)
    broken = YAML.replace("\n", "\r\n") + "interrupts: [{name: a, target: end, when: x <}]\r\n"
    assert (refusal(broken).defects[0].line, refusal(broken).defects[0].column) == (6, 46)


def test_loading_imports_neither_torch_nor_the_machines():
    code = (
        "import sys, stagegraph.schema.load;"
        "print([m for m in ('torch', 'networkx', 'transitions', 'numpy') if m in sys.modules])"
    )
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
