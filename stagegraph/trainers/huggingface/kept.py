"""Kept: the engine's part of a Trainer's checkpoint, in a folder of its own inside it.

It is written before all else of a checkpoint, and the Trainer writes ``trainer_state.json`` last:
a checkpoint that has both is whole, whatever the process died of. Of several processes each has a
part, and the Trainer goes on when all are written; what the others write after that are their
random numbers, which must be there too.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from stagegraph.actions.keeping.checkpoint import CONTENTS
from stagegraph.errors import RunFolderError, SnapshotError
from stagegraph.runs.durable import make_directories, refused, remove_tree, unreadable
from stagegraph.trainers.kept import FOLDER, read, write
from stagegraph.trainers.ranks import agreed, led, place

__all__ = ["FOLDER", "keep", "newest_whole", "require_states", "take"]

STATES = ("optimizer.pt", "scheduler.pt")
TRAINER_STATE = "trainer_state.json"

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_PART = re.compile(rf"{FOLDER}(?:_(\d+))?")


def keep(checkpoint: Path, state: Any) -> None:
    """Write this process's part of a checkpoint that the Trainer is about to write.

    A checkpoint that lies there is none from here on.

    Args:
        checkpoint: Its folder.
        state: Containers, numbers and tensors.

    Raises:
        RankError: Another process could not write its part.
        RunFolderError: It could not be written.
        UnsupportedError: Something in it cannot be kept.
    """
    rank, size = place()
    led(lambda: _clear(checkpoint, size))
    agreed(lambda: write(checkpoint, state, name=_part(rank)))


def take(checkpoint: Path) -> Any:
    """What this process has kept in a checkpoint.

    Raises:
        RankError: Another process cannot have its part.
        RunFolderError: It cannot be read.
        SnapshotError: The checkpoint has no such part, or as many processes did not save it.
    """
    return agreed(lambda: _take(checkpoint))


def require_states(checkpoint: Path) -> None:
    """Refuse a checkpoint from which training cannot go on as it was.

    Raises:
        SnapshotError: The states of optimizer or scheduler are not in it.
    """
    missing = [name for name in STATES if not (checkpoint / name).is_file()]
    if missing:
        raise SnapshotError(
            f"{checkpoint} has no {' and no '.join(missing)} (save_only_model=True?): training "
            "would go on from there with moments and a schedule of its beginning; resume from a "
            "checkpoint that has them"
        )


def newest_whole(output: Path) -> Path:
    """The newest checkpoint that was saved to its end; what is passed over is warned of.

    Raises:
        RunFolderError: There is none.
    """
    passed: list[str] = []
    for checkpoint in _newest_first(output):
        if _is_whole(checkpoint):
            if passed:
                warnings.warn(
                    f"{output}: {', '.join(passed)} had not been saved to the end; training goes "
                    f"on from {checkpoint.name}",
                    stacklevel=3,
                )
            return checkpoint
        passed.append(checkpoint.name)
    told = f"none of {', '.join(passed)} was saved to its end" if passed else "there is none"
    raise RunFolderError(
        f"{output}: no checkpoint to resume from: {told}; begin with resume_from_checkpoint=None"
    )


def _newest_first(output: Path) -> Iterator[Path]:
    try:
        found = [(m, path) for path in output.iterdir() if (m := _CHECKPOINT.fullmatch(path.name))]
    except OSError:
        return
    for _, path in sorted(found, key=lambda one: -int(one[0][1])):
        yield path


def _is_whole(checkpoint: Path) -> bool:
    try:
        size = _saved_by(checkpoint)
        for name in (TRAINER_STATE, *(f"{_part(rank)}/{CONTENTS}" for rank in range(size))):
            json.loads((checkpoint / name).read_bytes())
        return not _missing_randomness(checkpoint, size)
    except (OSError, ValueError, RecursionError):
        return False


def _take(checkpoint: Path) -> Any:
    rank, size = place()
    try:
        saved_by = _saved_by(checkpoint)
        missing = _missing_randomness(checkpoint, saved_by)
    except OSError as error:
        raise unreadable(checkpoint, error) from error
    if saved_by != size:
        raise SnapshotError(
            f"{checkpoint} was saved by {_processes(saved_by)}, and now there are {size}: each has "
            "random numbers and a share of the data of its own; resume with as many as saved it"
        )
    if missing:
        raise SnapshotError(
            f"{checkpoint} was not saved to its end: {', '.join(missing)} is not whole; choose "
            "another one, or let train(resume_from_checkpoint=True) find the newest that was"
        )
    return read(checkpoint, name=_part(rank))


def _clear(checkpoint: Path, size: int) -> None:
    """Make room for a checkpoint of so many processes."""
    try:
        (checkpoint / TRAINER_STATE).unlink(missing_ok=True)
        for rank in range(size, _saved_by(checkpoint)):
            if (checkpoint / _part(rank)).exists():
                remove_tree(checkpoint / _part(rank))
        make_directories(checkpoint)
    except OSError as error:
        raise refused(checkpoint, error) from error


def _part(rank: int) -> str:
    """The folder of one process."""
    return FOLDER if rank == 0 else f"{FOLDER}_{rank}"


def _saved_by(checkpoint: Path) -> int:
    """How many processes have saved a checkpoint; one without any part counts as one's."""
    try:
        found = [_PART.fullmatch(one.name) for one in checkpoint.iterdir()]
    except FileNotFoundError:
        return 1
    return 1 + max((int(one[1] or 0) for one in found if one is not None), default=0)


def _missing_randomness(checkpoint: Path, size: int) -> list[str]:
    """The files of random numbers, of several processes, that the Trainer would do without."""
    if size == 1 or not all((checkpoint / name).is_file() for name in STATES):
        return []  # the Trainer wrote it before the file that it writes last; or it writes none
    names = [f"rng_state_{rank}.pth" for rank in range(size)]
    return [name for name in names if not is_zipfile(checkpoint / name)]


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"
