"""The whole state of a sharded standing model: saved and taken up by all its ranks together."""

from __future__ import annotations

import os
from typing import Any

from stagegraph.actions.keeping.state import load_state, state_of
from stagegraph.actions.randomness import RandomState, seed_all
from stagegraph.actions.sharding.checkpoint import open_sharded, rank_and_size, save_sharded
from stagegraph.actions.sharding.units import reshard
from stagegraph.actions.standing import Standing
from stagegraph.engine.state import DAMAGE
from stagegraph.errors import SnapshotError

__all__ = ["fork_by_rank", "load_standing", "save_standing"]


def save_standing(folder: str | os.PathLike[str], standing: Standing, beside: Any) -> None:
    """Save a model, its optimizers and all that is held of them; all ranks must call this.

    Args:
        folder: A folder that all ranks see, and that holds no checkpoint yet.
        standing: The model.
        beside: Containers and tensors of others, such as the data's position; each rank's own.

    Raises:
        SnapshotError: A rank could not write, or has something that cannot be kept; on every rank,
            and there is no checkpoint then.
    """
    reshard(standing.models)
    save_sharded(folder, {"model": state_of(standing), "beside": beside})


def load_standing(folder: str | os.PathLike[str], standing: Standing) -> Any:
    """Take a checkpoint up in a model whose structure has been replayed; all ranks must call this.

    Returns:
        What was kept beside it.

    Raises:
        SnapshotError: It cannot be read, or is of another model.
    """
    opened = open_sharded(folder)
    reshard(standing.models)
    state = opened.read(standing.model)
    try:
        load_state(standing, state["model"])
        beside = state["beside"]
    except (*DAMAGE, RuntimeError) as error:
        raise SnapshotError(f"this checkpoint cannot be taken up: {error!r}") from error
    if not opened.same_ranks:
        fork_by_rank()
    return beside


def fork_by_rank() -> None:
    """Let every rank but the first draw other numbers than it, which all have the same now."""
    rank, _ = rank_and_size()
    if rank:
        seed_all(RandomState.capture().forked_seed(rank))
