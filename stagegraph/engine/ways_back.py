"""Ways back: what a return to a snapshot brings back, and what stays as it is. Pure (rule S14)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from stagegraph.engine.ports import Restore
from stagegraph.engine.state import Options, SnapshotState, State
from stagegraph.errors import ActionError
from stagegraph.graph.compiled import CompiledGraph, PlacedAction
from stagegraph.schema.actions import RollBack

__all__ = ["brought_back", "returned", "roll_back", "taken_after"]


def brought_back(state: State, snapshot: SnapshotState) -> State:
    """A snapshot's state with what does not come back: what was spent, counted and learned.

    The snapshot itself stays, to be returned to again; those taken after it go.
    """
    kept = state.snapshots[: _place(state, snapshot) + 1]
    return replace(
        snapshot.state,
        snapshots=kept,
        spent=state.spent,
        visits=state.visits,
        fired=state.fired,
        errors=state.errors,
        events=state.events,
        observations=state.observations,
        commands=state.commands,
        options=state.options,
    )


def taken_after(state: State, snapshot: SnapshotState) -> tuple[str, ...]:
    """The ids of the snapshots that were taken after one."""
    return tuple(kept.id for kept in state.snapshots[_place(state, snapshot) + 1 :])


def _place(state: State, snapshot: SnapshotState) -> int:
    return next(n for n, kept in enumerate(state.snapshots) if kept.id == snapshot.id)


def returned(state: State, actions: Iterable[PlacedAction]) -> State | None:
    """The state that a rollback among actions leads to.

    ``None``: there is no rollback among them, or no snapshot for it.
    """
    back = next((a.action for a in actions if isinstance(a.action, RollBack)), None)
    snapshot = None if back is None else state.snapshot(back.to)
    if back is None or snapshot is None:
        return None
    return _rolled_back(state, snapshot, back)


def roll_back(
    graph: CompiledGraph, state: State, placed: PlacedAction
) -> tuple[State, Restore, tuple[str, ...]]:
    """What a rollback comes to: the state to go on from, what to restore, and snapshots that go.

    Raises:
        ActionError: There is no snapshot to return to, or no option to exclude.
    """
    action = placed.action
    assert isinstance(action, RollBack)
    snapshot = state.snapshot(action.to)
    if snapshot is None:
        raise ActionError(placed.place, f"there is no snapshot {action.to!r} to return to")
    _refuse_to_exclude_nothing(state, placed.place, action)
    attempt, times = 1 + _rollbacks(graph, state), 1 + snapshot.returns
    restore = Restore(
        placed.place,
        snapshot.id,
        action.data == "rewind" or action.skip_batches is not None,
        action.lr_factor,
        attempt if action.rng == "fork" else None,
        times * (action.skip_batches or 0),
    )
    return _rolled_back(state, snapshot, action), restore, taken_after(state, snapshot)


def _rolled_back(state: State, snapshot: SnapshotState, action: RollBack) -> State:
    """A snapshot's state after a rollback: nothing is left to go ``back`` to."""
    restored = brought_back(state, snapshot)
    regions = {name: replace(region, back=None) for name, region in restored.regions.items()}
    kept = (*restored.snapshots[:-1], replace(snapshot, returns=snapshot.returns + 1))
    options = _excluding(state, action)
    return replace(restored, regions=regions, snapshots=kept, options=options)


def _excluding(state: State, action: RollBack) -> Mapping[str, Options]:
    """What is known of options after a rollback that excludes the one that was taken last."""
    known = state.options.get(action.exclude or "", Options())
    if action.exclude is None or not known.taken:
        return state.options
    excluded = tuple(dict.fromkeys((*known.excluded, known.taken[-1])))
    return {**state.options, action.exclude: replace(known, excluded=excluded)}


def _refuse_to_exclude_nothing(state: State, place: str, action: RollBack) -> None:
    """Refuse to exclude an option where none was taken.

    Raises:
        ActionError: It is so.
    """
    if action.exclude is not None and not state.options.get(action.exclude, Options()).taken:
        reason = f"{action.exclude} has taken no option yet, so that there is none to exclude"
        raise ActionError(place, reason)


def _rollbacks(graph: CompiledGraph, state: State) -> int:
    """How many rollbacks there were in the whole run."""
    return sum(
        count
        for edge, count in state.fired.items()
        if any(isinstance(placed.action, RollBack) for placed in graph.edges[edge].actions)
    )
