"""Changes: what one growth did to a model's structure, as data.

A lineage is a list of these. Each kind says which modules it added, and for tensors that became
larger where in them the new entries lie; all names are stable ids (:mod:`~.lineage`).
"""

from __future__ import annotations

from collections.abc import Mapping

from stagegraph.actions.changes.attached import Attached, NewBranch, Upcycled
from stagegraph.actions.changes.change import Axes, Change
from stagegraph.actions.changes.deepened import CountChange, Deepened, NewBlock
from stagegraph.actions.changes.experts import ExpertsAdded, ListGrown, NewExperts, NewListed
from stagegraph.actions.changes.head_added import HeadAdded
from stagegraph.actions.changes.inherited import Inherited, Regrown
from stagegraph.actions.changes.pruned import Pruned
from stagegraph.actions.changes.resized import Resized, Written
from stagegraph.engine.conforming import check_conforms
from stagegraph.engine.state import DAMAGE
from stagegraph.errors import SnapshotError

__all__ = [
    "Attached",
    "Axes",
    "Change",
    "CountChange",
    "Deepened",
    "ExpertsAdded",
    "HeadAdded",
    "Inherited",
    "ListGrown",
    "NewBlock",
    "NewBranch",
    "NewExperts",
    "NewListed",
    "Pruned",
    "Regrown",
    "Resized",
    "Upcycled",
    "Written",
    "read_change",
]

_KINDS: dict[str, type[Change]] = {
    kind.kind: kind
    for kind in (
        Deepened,
        Resized,
        Attached,
        Upcycled,
        ExpertsAdded,
        ListGrown,
        HeadAdded,
        Inherited,
        Regrown,
        Pruned,
    )
}


def read_change(data: object) -> Change:
    """A change from JSON data.

    Raises:
        SnapshotError: This is no structural change that this version knows.
    """
    name = data.get("kind") if isinstance(data, Mapping) else None
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None or not isinstance(data, Mapping):
        raise SnapshotError(
            f"this lineage holds a change of kind {name!r:.80}; this stagegraph knows "
            f"{', '.join(map(repr, _KINDS))}: resume with the version that wrote it"
        )
    try:
        change = kind.from_fields(data)
        check_conforms(change)
    except DAMAGE as error:
        raise SnapshotError(f"this lineage cannot be read: {error!r} in {data!r:.400}") from error
    return change
