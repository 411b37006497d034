"""Disturbance: what bends the metrics' curves at a boundary, and who begins anew (rule S8).

What our own knobs do to a curve is no evidence. Where one moves, detectors start a new reference,
and the journal says which and why.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from stagegraph.engine.holding import bending, moving
from stagegraph.engine.memories import Memory, MemoryLeaf, disturbed
from stagegraph.engine.plans import Plans
from stagegraph.engine.ports import Restore
from stagegraph.engine.state import State
from stagegraph.graph.compiled import CompiledGraph
from stagegraph.schema.activities import AlphaRamp
from stagegraph.schema.base import Model

__all__ = ["causes", "changes_data", "forgetting", "kept_through", "retaken", "still_moving"]


def causes(
    graph: CompiledGraph,
    before: State,
    after: State,
    *,
    grown: Iterable[str],
    pruned: Iterable[str],
    restore: Restore | None,
) -> tuple[str, ...]:
    """What bends the curves at a boundary, each in a few words; nothing: they go on.

    Args:
        graph: The graph.
        before: The state that was decided on.
        after: The state after the moves.
        grown: The cohorts that are added.
        pruned: The places of prunes.
        restore: The return to a snapshot, if there is one.
    """
    found = [f"growth of {cohort}" for cohort in grown]
    found += [f"prune at {place}" for place in pruned]
    if restore is not None:
        found.append(f"return to {restore.snapshot}")
    held, holds = bending(graph, before), bending(graph, after)
    found += [f"end of {_words(activity)}" for activity, _ in (held - holds).elements()]
    found += [f"start of {_words(activity)}" for activity, _ in (holds - held).elements()]
    return tuple(found)


def changes_data(graph: CompiledGraph, before: State, after: State) -> bool:
    """Whether an activity that changes the data starts or ends between two states."""
    held, holds = bending(graph, before), bending(graph, after)
    return any(activity.data for activity, _ in ((held - holds) + (holds - held)))


def _words(activity: Model) -> str:
    """An activity by its kind and the number that it holds."""
    kind = str(getattr(activity, "type", "an activity"))
    for name in ("factor", "level", "size", "length", "value", "use"):
        value = getattr(activity, name, None)
        if isinstance(value, int | float | str):
            return f"{kind} {value:g}" if isinstance(value, int | float) else f"{kind} {value}"
    start, end = getattr(activity, "start", None), getattr(activity, "end", None)
    if isinstance(start, int | float) and isinstance(end, int | float):
        return f"{kind} {start:g} to {end:g}"
    return kind


def still_moving(graph: CompiledGraph, state: State) -> tuple[str, ...]:
    """The places of what goes on bending the curves; slopes are looked at when they have ended."""
    return tuple(
        held.place
        for held, _ in moving(graph, state)
        if held.activity.disturbs or isinstance(held.activity, AlphaRamp)
    )


def kept_through(memories: Mapping[str, Memory]) -> dict[str, Memory]:
    """What is left of memories when the curves are bent."""
    left = {key: disturbed(memory) for key, memory in memories.items()}
    return {key: memory for key, memory in left.items() if memory is not None}


def retaken(before: State, after: State, restore: Restore | None) -> frozenset[str]:
    """The names of snapshots and baselines that were taken between two states.

    A return to a snapshot comes to the state at the start of its boundary, when it and what was
    taken beside it were still others, or none.
    """
    ids = {snapshot.id for snapshot in before.snapshots}
    names = {snapshot.name for snapshot in after.snapshots if snapshot.id not in ids}
    names |= {
        name
        for name, baseline in after.baselines.items()
        if before.baselines.get(name) is not baseline
    }
    returned = [kept for kept in before.snapshots if restore and kept.id == restore.snapshot]
    for kept in before.snapshots if returned else ():
        if kept.state.spent.step == returned[0].state.spent.step:
            names.add(kept.name)
    return frozenset(names)


def forgetting(plans: Plans, state: State, taken: Collection[str]) -> State:
    """The state without what guards remember of comparisons with what was taken anew.

    That is nothing to go on with: they compared with another. What interrupts have kept of guards
    goes too.
    """
    if not taken:
        return state
    regions, leaves = dict(state.regions), dict[str, MemoryLeaf]()
    for name, region in state.regions.items():
        leaves |= plans[region.stage].leaves
        if region.back is not None:
            away = plans[region.back.stage].leaves
            back = replace(region.back, memories=_of_others(region.back.memories, away, taken))
            regions[name] = replace(region, back=back)
    return replace(state, regions=regions, memories=_of_others(state.memories, leaves, taken))


def _of_others(
    memories: Mapping[str, Memory], leaves: Mapping[str, MemoryLeaf], taken: Collection[str]
) -> dict[str, Memory]:
    return {
        key: memory
        for key, memory in memories.items()
        if key not in leaves or leaves[key].since not in taken
    }
