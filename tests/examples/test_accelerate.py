"""The digits in a loop around an accelerator: killed by the system, it goes on."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

import stagegraph as sg
from examples.accelerate import plain, train
from stagegraph.runs.journal import read_journal
from tests.pages import ROOT

HURRIED = re.sub(
    r"(over|duration)(: )(\d+) steps",
    lambda found: f"{found[1]}{found[2]}{max(2, int(found[3]) // 4)} steps",
    train.GRAPH.read_text("utf-8"),
).replace("every: 10 steps", "every: 3 steps")
"""The same document, its stages a quarter as long."""


def test_the_document_goes_with_this_host():
    found = sg.check(sg.load(train.GRAPH), trainer="accelerate")
    assert not [one for one in found if one.severity in ("error", "warning")], found


def test_plain_learns():
    assert plain.train(steps=30) > 0.2


def process(folder, *more):
    """One life in a process of its own."""
    graph = folder.with_suffix(".yaml")
    graph.write_text(HURRIED)
    words = [sys.executable, "-m", "examples.accelerate.train", "--graph", str(graph)]
    return subprocess.Popen(
        [*words, "--folder", str(folder), *more],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(folder, *more):
    """What a run has come to: its last line, its moves and the losses after its growths."""
    out, error = (life := process(folder, *more)).communicate(timeout=500)
    assert life.returncode == 0, error
    records = list(read_journal(folder / "run/journal.jsonl"))
    moves = [(r["step"], r["target"]) for r in records if r["type"] == "move"]
    losses = {r["step"]: r["loss"] for r in records if r["type"] == "vitals" and "loss" in r}
    return out.splitlines()[-1], moves, losses


def killed_after(folder, saved, *more):
    """A life that is killed by the system once it has grown and saved so often."""
    life = process(folder, *more)
    journal = folder / "run/journal.jsonl"
    for _ in range(4000):
        lines = journal.read_text() if journal.exists() else ""
        if lines.count('"type":"growth"') + lines.count('"type": "growth"') and saved(folder):
            break
        assert life.poll() is None, life.communicate()
        time.sleep(0.01)
    life.send_signal(signal.SIGKILL)
    life.communicate()
    assert life.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_killed_it_goes_on_from_its_own_checkpoints(tmp_path, precision):
    more = ["--precision", precision]
    whole = ended(tmp_path / "whole", *more)
    killed_after(tmp_path / "killed", lambda folder: True, *more)
    again = ended(tmp_path / "killed", *more)
    assert again[:2] == whole[:2]
    assert again[2] and all(whole[2][step] == loss for step, loss in again[2].items())


@pytest.mark.slow
def test_killed_it_goes_on_from_accelerates_checkpoints(tmp_path):
    whole = ended(tmp_path / "whole", "--save-state")

    def saved(folder):
        return (folder / "checkpoints/step_40/stagegraph.json").exists()

    killed_after(tmp_path / "killed", saved, "--save-state")
    again = ended(tmp_path / "killed", "--save-state")
    assert again[:2] == whole[:2]
    assert again[2] and all(whole[2][step] == loss for step, loss in again[2].items())
