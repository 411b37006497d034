"""The system itself says no, or ends the process, at every call of a save."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stagegraph.runs.store import CheckpointStore
from tests.runs.disks import asides, filled, is_whole, save

ROOT = Path(__file__).parents[2]
CALLS = ("mkdir", "openat", "write", "fsync", "close", "rename", "unlink", "rmdir")
SAVE = """
import os, sys
from pathlib import Path
from stagegraph.errors import RunFolderError
from stagegraph.runs.store import CheckpointStore
from tests.runs.disks import save

store = CheckpointStore(Path(sys.argv[1]), keep=3)
store.newest()
os.chmod(sys.argv[2], 0o700)  # from here on, calls count
try:
    save(store, 4)
except RunFolderError as error:
    sys.stderr.write(str(error))
    status = 3
else:
    status = 0
os.chmod(sys.argv[2], 0o700)
os._exit(status)
"""


def strace(*arguments):
    return subprocess.run(
        ["strace", "-qq", *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )


def _works():
    if shutil.which("strace") is None:
        return False
    done = strace("-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=1", "true")
    return done.returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _works(), reason="strace is not there, or may not trace"),
]


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    path = tmp_path_factory.mktemp("before") / "checkpoints"
    filled(path, 3, keep=3)
    return path


def traced(path, tmp_path, *inject):
    log = tmp_path / "log"
    begin = tmp_path / "begin"
    begin.touch()
    done = strace(
        *("-o", str(log), "-e", f"trace=chmod,{','.join(CALLS)}", *inject),
        *(sys.executable, "-B", "-c", SAVE, str(path), str(begin)),
    )
    return done, log.read_text(errors="replace").splitlines()


@pytest.fixture(scope="module")
def points(before, tmp_path_factory):
    """Every call of a save, each with which of its kind it is since the process began."""
    tmp_path = tmp_path_factory.mktemp("points")
    shutil.copytree(before, tmp_path / "checkpoints")
    done, lines = traced(tmp_path / "checkpoints", tmp_path)
    assert done.returncode == 0, done.stderr
    begin, end = (n for n, line in enumerate(lines) if line.startswith("chmod("))
    counts, found = dict.fromkeys(CALLS, 0), []
    for number, line in enumerate(lines):
        name = re.match(r"(\w+)\(", line)[1]
        if name not in counts:
            continue
        counts[name] += 1
        if begin < number < end:
            found.append((name, counts[name]))
    assert len(found) > 40 and {name for name, _ in found} == set(CALLS)
    return found


def require_consistent(path, at, *, died):
    store = CheckpointStore(path, keep=2)
    found, passed = store.newest()
    assert found is not None and found.number >= 3 and is_whole(found), at
    assert passed == (), at
    if died:
        store.clean()
    assert asides(path) == [], at
    assert is_whole(save(store, found.number + 1)), at


def test_a_kill_at_every_call(before, points, tmp_path):
    for name, number in points:
        path = tmp_path / "checkpoints"
        shutil.copytree(before, path)
        done, _ = traced(path, tmp_path, "-e", f"inject={name}:signal=KILL:when={number}")
        assert done.returncode in (-9, 137), (name, number)
        require_consistent(path, (name, number), died=True)
        shutil.rmtree(path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_an_error_at_every_call(before, points, tmp_path, code):
    refused = []
    for name, number in points:
        path = tmp_path / "checkpoints"
        shutil.copytree(before, path)
        inject = f"inject={name}:error={errno.errorcode[code]}:when={number}"
        done, _ = traced(path, tmp_path, "-e", inject)
        assert done.returncode in (0, 3), (name, number, done.stderr)
        if done.returncode == 3:
            refused.append(name)
            assert os.strerror(code) in done.stderr, (name, number, done.stderr)
            assert asides(path) == [], (name, number)
        else:
            assert CheckpointStore(path).newest()[0].number == 4, (name, number)
        require_consistent(path, (name, number), died=done.returncode == 0)
        shutil.rmtree(path)
    made = [name for name, _ in points]
    for name in ("mkdir", "write"):
        assert refused.count(name) == made.count(name)
    assert refused.count("fsync") == made.count("fsync") - 1, "but for the one after retention"
    assert refused.count("rename") == 1, "and not what retention renames"
