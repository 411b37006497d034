"""A sharded GPT learns real text, grows twice, is killed, and comes to the same end."""

import os
import re
import subprocess
import sys
import time

import pytest

import stagegraph as sg
from examples.fsdp2 import train
from tests.pages import ROOT

HURRIED = re.sub(
    r"(over|duration): (\d+) steps",
    lambda found: f"{found[1]}: {max(2, int(found[2]) // 10)} steps",
    train.GRAPH.read_text("utf-8"),
)
"""The same document, its stages a tenth as long."""


def torchrun(module, *words):
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.Popen(
        [*run, "-m", f"examples.fsdp2.{module}", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def process(folder, graph):
    return torchrun("train", "--folder", str(folder), "--graph", str(graph), "--every", "4")


def ended(life):
    out, error = life.communicate(timeout=300)
    assert life.returncode == 0, error[-4000:]
    return out


def test_the_graph_is_sound():
    assert [
        finding for finding in sg.check(sg.load(train.GRAPH)) if finding.severity == "error"
    ] == []


@pytest.mark.slow
def test_a_killed_run_comes_to_the_same_end(tmp_path):
    graph = tmp_path / "hurried.yaml"
    graph.write_text(HURRIED)
    whole = ended(process(tmp_path / "whole", graph))
    assert "step 24: 4 layers" in whole
    life = process(tmp_path / "cut", graph)
    for _ in range(3000):
        if (tmp_path / "cut" / "000012" / "manifest.json").exists():
            break
        time.sleep(0.1)
    life.terminate()  # torchrun ends its ranks then, and would leave them running else
    life.communicate(timeout=60)
    again = ended(process(tmp_path / "cut", graph))
    assert re.search(r"goes on behind step \d+, with [34] layers", again)
    assert whole.splitlines()[-1] == again.splitlines()[-1]


@pytest.mark.slow
def test_the_plain_script_runs():
    assert "step 40: val_loss" in ended(torchrun("plain", "--steps", "40"))
