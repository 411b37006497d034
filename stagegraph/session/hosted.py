"""Hosted: an engine whose checkpoints a trainer keeps, in its own, as the only ones there are.

The trainer saves weights, optimizer, schedulers, scaler and random numbers anyway. What it cannot
know is here: the engine's state (the structure in it), the snapshots and teachers, and where the
journal was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from stagegraph.engine.state import DAMAGE
from stagegraph.errors import RunFolderError, SnapshotError, another_version
from stagegraph.runs.journal import Mark
from stagegraph.session.recording import Found, Recording

__all__ = ["Hosted", "find"]

VERSION = 1


@dataclass(frozen=True, slots=True)
class Hosted:
    """What a trainer's checkpoint keeps of an engine.

    Attributes:
        engine: The engine's state dict, JSON data.
        copies: Snapshots and teachers in plain containers and tensors.
        mark: Where the journal was; ``None`` for an engine without a folder.
        taught: Whether :meth:`Engine.loss` was called for an update that the engine has not been
            told of yet.
        made: Whether an optimizer has really stepped for such an update, where a gradient scaler
            may skip.
        reduced: Whether gradients were averaged over ranks since their wrapper was initialised.
    """

    engine: Mapping[str, Any]
    copies: Mapping[str, Any]
    mark: Mark | None
    taught: bool = False
    made: bool = False
    reduced: bool = False

    def pack(self) -> dict[str, Any]:
        """The same in plain containers and tensors."""
        return {
            "version": VERSION,
            "engine": self.engine,
            "copies": self.copies,
            "journal": None if self.mark is None else asdict(self.mark),
            "taught": self.taught,
            "made": self.made,
            "reduced": self.reduced,
        }

    @classmethod
    def unpack(cls, packed: Any) -> Hosted:
        """The inverse of :meth:`pack`.

        Raises:
            SnapshotError: It cannot be read, or is of another version.
        """
        version = packed.get("version") if isinstance(packed, Mapping) else None
        if version != VERSION:
            raise SnapshotError(another_version("this state", version, newest=VERSION))
        try:
            mark = packed["journal"]
            return cls(
                packed["engine"],
                packed["copies"],
                None if mark is None else Mark(**mark),
                bool(packed["taught"]),
                bool(packed.get("made", False)),
                bool(packed.get("reduced", False)),
            )
        except DAMAGE as error:
            raise SnapshotError(f"this state of an engine cannot be read: {error!r}") from error


def find(record: Recording, kept: Hosted) -> Found:
    """Open the folder of the run that a state is of; the folder holds a run.

    Raises:
        RunFolderError: It is another run's, or cannot be read or written.
        SnapshotError: The graph was edited, and the edit contradicts what is past.
    """
    if kept.mark is None:
        raise RunFolderError(
            f"{record.folder.path} holds a run, and the checkpoint is of one without a folder; "
            "choose another folder"
        )
    return record.find_at(kept.engine, kept.mark)
