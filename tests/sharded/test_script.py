"""A script under torchrun: grown twice, killed in a ramp, gone on at 2 ranks and in 1 process."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from tests.sharded import script


def torchrun(folder, *words, ranks=2):
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={ranks}", "-m", "tests.sharded.script", str(folder), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, env=environment, timeout=300, capture_output=True, text=True, check=False
    )
    if "--kill-after" in words:
        assert done.returncode != 0
        assert not (folder / "end.json").exists()
        return None
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "end.json").read_text())


def furthest(one, other):
    assert one.keys() == other.keys()
    return max(
        float((torch.tensor(one[key]) - torch.tensor(other[key])).abs().max()) for key in one
    )


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit_and_in_one_process(tmp_path):
    whole = torchrun(tmp_path / "whole")
    assert (whole["steps"], whole["blocks"], whole["from"]) == (14, 4, 0)
    torchrun(tmp_path / "killed", "--kill-after", "8")
    kept = shutil.copytree(tmp_path / "killed", tmp_path / "alone")
    again = torchrun(tmp_path / "killed")
    assert again == {**whole, "from": 6}
    alone = script.main(kept)
    assert alone["from"] == 6
    assert furthest(alone["tensors"], whole["tensors"]) <= 1e-6
    never = script.main(tmp_path)
    assert furthest(never["tensors"], whole["tensors"]) <= 1e-6
