"""Kept: the engine's part of a Trainer's checkpoint, in a folder of its own inside it.

It is written before all else of a checkpoint, and the Trainer writes ``trainer_state.json`` last:
a checkpoint that has both is whole, whatever the process died of.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from stagegraph.actions.keeping.checkpoint import CONTENTS
from stagegraph.errors import RunFolderError, SnapshotError
from stagegraph.trainers.kept import FOLDER, read, write

__all__ = ["FOLDER", "newest_whole", "read", "require_states", "write"]

STATES = ("optimizer.pt", "scheduler.pt")
TRAINER_STATE = "trainer_state.json"

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


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
        for name in (TRAINER_STATE, f"{FOLDER}/{CONTENTS}"):
            json.loads((checkpoint / name).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return True
