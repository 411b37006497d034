"""Durable writing: whole and on the disk, or not there at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from stagegraph.errors import RunFolderError
from stagegraph.runs.disk import DISK, Disk

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = [
    "Written",
    "make_directories",
    "put_file",
    "put_text",
    "refused",
    "remove_tree",
    "unreadable",
    "write_new",
]

_BUFFER = 1 << 20

_REMEDIES = {
    errno.ENOSPC: "free some space there, or choose a folder on another disk",
    errno.EDQUOT: "free some space within your quota, or choose another folder",
    errno.EFBIG: "a limit on the size of files stands against it: raise it (ulimit -f)",
    errno.EROFS: "it is mounted read-only: choose another folder",
    errno.EACCES: "make it writable for you, or choose another folder",
    errno.EPERM: "make it writable for you, or choose another folder",
    errno.EIO: "the disk or the network under it failed: see to it, or choose another folder",
    errno.ESTALE: "the network file system lost it: see to it, or choose another folder",
    errno.EMFILE: "too many files are open: close some, or raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine: close some",
    errno.ENAMETOOLONG: "choose a shorter name",
}
_ELSE = "choose another folder"


def refused(path: Path, error: OSError) -> RunFolderError:
    """The error for what could not be written: the path, the cause, the way out."""
    cause = error.strerror or str(error)
    return RunFolderError(
        f"{path} cannot be written: {cause}; {_REMEDIES.get(error.errno or 0, _ELSE)}"
    )


def unreadable(path: Path, error: OSError) -> RunFolderError:
    """The error for what could not be read."""
    return RunFolderError(f"{path} cannot be read: {error.strerror or error}")


@dataclass(frozen=True, slots=True)
class Written:
    """What a file came to.

    Attributes:
        size: Its bytes.
        sha256: Their digest, computed while they were written.
    """

    size: int
    sha256: str


def write_new(path: Path, write: Callable[[BinaryIO], None], *, disk: Disk = DISK) -> Written:
    """Write a new file and sync it; its name is durable once its directory is synced.

    Args:
        path: The file; it is not there yet.
        write: Writes the content front to back, into what it is given.
        disk: Where.

    Raises:
        OSError: It could not be written; half of it may be there.
    """
    raw = _Digesting(path, disk)
    buffered = io.BufferedWriter(raw, _BUFFER)
    try:
        write(buffered)
        buffered.flush()
        raw.sync()
    except BaseException:
        raw.abandon()  # else closing would write the rest after all, and hide what failed
        with contextlib.suppress(OSError):
            buffered.close()
        raise
    buffered.close()
    return raw.written


class _Digesting(io.RawIOBase):
    """A new file that is written front to back, and digested as it is."""

    def __init__(self, path: Path, disk: Disk) -> None:
        super().__init__()
        self._disk = disk
        self._file = disk.create(path)
        self._digest = hashlib.sha256()
        self._size = 0
        self._abandoned = False

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        view = memoryview(data).cast("B")
        if self._abandoned:
            return len(view)
        taken = self._disk.write(self._file, view)
        self._digest.update(view[:taken])
        self._size += taken
        return taken

    def sync(self) -> None:
        self._disk.sync(self._file)

    def abandon(self) -> None:
        """Write nothing more: what is still buffered is of no use."""
        self._abandoned = True

    def close(self) -> None:
        if not self.closed:
            try:
                self._disk.close(self._file)
            finally:
                super().close()

    @property
    def written(self) -> Written:
        return Written(self._size, self._digest.hexdigest())


def put_file(path: Path, content: bytes, *, disk: Disk = DISK) -> None:
    """Put a file in its place, or replace it, in one step: written aside, synced, renamed.

    Raises:
        RunFolderError: It could not be written; what stood there stands as it was.
    """
    aside = path.with_name(f".tmp-{secrets.token_hex(4)}-{path.name}")
    try:
        try:
            write_new(aside, lambda file: _write_all(file, content), disk=disk)
            disk.rename(aside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                disk.remove(aside)
            raise
        disk.sync_directory(path.parent)
    except OSError as error:
        raise refused(path, error) from error


def put_text(path: Path, text: str, *, disk: Disk = DISK) -> None:
    """As :func:`put_file`, for a text."""
    put_file(path, text.encode(errors="backslashreplace"), disk=disk)


def _write_all(file: BinaryIO, content: bytes) -> None:
    file.write(content)


def make_directories(path: Path, *, disk: Disk = DISK) -> None:
    """Make a directory and those above it that are missing, durably.

    One that is there already may have been made by a process that died before it was durable.

    Raises:
        OSError: One could not be made.
    """
    missing: list[Path] = []
    at = path
    while not at.exists():
        missing.append(at)
        at = at.parent
    for made in reversed(missing):
        disk.make_directory(made)
        disk.sync_directory(made.parent)
    if not missing:
        with contextlib.suppress(PermissionError):  # who may not look there has not made it
            disk.sync_directory(path.parent)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def remove_tree(path: Path, *, disk: Disk = DISK) -> None:
    """Remove a directory and all in it; links are removed, never followed.

    Raises:
        OSError: Something could not be removed.
    """
    for entry in _entries(path):
        if entry.is_dir(follow_symlinks=False):
            remove_tree(Path(entry.path), disk=disk)
        else:
            disk.remove(Path(entry.path))
    disk.remove_directory(path)


def _entries(path: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        yield from list(entries)
