"""Generation: one whole checkpoint on the disk, read with its digests verified."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from stagegraph.errors import RunFolderError
from stagegraph.runs.lines import Mark
from stagegraph.runs.manifest import FORMAT, MANIFEST, MAX_BYTES, Manifest, NewerFormat
from stagegraph.runs.sealed import Unsealed

__all__ = ["Damaged", "Generation", "Unread", "open_generation"]


class Damaged(Exception):
    """A checkpoint that is not whole; the message says why."""


class Unread(Damaged):
    """A checkpoint of which nobody knows: the system would not let it be read this time."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One whole checkpoint.

    Attributes:
        path: Its directory.
        manifest: What it says of itself.
    """

    path: Path
    manifest: Manifest

    @property
    def number(self) -> int:
        """Its number; each checkpoint of a run has the next."""
        return self.manifest.number

    @property
    def parent(self) -> int | None:
        """The checkpoint that it came after."""
        return self.manifest.parent

    @property
    def step(self) -> int:
        """The clock of the branch that it is of."""
        return self.manifest.step

    @property
    def boundary(self) -> int:
        """Updates ever made then."""
        return self.manifest.boundary

    @property
    def metrics(self) -> Mapping[str, float]:
        """The metrics known then; one that was not finite is not a number."""
        return self.manifest.metrics

    @property
    def why(self) -> str:
        """What it was made for."""
        return self.manifest.why

    @property
    def journal(self) -> Mark:
        """Where the journal was."""
        return self.manifest.journal

    @property
    def about(self) -> Mapping[str, Any]:
        """What its writer wanted to keep of it."""
        return self.manifest.about

    @property
    def names(self) -> tuple[str, ...]:
        """Its files."""
        return tuple(self.manifest.files)

    @property
    def size(self) -> int:
        """The bytes of all its files."""
        return sum(written.size for written in self.manifest.files.values())

    def read(self, name: str) -> bytes:
        """One file.

        Raises:
            RunFolderError: It is not as it was written, or cannot be read.
            KeyError: The checkpoint has no such file.
        """
        written = self.manifest.files[name]
        try:
            with _open(self.path / name) as file:
                _require_size(file, written.size)
                content = _read(file)
            _require_digest(hashlib.sha256(content).hexdigest(), written.sha256)
        except Damaged as error:
            raise self._not_as_written(name, error) from error
        return content

    def verify(self) -> None:
        """See that every file is as it was written.

        Raises:
            Damaged: One is not.
        """
        for name in self.manifest.files:
            try:
                self._verify(name)
            except Damaged as error:
                raise type(error)(f"{name}: {error}") from error

    def verify_sizes(self) -> None:
        """See that every file is there with its size, without reading it.

        Raises:
            Damaged: One is not.
        """
        for name, written in self.manifest.files.items():
            try:
                found = (self.path / name).lstat()
            except OSError as error:
                told = _failure(error)
                raise type(told)(f"{name}: {told}") from error
            if not stat.S_ISREG(found.st_mode):
                raise Damaged(f"{name}: it is no regular file")
            if found.st_size != written.size:
                raise Damaged(f"{name}: {_sizes(found.st_size, written.size)}")

    def _verify(self, name: str) -> None:
        written = self.manifest.files[name]
        with _open(self.path / name) as file:
            _require_size(file, written.size)
            try:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise _failure(error) from error
            _require_digest(digest, written.sha256)

    def _not_as_written(self, name: str, error: Damaged) -> RunFolderError:
        return RunFolderError(
            f"{self.path / name} is not as it was written: {error}; resume from an older checkpoint"
        )


def open_generation(path: Path, number: int, run: str | None) -> Generation:
    """Read a checkpoint's manifest.

    Args:
        path: Its directory.
        number: The number that the directory's name has.
        run: The run it must belong to; ``None`` for any.

    Raises:
        Damaged: It has no whole manifest, or is not what its name says.
        RunFolderError: A newer version wrote it.
    """
    if path.is_symlink() or not path.is_dir():
        raise Damaged("it is no directory")
    try:
        with _open(path / MANIFEST) as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise Damaged(f"it is larger than {MAX_BYTES >> 20} MB")
        manifest = Manifest.from_bytes(content)
    except Unread as error:
        raise Unread(f"{MANIFEST}: {error}") from error
    except (Damaged, Unsealed) as error:
        raise Damaged(f"{MANIFEST}: {error}") from error
    except OSError as error:
        raise Unread(f"{MANIFEST}: {_failure(error)}") from error
    except NewerFormat as error:
        raise RunFolderError(
            f"{path} was made by a newer stagegraph (format {error}; this one reads {FORMAT}); "
            "update stagegraph"
        ) from error
    if manifest.number != number:
        raise Damaged(f"it is a copy of checkpoint {manifest.number}, under another name")
    if run is not None and manifest.run != run:
        raise Damaged(f"it belongs to another run ({manifest.run or 'without a name'})")
    return Generation(path, manifest)


def _open(path: Path) -> BufferedReader:
    """Open a regular file; no link is followed, and nothing is waited for."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    flags |= getattr(os, "O_BINARY", 0)
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise Damaged("it is no regular file")
        return os.fdopen(os.open(path, flags), "rb")
    except OSError as error:
        raise _failure(error) from error


def _read(file: BufferedReader) -> bytes:
    try:
        return file.read()
    except OSError as error:
        raise _failure(error) from error


def _require_size(file: BufferedReader, size: int) -> None:
    found = os.fstat(file.fileno()).st_size
    if found != size:
        raise Damaged(_sizes(found, size))


def _require_digest(found: str, wanted: str) -> None:
    if found != wanted:
        raise Damaged(f"its content was changed (sha256 {found[:12]}…, not {wanted[:12]}…)")


def _sizes(found: int, wanted: int) -> str:
    return f"it has {found:,} bytes, not {wanted:,}"


def _failure(error: OSError) -> Damaged:
    if isinstance(error, FileNotFoundError):
        return Damaged("it is missing")
    return Unread(f"it cannot be read: {error.strerror or error}")
