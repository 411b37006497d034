"""Several ranks under torchrun: they grow together, and go on together when they were killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import stagegraph as sg
from examples.distributed import plain, ranks, train
from stagegraph.runs.folder import RunFolder
from tests.pages import ROOT
from tests.ranks.processes import on_ranks


def process(folder: Path, ranks: int = 2) -> subprocess.Popen[str]:
    """One life of all ranks."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words += ["--nproc-per-node", str(ranks), "-m", "examples.distributed.train"]
    return subprocess.Popen(
        [*words, "--folder", str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def come(life: subprocess.Popen[str], folder: Path, kind: str, more: int) -> None:
    """Wait until the journal has a record of a kind and some more."""
    journal = folder / "journal.jsonl"
    for _ in range(6000):
        lines = journal.read_text().splitlines() if journal.exists() else []
        types = [json.loads(line)["type"] for line in lines if line.endswith("}")]
        if kind in types and types.index(kind) < len(types) - more:
            return
        assert life.poll() is None, life.communicate()[0]
        time.sleep(0.02)
    raise AssertionError("it did not come to that")


def ended(folder: Path, ranks: int = 2) -> tuple[int, dict[str, str]]:
    """What a run has come to: every tensor of its last checkpoint."""
    life = process(folder, ranks)
    out, _ = life.communicate(timeout=500)
    assert life.returncode == 0, out
    last, _ = RunFolder(folder).checkpoints().newest()
    assert last is not None
    return last.step, {
        n: one.sha256 for n, one in last.manifest.files.items() if n.endswith(".safetensors")
    }


def test_the_graph_is_sound():
    assert [str(f) for f in sg.check(sg.load(train.GRAPH)) if f.severity != "note"] == []


def in_a_group(rank, size, steps):
    return plain.train(steps=steps)


@pytest.mark.slow
def test_plain_learns(tmp_path):
    assert max(on_ranks(2, in_a_group, 2, 40, folder=tmp_path)) < 1.0


def test_a_script_without_a_launcher_is_one_rank(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    with ranks.process_group():
        assert plain.train(steps=40) < 1.0


@pytest.mark.slow
def test_killed_after_growing_it_goes_on_as_if_nothing_had_been(tmp_path):
    whole = ended(tmp_path / "whole")
    life = process(tmp_path / "killed")
    come(life, tmp_path / "killed", "growth", 12)
    os.killpg(life.pid, signal.SIGKILL)
    life.communicate()
    assert ended(tmp_path / "killed") == whole


@pytest.mark.slow
def test_told_to_go_all_ranks_save_and_go_together(tmp_path):
    whole = ended(tmp_path / "whole", 4)
    life = process(tmp_path / "told", 4)
    come(life, tmp_path / "told", "growth", 12)
    os.kill(life.pid, signal.SIGTERM)  # the launcher passes it on
    out, _ = life.communicate(timeout=100)
    records = RunFolder(tmp_path / "told").records()
    assert [one["reason"] for one in records if one["type"] == "preempted"] == ["SIGTERM"], out
    assert ended(tmp_path / "told", 4) == whole
