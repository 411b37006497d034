"""A run that is killed at any instant and resumed ends with the bytes of the uninterrupted one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def killed(folder, number, seed):
    """What became of so many runs that were killed at random instants."""
    words = [sys.executable, "-m", "tests.survival.killing", str(folder), str(number), str(seed)]
    done = subprocess.run(
        words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines and "whole" in lines[0], f"{done.stdout}\n{done.stderr}"
    assert lines[0]["whole"]["digest"] == lines[0]["again"]["digest"]
    assert len(lines) == 1 + number, done.stderr
    return lines[1:]


def see_that_all_ended_alike(runs):
    wrong = [run for run in runs if not run["same"]]
    assert wrong == [], json.dumps(wrong, indent=1)
    assert all(run["died"] >= 1 for run in runs)


def test_killed_at_random_instants(tmp_path):
    runs = killed(tmp_path, 6, seed=1)
    see_that_all_ended_alike(runs)
    phases = {phase for run in runs for phase, _ in run["deaths"]}
    assert {"any", "step", "warmup", "growth", "checkpoint", "boundary"} <= phases
    assert max(run["died"] for run in runs) == 3  # some die again while they are resumed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 7))
def test_killed_at_three_hundred_random_instants(tmp_path, seed):
    see_that_all_ended_alike(killed(tmp_path, 50, seed))


def fresh(folder, *, kill_after=None):
    """One life in a process of its own; what it printed, and how it ended."""
    words = [sys.executable, "-m", "tests.survival.growing_run", str(folder)]
    process = subprocess.Popen(
        words, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    if kill_after is not None:
        while not (folder / "journal.jsonl").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(kill_after)
        process.send_signal(signal.SIGKILL)
    out, error = process.communicate()
    return out.strip(), process.returncode, error


@pytest.mark.slow
def test_killed_from_outside_and_resumed_in_fresh_processes(tmp_path):
    whole, status, error = fresh(tmp_path / "whole")
    assert status == 0, error
    chosen, deaths = random.Random(3), 0
    for number in range(12):
        folder = tmp_path / f"run-{number}"
        for _ in range(chosen.randint(1, 3)):
            _, status, error = fresh(folder, kill_after=chosen.uniform(0, 1.5))
            assert status in (0, -signal.SIGKILL), error
            deaths += status == -signal.SIGKILL
        end, status, error = fresh(folder)
        assert (end, status) == (whole, 0), error
    assert deaths >= 8
