"""Keeping: the engine's part of what ``accelerator.save_state`` writes and ``load_state`` reads.

Accelerate calls its hooks before it writes or loads anything. So the engine's part is the first of
a checkpoint, and random numbers or the last registered object are the last: a checkpoint that has
both is whole, whatever the process died of.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import is_zipfile

from accelerate import Accelerator
from accelerate.utils.constants import RNG_STATE_NAME

from stagegraph.engine.state import DAMAGE
from stagegraph.errors import RunFolderError, SnapshotError
from stagegraph.runs.durable import refused, unreadable, write_new
from stagegraph.trainers import kept

__all__ = ["newest_whole", "number_of", "read", "write"]

SUFFIX = ".json"
"""Of the file beside our folder, which is written after it and names the files to come last."""

_NUMBER = re.compile(r"(\d+)$")


def write(checkpoint: Path, state: Any, accelerator: Accelerator) -> None:
    """Write the engine's part of a checkpoint that accelerate is about to write.

    A checkpoint that lies there is none from here on: accelerate writes over it, file by file.

    Args:
        checkpoint: Its folder.
        state: Containers, numbers and tensors.
        accelerator: Who writes the rest.

    Raises:
        RunFolderError: It could not be written.
        UnsupportedError: Something in it cannot be kept.
    """
    last, name = _last(accelerator), _name(accelerator)
    told = checkpoint / f"{name}{SUFFIX}"
    try:
        told.unlink(missing_ok=True)
        if accelerator.is_main_process:
            for other in last:
                (checkpoint / other).unlink(missing_ok=True)
    except OSError as error:
        raise refused(checkpoint, error) from error
    kept.write(checkpoint, state, name=name)
    try:
        write_new(told, partial(_write, json.dumps(last).encode()))
    except OSError as error:
        raise refused(told, error) from error


def read(checkpoint: Path, accelerator: Accelerator) -> Any:
    """The inverse of :func:`write`.

    Raises:
        RunFolderError: It cannot be read.
        SnapshotError: The checkpoint was not saved with an engine, or not to its end.
    """
    name = _name(accelerator)
    missing = _missing(checkpoint, name)
    if missing:
        told = f"there is no {', no '.join(missing)}, or not the whole of it"
        raise SnapshotError(
            f"{checkpoint} was not saved with an engine, or not to its end: {told}; choose another "
            "one (newest_whole(folder) finds the newest), or load it before the engine is made, "
            "for its weights alone"
        )
    return kept.read(checkpoint, name=name)


def newest_whole(folder: str | Path) -> Path | None:
    """The newest checkpoint in a folder that was saved to its end; others are warned of.

    Example::

        newest = newest_whole("checkpoints")
        if newest is not None:
            accelerator.load_state(newest)

    Args:
        folder: Where checkpoints are, each a folder whose name ends in a number: ``step_200``, or
            accelerate's own ``checkpoint_3``. The highest number is the newest.

    Returns:
        Its path; ``None`` if there is no checkpoint at all.

    Raises:
        RunFolderError: There are some, and none is whole.
    """
    home, passed = Path(folder), list[str]()
    for checkpoint in _newest_first(home):
        if not _missing(checkpoint, kept.FOLDER):
            if passed:
                warnings.warn(
                    f"{home}: {', '.join(passed)} had not been saved to the end; training goes on "
                    f"from {checkpoint.name}",
                    stacklevel=2,
                )
            return checkpoint
        passed.append(checkpoint.name)
    if not passed:
        return None
    raise RunFolderError(
        f"{home}: none of {', '.join(passed)} was saved to its end by an accelerator with an "
        "engine; begin anew in another folder"
    )


def number_of(checkpoint: Path) -> int | None:
    """The number that a checkpoint's name ends in, if it does."""
    found = _NUMBER.search(checkpoint.name)
    return None if found is None else int(found[1])


def _newest_first(home: Path) -> Iterator[Path]:
    try:
        found = [one for one in home.iterdir() if one.is_dir() and number_of(one) is not None]
    except FileNotFoundError:
        return
    except OSError as error:
        raise unreadable(home, error) from error
    yield from sorted(found, key=lambda one: -(number_of(one) or 0))


def _name(accelerator: Accelerator) -> str:
    """Our folder: of the first process, or of another one."""
    rank = accelerator.process_index
    return kept.FOLDER if rank == 0 else f"{kept.FOLDER}_{rank}"


def _last(accelerator: Any) -> list[str]:
    """The files that accelerate writes after all others."""
    registered = len(accelerator._custom_objects)  # noqa: SLF001 - accelerate says it nowhere else
    if registered:
        return [f"custom_checkpoint_{registered - 1}.pkl"]
    return [f"{RNG_STATE_NAME}_{rank}.pkl" for rank in range(accelerator.num_processes)]


def _write(data: bytes, out: BinaryIO) -> None:
    out.write(data)


def _missing(checkpoint: Path, name: str) -> list[str]:
    """What a checkpoint lacks of what its end would have brought."""
    told = checkpoint / f"{name}{SUFFIX}"
    try:
        last = [str(one) for one in json.loads(told.read_bytes())]
    except (OSError, RecursionError, *DAMAGE):
        return [told.name]
    return [one for one in last if not is_zipfile(checkpoint / one)]
