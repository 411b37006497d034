"""Returning: take a standing model back to a snapshot."""

from __future__ import annotations

from typing import Any

from stagegraph.actions.growth.operations import unwind
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.randomness import seed_all
from stagegraph.actions.snapshots import restore as restore_contents
from stagegraph.actions.standing import Standing
from stagegraph.engine.ports import Restore
from stagegraph.errors import SnapshotError

__all__ = ["return_to", "unwind_to"]


def unwind_to(standing: Standing, lineage: Lineage) -> list[str]:
    """Take back every structural change that an earlier lineage does not have.

    Returns:
        The stable ids of the blocks that went.

    Raises:
        SnapshotError: The lineage is not an earlier one of this model.
    """
    if not standing.lineage.starts_with(lineage):
        raise SnapshotError(
            "the snapshot belongs to another branch: the growths that it has are not the first "
            "growths of this model"
        )
    gone: list[str] = []
    while len(standing.lineage.changes) > len(lineage.changes):
        blocks = standing.modules_of(standing.lineage.changes[-1:])
        standing.gates.drop(blocks)
        unwind(standing.model, standing.optimizers, standing.lineage)
        if standing.averaged is not None:
            unwind(standing.averaged, (), standing.lineage)
        standing.lineage = standing.lineage.without_last()
        gone += blocks
    return gone


def return_to(standing: Standing, restore: Restore) -> dict[str, Any]:
    """Return to a snapshot; the caller undoes everything if this raises.

    A lasting factor is not among what returns: each ``lr_factor`` cuts further.

    Returns:
        What was done, as JSON data.

    Raises:
        SnapshotError: There is no such snapshot, or it does not fit this model.
    """
    snapshot = standing.snapshots.get(restore.snapshot)
    if snapshot is None:
        held = ", ".join(map(repr, standing.snapshots)) or "none"
        raise SnapshotError(
            f"the tensors of snapshot {restore.snapshot!r} are not here (held: {held}); after "
            "load_state_dict(), give what snapshots() had returned to load_snapshots()"
        )
    gone = unwind_to(standing, snapshot.lineage)
    restore_contents(
        snapshot,
        standing.model,
        standing.optimizers,
        companions=standing.companions,
        rewind_data=restore.rewind_data,
    )
    standing.attributes.return_to(standing.grown_models, snapshot.attributes)
    standing.gates.set(
        dict.fromkeys(standing.gates.alphas(), 1.0) | dict(snapshot.alphas), standing.module
    )
    if restore.lr_factor is not None:
        standing.rates.lasting *= restore.lr_factor
    seed = None if restore.fork is None else snapshot.random.forked_seed(restore.fork)
    if seed is not None:
        seed_all(seed)
    return {
        "kind": "roll_back",
        "snapshot": restore.snapshot,
        "blocks_removed": gone,
        "data": _data(standing, restore),
        "lr_factor": standing.rates.lasting,
        "rng": "restored" if seed is None else f"forked with seed {seed}",
    }


def _data(standing: Standing, restore: Restore) -> str:
    if not restore.rewind_data:
        return "goes on from where it is"
    if standing.companions.data is None:
        return "position not known: not rewound"
    if restore.skip_batches:
        return f"rewound, and {restore.skip_batches} batches skipped"
    return "rewound"
