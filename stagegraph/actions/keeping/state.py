"""The whole state of a standing model: what a checkpoint holds, and how it is taken up again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stagegraph.actions.distilling.teachers import TEACHER, Teacher
from stagegraph.actions.randomness import RandomState
from stagegraph.actions.snapshots import Snapshot, restore, take
from stagegraph.actions.standing import Standing
from stagegraph.errors import SnapshotError, another_version

__all__ = ["held_copies", "load_copies", "load_state", "state_of"]

_LOG = logging.getLogger("stagegraph")

VERSION = 1


def state_of(standing: Standing) -> dict[str, Any]:
    """All that training changes, by reference: the caller copies it before training goes on."""
    now = take(
        standing.model,
        standing.optimizers,
        lineage=standing.lineage,
        companions=standing.companions,
        alphas=standing.gates.alphas(),
        attributes=standing.attributes.values(),
        copied=_itself,
    )
    resting = [
        standing.lineage.stable(name)
        for name, module in standing.model.named_modules()
        if not module.training
    ]
    untrained = [
        standing.lineage.stable(name)
        for name, parameter in standing.model.named_parameters()
        if not standing.freezing.original(parameter)
    ]
    return {
        "version": VERSION,
        "now": now.pack(),
        "optimizers": [type(optimizer).__name__ for optimizer in standing.optimizers],
        "copies": held_copies(standing),
        "in_eval_mode": resting,
        "not_trained": untrained,
    }


def _itself(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def load_state(standing: Standing, state: Any) -> None:
    """Take a state up in a model of the same structure; the random numbers come last.

    Raises:
        SnapshotError: It is of another version, or of another model or optimizer.
    """
    version = state.get("version") if isinstance(state, Mapping) else None
    if version != VERSION:
        raise SnapshotError(another_version("this checkpoint", version, newest=VERSION))
    try:
        now, resting = Snapshot.unpack(state["now"]), set(state["in_eval_mode"])
        untrained = set(state["not_trained"])
        copies, optimizers = state["copies"], list(state["optimizers"])
    except (KeyError, TypeError) as error:
        raise SnapshotError(f"this checkpoint cannot be read: {error!r}") from error
    companions = set(standing.companions.named(data=True))
    if companions != set(now.companions):
        raise SnapshotError(_other_companions(set(now.companions), companions))
    mine = [type(optimizer).__name__ for optimizer in standing.optimizers]
    if mine != optimizers:
        raise SnapshotError(
            f"this checkpoint is of a run with the optimizers {', '.join(optimizers) or 'none'}, "
            f"and this engine has {', '.join(mine) or 'none'}; give it those of the run's beginning"
        )
    load_copies(standing, copies)
    for name, module in standing.model.named_modules():
        module.training = standing.lineage.stable(name) not in resting
    for name, parameter in standing.model.named_parameters():
        trained = standing.lineage.stable(name) not in untrained
        standing.freezing.be_originally(parameter, trained=trained)
    restore(
        now,
        standing.model,
        standing.optimizers,
        companions=standing.companions,
        rewind_data=True,
    )
    standing.hear_again()
    _say_other_devices(now.random, standing)


def _say_other_devices(kept: RandomState, standing: Standing) -> None:
    """Say it where what the devices draw from now on is not what they would have drawn."""
    here = torch.cuda.device_count()
    on_cuda = any(parameter.is_cuda for parameter in standing.model.parameters())
    if here < len(kept.cuda) or (on_cuda and not kept.cuda):
        _LOG.warning(
            "the checkpoint holds the random numbers of %d CUDA devices, and here are %d: what is "
            "drawn on a device from now on, such as dropout's masks, is not what the run would "
            "have drawn; everything else is as it was",
            len(kept.cuda),
            here,
        )


def _other_companions(kept: set[str], given: set[str]) -> str:
    missing, more = sorted(kept - given), sorted(given - kept)
    parts = []
    if missing:
        parts.append(f"it holds the state of {', '.join(missing)}, which this engine was not given")
    if more:
        parts.append(f"this engine was given {', '.join(more)}, whose state it does not hold")
    return (
        f"this checkpoint is of a run with other parts: {'; '.join(parts)}; give Engine(...) the "
        "scheduler, scaler, ema and data that the run began with"
    )


def held_copies(standing: Standing) -> dict[str, Any]:
    """All snapshots and teachers in plain containers and tensors, for a checkpoint."""
    packed = {name: snapshot.pack() for name, snapshot in standing.snapshots.items()}
    held = [standing.lineage.stable(path) for path in standing.attributes.values()]
    return packed | {key: one.pack(held) for key, one in standing.teachers.items()}


def load_copies(standing: Standing, packed: Mapping[str, Any]) -> None:
    """The inverse of :func:`held_copies`.

    Raises:
        SnapshotError: One of them cannot be read.
    """
    teachers = {
        key: Teacher.unpack(one, model=standing.model, lineage=standing.lineage)
        for key, one in packed.items()
        if key.startswith(TEACHER)
    }
    standing.snapshots = {
        name: Snapshot.unpack(one) for name, one in packed.items() if name not in teachers
    }
    standing.teachers = teachers
