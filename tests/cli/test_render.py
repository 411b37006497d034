"""``stagegraph render``: the kind by the ending of the file, or said outright."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from stagegraph.cli.main import main
from stagegraph.cli.render import ENDINGS
from stagegraph.drawing.render import PICTURES, render
from stagegraph.schema.load import load

GRAPHS = Path(__file__).parents[2] / "examples" / "graphs"
GRAPH = GRAPHS / "grow-on-plateau.yaml"
JOURNAL = Path(__file__).parents[1] / "data" / "journals" / "grow-on-plateau.jsonl"


@pytest.mark.parametrize("ending", ENDINGS)
def test_each_ending_has_its_kind(ending, tmp_path, capsys):
    path = tmp_path / f"picture{ending}"
    assert main(["render", str(GRAPH), "-o", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert path.read_text("utf-8") == render(load(GRAPH), ENDINGS[ending])


def test_endings_cover_every_kind():
    assert set(ENDINGS.values()) == set(PICTURES)


@pytest.mark.parametrize("kind", PICTURES)
def test_each_kind_can_be_said_outright_and_goes_to_standard_output(kind, capsys):
    assert main(["render", str(GRAPH), "--as", kind]) == 0
    assert capsys.readouterr().out == render(load(GRAPH), kind) + "\n"


def test_text_is_the_default(capsys):
    assert main(["render", str(GRAPH)]) == 0
    out = capsys.readouterr().out
    assert out == render(load(GRAPH), "text") + "\n"
    for stage in ("train", "grow", "warmup", "settle", "consolidate", "anneal", "done"):
        assert stage in out


def test_a_kind_said_outright_goes_before_the_ending(tmp_path):
    path = tmp_path / "picture.txt"
    assert main(["render", str(GRAPH), "--as", "svg", "-o", str(path)]) == 0
    assert ET.fromstring(path.read_text("utf-8")).tag.endswith("svg")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("picture.svgg", "did you mean '.svg'?; or say it with --as"),
        ("picture", "; or say it with --as"),
        ("picture.png", "; or say it with --as"),
    ],
)
def test_an_ending_without_a_kind_is_named(name, words, tmp_path, capsys):
    path = tmp_path / name
    assert main(["render", str(GRAPH), "-o", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{str(path)!r} has an ending that says no kind" in captured.err
    assert words in captured.err
    assert not path.exists()


def test_a_kind_that_is_none_exits_with_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["render", str(GRAPH), "--as", "png"])
    assert stopped.value.code == 2
    assert "invalid choice: 'png'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["text", "svg", "html", "mermaid", "dot"])
def test_a_journal_draws_the_way_that_was_taken(kind, capsys):
    assert main(["render", str(GRAPH), "--as", kind, "--journal", str(JOURNAL)]) == 0
    drawn = capsys.readouterr().out
    records = [json.loads(line) for line in JOURNAL.read_text("utf-8").splitlines()]
    assert drawn == render(load(GRAPH), kind, records=records) + "\n"
    main(["render", str(GRAPH), "--as", kind])
    assert capsys.readouterr().out != drawn


def test_a_journal_that_is_none_exits_with_2(tmp_path, capsys):
    words = ["render", str(GRAPH), "--journal"]
    assert main([*words, str(tmp_path / "nothing.jsonl")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_text('{"type": "note", "step": 0}\nnot json\n')
    assert main([*words, str(damaged)]) == 2
    assert f"{damaged}:2: this line is damaged" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_exits_with_2(tmp_path, capsys):
    assert main(["render", str(GRAPH), "-o", str(tmp_path / "no" / "such" / "x.svg")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_a_graph_with_errors_can_be_drawn(tmp_path, capsys):
    """Seeing what is wrong is half of mending it."""
    path = tmp_path / "graph.yaml"
    path.write_text(GRAPH.read_text("utf-8") + "# and a stage nobody reaches\n")
    text = path.read_text("utf-8").replace(
        "  done: {kind: final}", "  lost: {kind: final}\n  done: {kind: final}"
    )
    path.write_text(text)
    assert main(["render", str(path)]) == 0
    assert "lost" in capsys.readouterr().out
