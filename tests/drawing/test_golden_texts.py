"""Mermaid, DOT and outline, word for word; and what their own readers say of them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from stagegraph.drawing.render import render
from stagegraph.errors import UnsupportedError
from stagegraph.schema.load import load
from tests.data.drawings.write_drawings import golden_texts
from tests.drawing.graphs import DRAWINGS, document, graphs

HERE = Path(__file__).parent
TEXTS = golden_texts()


@pytest.mark.parametrize("name", TEXTS)
def test_text_is_as_it_was(name):
    assert TEXTS[name] == (DRAWINGS / name).read_text(encoding="utf-8")


def test_an_unknown_kind_is_refused_with_those_known():
    with pytest.raises(UnsupportedError, match="did you mean 'mermaid'"):
        render(document("grow-on-plateau"), "mermaidd")


def test_outline_obeys_no_escape_sequence():
    stages = {"a": {"kind": "final"}}
    name = "red \x1b[31m and a bell \x07"
    text = render(load({"stagegraph": 1, "name": name, "initial": "a", "stages": stages}), "text")
    assert "\x1b" not in text and "\x07" not in text
    assert "\\x1b[31m" in text


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_reads_our_dot():
    for name, graph in graphs().items():
        done = subprocess.run(
            ["dot", "-Tcanon"],
            input=render(graph, "dot"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), name


@pytest.mark.node
@pytest.mark.skipif(
    shutil.which("node") is None or not (HERE / "node_modules" / "mermaid").is_dir(),
    reason="needs Node.js and `npm install` in tests/drawing",
)
def test_mermaid_s_own_parser_reads_our_mermaid(tmp_path):
    paths = []
    for name, graph in graphs().items():
        if name != "chain":
            paths.append(tmp_path / f"{name}.mmd")
            paths[-1].write_text(render(graph, "mermaid"), encoding="utf-8")
    paths.append(DRAWINGS / "a-run.mmd")
    done = subprocess.run(
        ["node", "parse_mermaid.mjs", *map(str, paths)],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("flowchart") == len(paths)
