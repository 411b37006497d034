"""Power cuts on a real file system: what a disk image holds while checkpoints are written."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from stagegraph.runs.store import CheckpointStore
from tests.runs.disks import is_whole, save

ROOT = Path(__file__).parents[2]
CUTS = 20
SIZE = 48 << 20
SAVE = """
import sys
from pathlib import Path
from stagegraph.runs.store import CheckpointStore
from tests.runs.disks import save

store = CheckpointStore(Path(sys.argv[1]) / "checkpoints", keep=2)
for number in range(1, 1_000_000):
    save(store, number)
    print(number, flush=True)
"""


def _works():
    needed = ("mkfs.ext4", "losetup", "mount", "umount")
    if os.name == "nt" or os.geteuid() != 0 or not all(map(shutil.which, needed)):
        return False
    return subprocess.run(["losetup", "-f"], capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _works(), reason="needs a root that may mount images"),
]


@contextmanager
def mounted(image, at):
    at.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-o", "loop", str(image), str(at)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no image can be mounted here: {done.stderr}")
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


def acknowledged(process, last):
    """The last number said, of a process that is stopped."""
    os.set_blocking(process.stdout.fileno(), False)
    said = process.stdout.read() or b""
    return int(said.split()[-1]) if said.split() else last


def test_no_power_cut_loses_a_checkpoint_on_ext4(tmp_path):
    image, copy = tmp_path / "image", tmp_path / "copy"
    with image.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    draw, last, seen = random.Random(0), 0, set()
    with (
        mounted(image, tmp_path / "disk") as disk,
        subprocess.Popen(
            [sys.executable, "-c", SAVE, str(disk)], stdout=subprocess.PIPE, cwd=ROOT
        ) as process,
    ):
        try:
            time.sleep(1)
            for _ in range(CUTS):
                time.sleep(draw.random() * 0.3)
                assert process.poll() is None
                process.send_signal(signal.SIGSTOP)
                assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
                shutil.copyfile(image, copy)
                last = acknowledged(process, last)
                process.send_signal(signal.SIGCONT)
                with mounted(copy, tmp_path / "after") as after:
                    found, passed = CheckpointStore(after / "checkpoints", keep=2).newest()
                    assert found is not None and found.number >= last and is_whole(found)
                    assert all(one.number > last for one in passed)
                    save(CheckpointStore(after / "checkpoints"), found.number + 1)
                    seen.add(found.number)
        finally:
            process.kill()
            process.send_signal(signal.SIGCONT)
    assert len(seen) > CUTS / 4
