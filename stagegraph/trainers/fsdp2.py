"""Checkpoints of a model that ``fully_shard`` (FSDP2) has sharded, with the engine that grows it.

A loop of one's own on several ranks needs no adapter to train: only its checkpoints, which no rank
has whole. All ranks call :func:`save` and :func:`load` together.

Example:
    >>> fully_shard(model, mesh=mesh)                                      # doctest: +SKIP
    >>> engine = sg.Engine(graph, model=model, optimizer=optimizer, probe=batch)
    >>> if resuming:
    ...     step = fsdp2.load("checkpoint", engine, model, optimizer)["step"]
    >>> fsdp2.save("checkpoint", engine, model, optimizer, beside={"step": step})
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stagegraph.actions.companions import Companions
from stagegraph.actions.keeping.sharded import fork_by_rank
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.optimizing.optimizers import innermost
from stagegraph.actions.parameters import unwrapped
from stagegraph.actions.sharding.checkpoint import open_sharded, save_sharded
from stagegraph.actions.sharding.units import reshard
from stagegraph.actions.snapshots import Snapshot, restore, take
from stagegraph.engine.state import DAMAGE
from stagegraph.errors import SnapshotError, another_version

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from stagegraph.session.engine import Engine

__all__ = ["load", "save"]

VERSION = 1


def save(
    folder: str | os.PathLike[str],
    engine: Engine,
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    scheduler: object = None,
    scaler: object = None,
    data: object = None,
    beside: Any = None,
) -> None:
    """Save an engine, its model and its optimizers, between two updates; all ranks must call this.

    When it returns, the checkpoint is whole and on the disk.

    Args:
        folder: A folder that all ranks see, and that holds no checkpoint yet.
        engine: The engine.
        model: Its model.
        optimizer: Its optimizer, or several.
        scheduler: LR scheduler, or several.
        scaler: Gradient scaler.
        data: Something with ``state_dict`` and ``load_state_dict``, each rank's own.
        beside: What else to keep: containers, numbers and tensors, each rank's own.

    Raises:
        SnapshotError: A rank could not write, or has something that cannot be kept; on every rank,
            and there is no checkpoint then.
    """
    model, optimizers = unwrapped(model), _innermost(optimizer)
    reshard([model])
    host = engine.host_state()
    now = take(
        model,
        optimizers,
        lineage=Lineage(),  # by today's names: the engine's state says what the structure is
        companions=Companions.of(scheduler, scaler, None, data),
        alphas={},
        attributes={},
        copied=_itself,
    )
    resting = [name for name, module in model.named_modules() if not module.training]
    state = {
        "version": VERSION,
        "engine": host,
        "now": now.pack(),
        "in_eval_mode": resting,
        "beside": beside,
    }
    save_sharded(folder, state)


def load(
    folder: str | os.PathLike[str],
    engine: Engine,
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    scheduler: object = None,
    scaler: object = None,
    data: object = None,
) -> Any:
    """Go on from a checkpoint, with a new engine; all ranks must call this.

    The model is as it was when the run began, sharded or not; the structure is replayed first, then
    weights and optimizer are loaded by name, and random numbers last. At as many ranks as before,
    all goes on bit for bit.

    Args:
        folder: What was given to :func:`save`.
        engine: A new engine.
        model: Its model.
        optimizer: Its optimizer, or several.
        scheduler: As for :func:`save`.
        scaler: As for :func:`save`.
        data: As for :func:`save`.

    Returns:
        What was kept beside it.

    Raises:
        SnapshotError: There is no whole checkpoint, or it is of another run.
    """
    model, optimizers = unwrapped(model), _innermost(optimizer)
    opened = open_sharded(folder)
    reshard([model])
    state = opened.read(model)
    version = state.get("version") if isinstance(state, dict) else None
    if version != VERSION:
        raise SnapshotError(another_version("this checkpoint", version, newest=VERSION))
    engine.resume_from(state["engine"])
    reshard([model])
    try:
        resting = set(state["in_eval_mode"])
        for name, module in model.named_modules():
            module.training = name not in resting
        restore(
            Snapshot.unpack(state["now"]),
            model,
            optimizers,
            companions=Companions.of(scheduler, scaler, None, data),
            rewind_data=True,
        )
        beside = state["beside"]
    except (*DAMAGE, RuntimeError) as error:
        raise SnapshotError(f"{opened.path} cannot be taken up: {error!r}") from error
    if not opened.same_ranks:
        fork_by_rank()
    return beside


def _innermost(optimizer: Any) -> list[Optimizer]:
    several = optimizer if isinstance(optimizer, list | tuple) else (optimizer,)
    return [innermost(one) for one in several]


def _itself(value: Any) -> Any:
    from torch import Tensor

    return value.detach() if isinstance(value, Tensor) else value
