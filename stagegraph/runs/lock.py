"""The lock: one process at a time writes in a run's folder.

The operating system holds it and lets go of it when the process ends, however it ends. The file
``lock`` stays; what it says is for whoever is refused.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import weakref
from datetime import UTC, datetime
from pathlib import Path

from stagegraph.errors import RunFolderError
from stagegraph.runs.durable import refused

__all__ = ["FolderLock"]

LOCK = "lock"

_NOT_SUPPORTED = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL})
_SAID = 4096


class FolderLock:
    """A folder's lock, held from here on until :meth:`release`, or the end of the process.

    A child that is forked while it is held does not hold it.

    Args:
        folder: The folder; it is there.

    Raises:
        RunFolderError: Another process holds it, the folder cannot be written, or its file system
            knows no locks.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        try:
            descriptor = os.open(self.path, flags, 0o644)
        except OSError as error:
            raise refused(self.path, error) from error
        try:
            _take(descriptor)
            _say_who(descriptor)
        except OSError as error:
            told = _refusal(folder, descriptor, error)
            os.close(descriptor)
            raise told from error
        except BaseException:
            os.close(descriptor)
            raise
        self._release = weakref.finalize(self, os.close, descriptor)
        _held.add(self)

    @property
    def held(self) -> bool:
        """Whether it is held still."""
        return self._release.alive

    def release(self) -> None:
        """Let go of it."""
        self._release()


_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """Else a data loader's worker would hold the lock of a run that is dead."""
    for lock in list(_held):
        lock.release()


if sys.platform == "win32":
    import msvcrt

    def _take(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # far behind what is read
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(*error.args) from error
else:
    import fcntl

    os.register_at_fork(after_in_child=_let_go_in_child)

    def _take(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _say_who(descriptor: int) -> None:
    who = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, json.dumps(who).encode() + b"\n")


def _refusal(folder: Path, descriptor: int, error: OSError) -> RunFolderError:
    if isinstance(error, BlockingIOError):
        return RunFolderError(f"{folder} is in use by {_holder(descriptor)}")
    if error.errno in _NOT_SUPPORTED:
        return RunFolderError(
            f"{folder} cannot be locked: its file system knows no locks ({error.strerror}), so that"
            " two processes could write in it at once; choose a folder on another file system, or "
            "mount this one with locks (Lustre: -o flock; NFS: run its lock service)"
        )
    return refused(folder / LOCK, error)


def _holder(descriptor: int) -> str:
    """Who holds the lock, and what to do, as far as it has been said."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        said = json.loads(os.read(descriptor, _SAID))
        pid, host, since = int(said["pid"]), str(said["host"]), str(said["since"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process; end it, or choose another folder"
    if pid == os.getpid() and host == socket.gethostname():
        return (
            f"this very process, since {since}: an engine of it was not closed; close it "
            "(Engine.close), or choose another folder"
        )
    return f"process {pid} on {host}, since {since}; end it first, or choose another folder"
