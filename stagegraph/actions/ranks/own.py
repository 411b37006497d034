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

import torch

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


def pack_own(standing: Standing, position: Any, *, reduced: bool, buffers: bool) -> bytes:
    """What is this rank's own, as the content of a file.

    Args:
        standing: The model with all that is held of it.
        position: Its place in the data.
        reduced: Whether gradients were averaged since the wrapper was initialised last.
        buffers: Whether each rank keeps buffers of its own, such as running statistics.
    """
    snapshots = {
        name: {
            "random": one.random.pack(),
            "data": one.companions.get(_DATA),
            "buffers": dict(one.buffers) if buffers else None,
        }
        for name, one in standing.snapshots.items()
    }
    state = {
        "random": RandomState.capture().pack(),
        "data": standing.companions.data_state(),
        "snapshots": snapshots,
        "position": position,
        "reduced": reduced,
        "buffers": dict(standing.model.named_buffers()) if buffers else None,
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


@torch.no_grad()
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
        own = {} if kept["buffers"] is None else {"buffers": kept["buffers"]}
        standing.snapshots[name] = replace(
            one, random=RandomState.unpack(kept["random"]), companions=companions, **own
        )
    held = dict(standing.model.named_buffers())
    for name, buffer in (state["buffers"] or {}).items():
        held[name].copy_(buffer)
    standing.companions.load(state["data"], data=True)
    RandomState.unpack(state["random"]).restore()
    return state["position"]


def fork_own(standing: Standing, rank: int) -> None:
    """A rank that the run did not have draws numbers of its own, from snapshots on too."""
    now = RandomState.capture()
    for name, one in standing.snapshots.items():
        seed_all(one.random.forked_seed(rank))
        standing.snapshots[name] = replace(one, random=RandomState.capture())
    seed_all(now.forked_seed(rank))
