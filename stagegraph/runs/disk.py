"""Disk: every call by which a run's folder changes, one method each.

Whatever is written goes through here, so that a test can make any one call fail, stop the process
at it, or keep a record of them all and ask what a power cut would have left.
"""

from __future__ import annotations

import errno
import os
import shutil
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["DISK", "Disk"]


_NO_DIRECTORIES = frozenset({errno.EINVAL, errno.EBADF, errno.EOPNOTSUPP})
"""Said by file systems on which a directory cannot be synced, nor needs to be."""


class Disk:
    """The file system as it is."""

    def make_directory(self, path: Path) -> None:
        """Make one directory; its parent is there."""
        path.mkdir()

    def create(self, path: Path) -> FileIO:
        """Open a new file for writing, unbuffered."""
        return FileIO(path, "xb")

    def write(self, file: FileIO, data: ReadableBuffer) -> int:
        """Write as much as the system takes now; returns how many bytes."""
        return file.write(data)

    def truncate(self, file: FileIO, size: int) -> None:
        """Cut a file off."""
        file.truncate(size)

    def sync(self, file: FileIO) -> None:
        """What was written to a file is on the disk when this returns."""
        os.fsync(file.fileno())

    def close(self, file: FileIO) -> None:
        """Close a file."""
        file.close()

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or directory another name; a file of that name is replaced."""
        source.replace(target)

    def sync_directory(self, path: Path) -> None:
        """What was made, renamed and removed in a directory is on the disk when this returns."""
        if os.name == "nt":
            return  # directories cannot be opened there; its journal keeps renames in order
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NO_DIRECTORIES:
                raise
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        """Remove a file, or a link."""
        path.unlink()

    def remove_directory(self, path: Path) -> None:
        """Remove an empty directory."""
        path.rmdir()

    def free(self, path: Path) -> int:
        """How many bytes can still be written there."""
        return shutil.disk_usage(path).free


DISK = Disk()
