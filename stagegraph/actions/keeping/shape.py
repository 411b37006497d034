"""The shape of a standing model and what lasts of it, as JSON data; tensors are elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from stagegraph.actions.attribute_holding import write_attributes
from stagegraph.actions.growth.operations import rebuild
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.number_holding import write_numbers
from stagegraph.actions.returning import unwind_to
from stagegraph.actions.snapshots import stable_parameters
from stagegraph.actions.standing import Standing
from stagegraph.actions.undo import Moment, UndoLog
from stagegraph.errors import SnapshotError, another_version

__all__ = ["load_shape", "shape_of"]

_VERSION = 1

_REQUIRED = frozenset({"lineage", "alphas", "lasting_lr_factor", "frozen", "held_attributes"})


def shape_of(standing: Standing) -> dict[str, Any]:
    """What the engine's state says of a model."""
    ids = {id(p): key for key, p in _parameters(standing).items()}
    return {
        "version": _VERSION,
        "lineage": standing.lineage.as_json(),
        "alphas": standing.gates.alphas(),
        "lasting_lr_factor": standing.rates.lasting,
        "frozen": {ids[id(p)]: flag for p, flag in standing.freezing.originals()},
        "held_attributes": standing.attributes.originals(),
        "held_numbers": standing.numbers.originals(),
        "snapshots": list(standing.snapshots),
    }


def load_shape(standing: Standing, state: Mapping[str, Any]) -> None:
    """Replay the structure, set gates and lasting factors; nothing is held afterwards.

    Raises:
        SnapshotError: This is no state of this version, or of another model; all is as before.
    """
    version = state.get("version")
    if version != _VERSION:
        raise SnapshotError(another_version("this model's state", version, newest=_VERSION))
    missing = _REQUIRED - set(state)
    if missing:
        raise SnapshotError(f"this state has no {', '.join(map(repr, sorted(missing)))}")
    log, lineage = UndoLog(), Lineage.from_json(state["lineage"])
    log.push(Moment(standing.models, standing.optimizers, owners=standing.owners()).restore)
    log.push(standing.remember())
    try:
        _rebuild_to(standing, lineage)
        standing.freezing.close()
        standing.attributes.close()
        standing.numbers.release()
        standing.gates.close()
        standing.gates.set(state["alphas"], standing.module)
        standing.rates.hold((), {}, lasting=state["lasting_lr_factor"])
        _restore_flags(standing, state["frozen"])
        for model in standing.grown_models:
            write_attributes(model, state["held_attributes"], what="this state")
            write_numbers(model, state.get("held_numbers", {}), what="this state")
    except BaseException:
        log.undo()
        raise


def _rebuild_to(standing: Standing, lineage: Lineage) -> None:
    unwind_to(standing, standing.lineage.shared_with(lineage))
    for change in lineage.changes[len(standing.lineage.changes) :]:
        known, parts = standing.lineage, standing.parts
        rebuild(standing.model, change, optimizers=standing.optimizers, lineage=known, parts=parts)
        if standing.averaged is not None:
            rebuild(standing.averaged, change, optimizers=(), lineage=known, parts=parts)
        standing.lineage = Lineage([*standing.lineage.changes, change])


def _restore_flags(standing: Standing, frozen: Mapping[str, bool]) -> None:
    parameters = _parameters(standing)
    unknown = [key for key in frozen if key not in parameters]
    if unknown:
        raise SnapshotError(f"this state had {', '.join(unknown)} frozen, unknown to this model")
    for key, flag in frozen.items():
        parameters[key].requires_grad_(flag)


def _parameters(standing: Standing) -> dict[str, nn.Parameter]:
    return stable_parameters(standing.model, standing.optimizers, standing.lineage)
