"""Kept: the engine's part of a host's checkpoint, in a folder of its own inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stagegraph.actions.keeping.checkpoint import CONTENTS, read_checkpoint, take_checkpoint
from stagegraph.errors import SnapshotError
from stagegraph.runs.durable import make_directories, refused, remove_tree, unreadable, write_new

__all__ = ["FOLDER", "read", "write"]

FOLDER = "stagegraph"
"""Inside of the host's checkpoint."""


def write(checkpoint: Path, state: Any, *, name: str = FOLDER) -> None:
    """Write the engine's part of a checkpoint.

    Args:
        checkpoint: The host's folder; it need not be there yet.
        state: Containers, numbers and tensors.
        name: Of the folder in it.

    Raises:
        RunFolderError: It could not be written.
        UnsupportedError: Something in it cannot be kept.
    """
    files = take_checkpoint(state, "the engine's state").files()
    folder = checkpoint / name
    try:
        if folder.exists():  # a host may save one step twice, if two reasons come together
            remove_tree(folder)
        make_directories(folder)
        for file in sorted(files, key=lambda file: file == CONTENTS):  # what names the rest is last
            write_new(folder / file, files[file])
    except OSError as error:
        raise refused(folder, error) from error


def read(checkpoint: Path, *, name: str = FOLDER) -> Any:
    """The inverse of :func:`write`.

    Raises:
        RunFolderError: It cannot be read.
        SnapshotError: The checkpoint has no part of an engine's, or a damaged one.
    """
    folder = checkpoint / name
    if not (folder / CONTENTS).is_file():
        raise SnapshotError(
            f"{checkpoint} has no {name}/{CONTENTS}: it was not saved with an engine, or not to "
            "its end; resume from a checkpoint that was"
        )
    try:
        return read_checkpoint({one.name: one.read_bytes() for one in sorted(folder.iterdir())})
    except OSError as error:
        raise unreadable(folder, error) from error
