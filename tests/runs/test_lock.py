"""The lock of a run's folder: one process, told who it is, and let go by any death."""

import errno
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stagegraph.errors import RunFolderError
from stagegraph.runs import lock as lock_module
from stagegraph.runs.lock import FolderLock

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and forks are asked for")

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from stagegraph.runs.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_named_with_the_way_out(tmp_path, holder):
    with pytest.raises(
        RunFolderError,
        match=rf"is in use by process {holder.pid} on .+, since 20\d\d-.*; end it first, or choose",
    ):
        FolderLock(tmp_path)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_any_death_lets_go_of_it(tmp_path, holder, how):
    holder.send_signal(how)
    holder.wait()
    lock = FolderLock(tmp_path)
    assert lock.held
    lock.release()


def test_this_very_process_is_told_apart(tmp_path):
    lock = FolderLock(tmp_path)
    with pytest.raises(
        RunFolderError, match=r"by this very process, .* close it \(Engine\.close\)"
    ):
        FolderLock(tmp_path)
    assert lock.held, "asking in vain does not let go of it"
    lock.release()
    lock.release()
    assert not lock.held
    FolderLock(tmp_path).release()


def test_who_forgets_it_lets_go_of_it(tmp_path):
    FolderLock(tmp_path)
    gc.collect()
    FolderLock(tmp_path).release()


def test_a_holder_that_has_said_nothing_is_refused_for_nevertheless(tmp_path):
    lock = FolderLock(tmp_path)
    for said in ("", "nonsense", "[]", '{"pid": "x"}', "[" * 100_000):
        (tmp_path / "lock").write_text(said)
        with pytest.raises(RunFolderError, match="in use by another process; end it, or choose"):
            FolderLock(tmp_path)
    lock.release()


def test_a_forked_child_does_not_hold_it_on(tmp_path):
    """As a data loader's worker would, when the run that made it was killed."""
    reading, writing = os.pipe()
    parent = os.fork()
    if not parent:
        lock = FolderLock(tmp_path)
        worker = os.fork()
        if not worker:
            os.write(writing, b"w")
            time.sleep(60)
        os.write(writing, b"%d " % worker)
        assert lock.held
        time.sleep(60)
    said = b""
    while b" " not in said or b"w" not in said:
        said += os.read(reading, 100)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    try:
        FolderLock(tmp_path).release()
    finally:
        os.kill(int(said.replace(b"w", b"")), signal.SIGKILL)
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused_and_said_so(tmp_path, monkeypatch, code):
    def refuse(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(lock_module, "_take", refuse)
    with pytest.raises(
        RunFolderError, match=r"its file system knows no locks .* choose a folder on another file"
    ):
        FolderLock(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match=r"lock cannot be written: No such file"):
        FolderLock(tmp_path / "nothing")
    (tmp_path / "lock").mkdir()
    with pytest.raises(RunFolderError, match=r"lock cannot be written: Is a directory"):
        FolderLock(tmp_path)


def test_a_link_in_its_place_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("x")
    (tmp_path / "lock").symlink_to("precious")
    with pytest.raises(RunFolderError, match=r"lock cannot be written"):
        FolderLock(tmp_path)
    assert (tmp_path / "precious").read_text() == "x"
