"""A loop with accumulation, mixed precision, clipping, a scheduler, EMA and compile: it resumes."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

import stagegraph as sg
from examples.full_loop import plain, train
from stagegraph.runs.folder import RunFolder
from tests.pages import ROOT

HURRIED = re.sub(
    r"(over|duration|elapsed)(: |\()(\d+) steps",
    lambda found: f"{found[1]}{found[2]}{max(2, int(found[3]) // 10)} steps",
    train.GRAPH.read_text("utf-8"),
)
"""The same document, its stages a tenth as long."""


def process(folder, *more):
    """One life in a process of its own."""
    graph = folder.with_suffix(".yaml")
    graph.write_text(HURRIED)
    words = [sys.executable, "-m", "examples.full_loop.train"]
    return subprocess.Popen(
        [*words, "--graph", str(graph), "--run", str(folder), *more],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(folder, *more):
    """What a run has come to: every tensor and number of its last checkpoint."""
    out, error = (life := process(folder, *more)).communicate(timeout=500)
    assert life.returncode == 0, error
    last, _ = RunFolder(folder).checkpoints().newest()
    contents = json.loads(last.read("contents.json"))
    contents["model"]["now"].pop("random")  # Python's begin with others in each process
    for copy in contents["model"]["copies"].values():
        copy.pop("random")
    tensors = {
        n: one.sha256 for n, one in last.manifest.files.items() if n.endswith(".safetensors")
    }
    return last.step, contents, tensors, out


def killed_after_growing(folder, *more):
    """A life that is killed a few updates after it has grown."""
    life = process(folder, *more)
    journal = folder / "journal.jsonl"
    for _ in range(20_000):
        records = journal.read_text().splitlines() if journal.exists() else []
        types = [json.loads(line)["type"] for line in records if line.endswith("}")]
        if "growth" in types and types.index("growth") < len(types) - 3:
            break
        assert life.poll() is None, life.communicate()
        time.sleep(0.02)
    life.send_signal(signal.SIGKILL)
    life.communicate()
    assert life.returncode == -signal.SIGKILL


def test_the_graph_is_sound():
    assert [str(f) for f in sg.check(sg.load(train.GRAPH)) if f.severity != "note"] == []


def test_plain_learns():
    assert plain.train(steps=8) < 5.6


@pytest.mark.slow
def test_killed_after_the_growth_it_ends_as_the_run_that_was_not(tmp_path):
    whole = ended(tmp_path / "whole")
    killed_after_growing(tmp_path / "killed")
    again = ended(tmp_path / "killed")
    assert whole[2] and whole[:3] == again[:3]
    assert "growths 1" in again[3]


@pytest.mark.slow
def test_with_torch_compile_it_goes_on_too(tmp_path):
    whole = ended(tmp_path / "whole", "--compile")
    killed_after_growing(tmp_path / "killed", "--compile")
    again = ended(tmp_path / "killed", "--compile")
    assert whole[2] and whole[:3] == again[:3]
