"""Whatever fails, and whenever the process stops: what was acknowledged can be loaded."""

import errno
import os
import shutil

import pytest

from stagegraph.errors import RunFolderError
from stagegraph.runs.store import CheckpointStore
from tests.runs import disks
from tests.runs.disks import asides, contents, filled, is_whole, save


def a_save(path, disk):
    """The save that fails: one that retires an older checkpoint too."""
    store = CheckpointStore(path, keep=3, best=("loss", "min"), disk=disk)
    store.newest()
    return save(store, 4)


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A store of which the next save removes a checkpoint."""
    path = tmp_path_factory.mktemp("before") / "checkpoints"
    filled(path, 3, keep=3)
    return path


@pytest.fixture(scope="module")
def calls(before, tmp_path_factory):
    """Every call of that save."""
    path = tmp_path_factory.mktemp("calls") / "checkpoints"
    shutil.copytree(before, path)
    disk = disks.counting()
    a_save(path, disk)
    return disk.calls


@pytest.fixture
def path(before, tmp_path):
    shutil.copytree(before, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def restored(before, path):
    shutil.rmtree(path)
    shutil.copytree(before, path)


def require_consistent(path, acknowledged, *, died=False):
    """What holds after any failure."""
    store = CheckpointStore(path, keep=2, disk=disks.QUICK)
    found, passed = store.newest()
    assert passed == (), "whatever has a checkpoint's name is whole"
    assert found.number >= acknowledged and is_whole(found)
    assert all(map(is_whole, store.generations()))
    if died:
        assert store.clean() == ()
    assert asides(path) == []
    saved = save(store, found.number + 1)
    assert is_whole(saved) and saved.number == found.number + 1
    assert [g.number for g in store.generations()] == [found.number, found.number + 1]


def test_the_calls_are_those_that_make_it_durable(calls):
    files = len(contents(1)) + 1
    written = calls.count("write")
    assert files - 1 <= written <= files, "a file without content needs no write"
    assert calls.count("sync") == calls.count("create") == calls.count("close") == files
    renamed = calls.index("rename")
    assert calls[renamed - 1] == calls[renamed + 1] == "sync_directory"
    assert "remove" not in calls[: renamed + 2], "retention only after it is on the disk"
    assert calls[renamed + 2 : renamed + 5] == ["rename", "sync_directory", "remove"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES])
def test_an_error_at_every_call(before, path, calls, code):
    for at, name in enumerate(calls):
        restored(before, path)
        disk = disks.failing(at, code)
        try:
            saved = a_save(path, disk)
        except RunFolderError as error:
            told = str(error)
        else:
            told = ""
        assert disk.number > at
        if told:
            assert str(path) in told and os.strerror(code) in told
            assert asides(path) == [], f"{name} (call {at}) left something behind"
            number = 3
            olds = (
                [1, 2, 3, 4] if name == "sync_directory" and "rename" in disk.calls else [1, 2, 3]
            )
            assert [g.number for g in CheckpointStore(path).generations()] == olds
        else:
            number = saved.number
            assert "rename" in calls[:at], f"{name} (call {at}) failed and nobody said so"
        require_consistent(path, number, died=number == 4)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_from_some_call_on(before, path, calls, code):
    for at in range(len(calls)):
        restored(before, path)
        number, told = 3, os.strerror(code)
        try:
            number = a_save(path, disks.failing(at, code, times=1000)).number
        except RunFolderError as error:
            told = str(error)
        assert os.strerror(code) in told
        require_consistent(path, number, died=True)


def test_an_interruption_at_every_call(before, path, calls):
    for at in range(len(calls)):
        restored(before, path)
        with pytest.raises(KeyboardInterrupt):
            a_save(path, disks.interrupted(at))
        require_consistent(path, 3, died=True)
        if "rename" not in calls[:at]:
            restored(before, path)
            with pytest.raises(KeyboardInterrupt):
                a_save(path, disks.interrupted(at))
            assert asides(path) == []


def test_a_death_at_every_call(before, path, calls):
    acknowledged = 0
    for at in range(len(calls)):
        restored(before, path)
        with pytest.raises(disks.Death):
            a_save(path, disks.dying(at))
        require_consistent(path, 3, died=True)
        acknowledged += 1
    assert acknowledged == len(calls)


def test_deaths_during_the_recovery_from_a_death(before, path, calls):
    for at in range(0, len(calls), 3):
        restored(before, path)
        with pytest.raises(disks.Death):
            a_save(path, disks.dying(at))
        for again in range(12):
            store = CheckpointStore(path, keep=2, disk=disks.dying(again))
            found, passed = store.newest()
            assert found.number >= 3 and is_whole(found) and passed == ()
            try:
                store.clean()
                save(store, found.number + 1)
            except disks.Death:
                continue
            break
        require_consistent(path, 3, died=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_kill_at_every_call(before, path, calls):
    for at in range(len(calls)):
        restored(before, path)
        child = os.fork()
        if not child:
            try:
                a_save(path, disks.killed(at))
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"call {at} was never made"
        require_consistent(path, 3, died=True)


def test_failures_while_the_first_checkpoint_is_written(tmp_path):
    disk = disks.counting()
    save(CheckpointStore(tmp_path / "whole", disk=disk), 1)
    for at in range(len(disk.calls)):
        path = tmp_path / str(at)
        with pytest.raises(disks.Death):
            save(CheckpointStore(path, disk=disks.dying(at)), 1)
        store = CheckpointStore(path)
        found, passed = store.newest()
        assert passed == () and (found is None or is_whole(found))
        store.clean()
        assert is_whole(save(store, 2 if found else 1))


def test_many_failures_in_a_row_cost_nothing(path):
    for _ in range(20):
        with pytest.raises(RunFolderError):
            a_save(path, disks.failing(5, errno.ENOSPC))
    assert [g.number for g in CheckpointStore(path).generations()] == [1, 2, 3]
    require_consistent(path, 3)
