"""Own: what a checkpoint must hold of each rank beside what all ranks have alike.

Replicas hold the same weights and moments. Their random numbers and their places in the data are
their own, and so are those that their snapshots would return to.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stagegraph.actions.keeping.checkpoint import read_checkpoint, take_checkpoint
from stagegraph.actions.randomness import RandomState, seed_all
from stagegraph.actions.snapshots import Snapshot
from stagegraph.actions.standing import Standing
from stagegraph.errors import SnapshotError

__all__ = ["fork_own", "own_file", "pack_own", "take_own", "unpack_own"]

_DATA = "data"


def own_file(rank: int) -> str:
    """The file of a checkpoint that holds what is one rank's own."""
    return f"rank-{rank:05}.bin"


def pack_own(standing: Standing, position: Any, *, reduced: bool) -> bytes:
    """What is this rank's own, as the content of a file.

    Args:
        standing: The model with all that is held of it.
        position: Its place in the data.
        reduced: Whether gradients were averaged since the wrapper was initialised last.
    """
    snapshots = {
        name: {"random": one.random.pack(), "data": one.companions.get(_DATA)}
        for name, one in standing.snapshots.items()
    }
    state = {
        "random": RandomState.capture().pack(),
        "data": standing.companions.data_state(),
        "snapshots": snapshots,
        "position": position,
        "reduced": reduced,
    }
    files = {}
    for name, write in take_checkpoint(state, "a rank's own state").files().items():
        out = io.BytesIO()
        write(out)
        files[name] = out.getvalue()
    head = json.dumps([[name, len(content)] for name, content in files.items()]).encode()
    return len(head).to_bytes(8, "little") + head + b"".join(files.values())


def unpack_own(content: bytes) -> Any:
    """The inverse of :func:`pack_own`.

    Raises:
        SnapshotError: It cannot be read.
    """
    try:
        size = int.from_bytes(content[:8], "little")
        at, files = 8 + size, dict[str, bytes]()
        for name, length in json.loads(content[8:at]):
            files[name] = content[at : at + length]
            at += length
    except (ValueError, TypeError, RecursionError) as error:
        raise SnapshotError(f"what is a rank's own cannot be read: {error!r}") from error
    return read_checkpoint(files)


def take_own(standing: Standing, state: Mapping[str, Any]) -> Any:
    """Take up what is this rank's own, after all that all ranks have alike.

    Returns:
        Its place in the data.
    """
    for name, kept in state["snapshots"].items():
        one: Snapshot = standing.snapshots[name]
        companions = dict(one.companions)
        if kept["data"] is not None:
            companions[_DATA] = kept["data"]
        standing.snapshots[name] = replace(
            one, random=RandomState.unpack(kept["random"]), companions=companions
        )
    standing.companions.load(state["data"], data=True)
    RandomState.unpack(state["random"]).restore()
    return state["position"]


def fork_own(rank: int) -> None:
    """A rank that the run did not have draws numbers of its own from here on."""
    seed_all(RandomState.capture().forked_seed(rank))
