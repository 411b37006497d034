"""`stagegraph expand`: the plain graph, on the terminal or in a file."""

from __future__ import annotations

import pytest

import stagegraph as sg
from stagegraph.cli.main import main
from tests.pages import ROOT

GRAPHS = ROOT / "examples" / "graphs"


def test_the_plain_graph_is_written_to_standard_output(capsys):
    path = GRAPHS / "warmup-stable-decay.yaml"
    assert main(["expand", str(path)]) == 0
    text = capsys.readouterr().out
    assert text == sg.dump(sg.expand(sg.load(path)))
    assert "with:" not in text


@pytest.mark.parametrize(("name", "form"), [("plain.yaml", "yaml"), ("plain.json", "json")])
def test_the_ending_says_the_form(tmp_path, capsys, name, form):
    path, out = GRAPHS / "spike-rule.yaml", tmp_path / name
    assert main(["expand", str(path), "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    expanded = sg.expand(sg.load(path))
    assert out.read_text("utf-8") == sg.dump(expanded, form)
    assert sg.digest(sg.load(out)) == sg.digest(expanded)


def test_what_is_written_expands_to_itself(tmp_path, capsys):
    out, again = tmp_path / "plain.yaml", tmp_path / "again.yaml"
    assert main(["expand", str(GRAPHS / "sequential-growths.yaml"), "-o", str(out)]) == 0
    assert main(["expand", str(out), "-o", str(again)]) == 0
    assert out.read_bytes() == again.read_bytes()
    capsys.readouterr()


def test_a_graph_that_cannot_be_read_is_no_graph(tmp_path, capsys):
    assert main(["expand", str(tmp_path / "none.yaml")]) == 2
    assert "no such file" in capsys.readouterr().err
