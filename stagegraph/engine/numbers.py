"""NumbersActor: an actor without a model, for simulations and for an engine on numbers alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stagegraph.engine.conforming import check_conforms
from stagegraph.engine.ports import Boundary, Facts, Outcome
from stagegraph.errors import ActionError, SnapshotError
from stagegraph.schema.actions import Prune

__all__ = ["NumbersActor"]


class NumbersActor:
    """Adds up parameters, and does nothing else.

    Args:
        params: How many parameters the model has, if known.
        costs: Per stage that grows (``"region:stage"``) or its option (``"region:stage.option"``),
            how many parameters it adds.
    """

    def __init__(self, params: int | None = None, costs: Mapping[str, int] | None = None) -> None:
        self._params = params
        self._costs = dict(costs or {})
        self._snapshots: dict[str, int | None] = {}
        self._added: dict[str, int] = {}

    def facts(self) -> Facts:
        """What it was told, and what was added since."""
        return Facts(self._params, dict(self._costs))

    def transact(self, boundary: Boundary, confirm: Callable[[Outcome], None]) -> Outcome:
        """Add what the growths of this boundary cost, and take away what its prunes take out."""
        params, snapshots = self._params, dict(self._snapshots)
        added = dict(self._added)
        if boundary.restore is not None:
            if boundary.restore.snapshot not in snapshots:
                raise ActionError(
                    boundary.restore.place, f"there is no snapshot {boundary.restore.snapshot!r}"
                )
            params = snapshots[boundary.restore.snapshot]
        at_start = params
        evidence: dict[str, dict[str, Any]] = {}
        grown: set[str] = set()
        for deed in boundary.deeds:
            if deed.snapshot is not None:
                snapshots[deed.snapshot] = at_start
            if isinstance(deed.action, Prune) and deed.of is not None:
                gone = [added.pop(name, None) for name in deed.of.cohorts]
                known = [cost for cost in gone if cost is not None]
                after = params - sum(known) if params is not None and known == gone else None
                evidence[deed.place] = {"params": {"before": params, "after": after}}
                params = after
            stage = deed.place.partition(".actions")[0]
            if deed.cohort is None or stage in grown:
                continue
            grown.add(stage)
            cost = self._costs.get(stage)
            if cost is None and any(place.startswith(f"{stage}.") for place in self._costs):
                cost = 0  # what comes before an option is counted with the option
            if cost is not None:
                added[deed.cohort] = cost
            after = None if params is None or cost is None else params + cost
            evidence[deed.place] = {"params_before": params, "params_after": after}
            params = after
        for forgotten in boundary.forget:
            snapshots.pop(forgotten, None)
        outcome = Outcome(evidence, Facts(params, dict(self._costs)))
        confirm(outcome)
        self._params, self._snapshots, self._added = params, snapshots, added
        return outcome

    def tune(self, values: Mapping[str, float]) -> None:
        """Nothing: there is no model to set values in."""

    def state_dict(self) -> dict[str, Any]:
        """Parameters now, at each snapshot, and per growth those that it added."""
        return {
            "params": self._params,
            "snapshots": dict(self._snapshots),
            "added": dict(self._added),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`.

        Raises:
            SnapshotError: It is the state of an engine with a model.
            ValueError: It holds something else than numbers of parameters.
        """
        if set(state) - {"added"} != {"params", "snapshots"}:
            raise SnapshotError("it is of an engine with a model, and this one has none")
        params, snapshots = state["params"], dict(state["snapshots"])
        added = dict(state.get("added", {}))  # states of earlier versions have none
        check_conforms(snapshots | {"": params}, Mapping[str, int | None], place="params")
        check_conforms(added, Mapping[str, int], place="added")
        self._params, self._snapshots, self._added = params, snapshots, added
