"""References: what guards with ``since`` compare with, kept by a snapshot or by a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stagegraph.engine.unstable import Recent
from stagegraph.progress import Progress

if TYPE_CHECKING:
    from stagegraph.engine.memories import MemoryLeaf
    from stagegraph.engine.state import State

__all__ = [
    "BaselineState",
    "Reference",
    "baseline_of",
    "recent_from_json",
    "recent_to_json",
    "reference_of",
]


@dataclass(frozen=True, slots=True)
class Reference:
    """What was known of a metric when a snapshot or a baseline was taken.

    Attributes:
        value: Its last finite value before.
        recent: The newest values before, where a guard asks for them; none if they are of other
            data than there is now.
        taken: Progress when it was taken.
    """

    value: float | None
    recent: Recent
    taken: Progress


@dataclass(frozen=True, slots=True)
class BaselineState:
    """All metrics as they were at the start of a boundary.

    Attributes:
        taken: Progress at that boundary.
        values: The last finite value of each metric that had one.
        recent: The newest values of metrics whose level and spread a guard asks for, by key.
        observations: The count of observations then.
    """

    taken: Progress
    values: Mapping[str, float] = field(default_factory=dict)
    recent: Mapping[str, Recent] = field(default_factory=dict)
    observations: int = 0

    def to_json(self) -> dict[str, Any]:
        """The baseline as JSON data."""
        return {
            "taken": self.taken.to_json(),
            "values": dict(self.values),
            "recent": recent_to_json(self.recent),
            "observations": self.observations,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BaselineState:
        """The inverse of :meth:`to_json`."""
        return cls(
            Progress.from_json(data["taken"]),
            dict(data["values"]),
            recent_from_json(data["recent"]),
            data.get("observations", 0),
        )


def baseline_of(state: State) -> BaselineState:
    """A baseline taken in a state."""
    values = {n: metric.last for n, metric in state.metrics.items() if metric.last is not None}
    return BaselineState(state.clock, values, state.recent, state.observations)


def reference_of(leaf: MemoryLeaf, state: State) -> Reference | None:
    """What a guard compares with; ``None`` if it compares with nothing, or that is not taken yet.

    The newest snapshot of the name on the present branch, or the baseline of the name.
    """
    if leaf.since is None:
        return None
    snapshot = state.snapshot(leaf.since)
    kept = state.baselines.get(leaf.since) if snapshot is None else baseline_of(snapshot.state)
    if kept is None:
        return None
    of_this_data = state.data_changed < kept.observations
    recent = kept.recent.get(leaf.before or "", Recent()) if of_this_data else Recent()
    return Reference(kept.values.get(leaf.metric), recent, kept.taken)


def recent_to_json(recent: Mapping[str, Recent]) -> dict[str, Any]:
    """The newest values of metrics as JSON data."""
    return {key: [list(one.values), one.at] for key, one in recent.items()}


def recent_from_json(data: Mapping[str, Any]) -> dict[str, Recent]:
    """The inverse of :func:`recent_to_json`."""
    return {key: Recent(tuple(values), at) for key, (values, at) in data.items()}
