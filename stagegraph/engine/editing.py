"""Editing: a run goes on under an edited graph; what is past stays, what is to come may change.

The past is immutable, the present pinned, the future free. Pure: the state that the old
graph has come to gives the state that the new one goes on from, or a refusal that names every edit
that cannot be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stagegraph.engine.due import evaluations
from stagegraph.engine.matching import Matches, match_activities, match_edges
from stagegraph.engine.memories import Memory, MemoryLeaf
from stagegraph.engine.plans import Plans
from stagegraph.engine.refusal import Refusal, refusal_error
from stagegraph.engine.state import BackSlot, RegionState, State
from stagegraph.engine.unchangeable import refusals
from stagegraph.engine.unstable import Recent
from stagegraph.errors import SnapshotError
from stagegraph.graph.compiled import CompiledGraph, Edge
from stagegraph.schema.differences import Difference, differences
from stagegraph.schema.dump import digest

__all__ = ["Edit", "edit", "edit_saved", "graph_of", "judge"]


@dataclass(frozen=True, slots=True)
class Edit:
    """A state under an edited graph.

    Attributes:
        state: The state to go on from.
        differences: What the edited graph says differently.
        anew: Keys of guard memories of the present stages that begin empty.
        forgotten: Keys of guard memories that nobody asks any more.
        moved: Ids of edges that are called otherwise now, because others were put before them.
        reopened: Whether a run that had spent its budget goes on.
    """

    state: State
    differences: tuple[Difference, ...]
    anew: tuple[str, ...] = ()
    forgotten: tuple[str, ...] = ()
    moved: Mapping[str, str] = field(default_factory=dict)
    reopened: bool = False

    def to_json(self) -> dict[str, Any]:
        """What the journal says of it."""
        return {
            "differences": [str(difference) for difference in self.differences],
            "anew": list(self.anew),
            "forgotten": list(self.forgotten),
            "moved": dict(self.moved),
            "reopened": self.reopened,
        }


def judge(before: CompiledGraph, after: CompiledGraph, state: State) -> list[Refusal]:
    """Every edit that a state forbids; none: it can go on under the edited graph.

    Raises:
        SnapshotError: The state tells of what the graph that it ran under does not have.
    """
    _require_own(before, state)
    return list(refusals(before, after, state, _matches(before, after)))


def edit(before: CompiledGraph, after: CompiledGraph, state: State) -> Edit:
    """The state that an edited graph goes on from.

    Args:
        before: The graph that ran.
        after: The edited one.
        state: What the first has come to.

    Raises:
        SnapshotError: The edit contradicts what has happened or is held; it names every place.
    """
    refused = judge(before, after, state)
    if refused:
        raise refusal_error(refused, after.graph.name)
    changed = tuple(differences(before.graph, after.graph))
    carrying = _Carrying(before, after, _matches(before, after))
    carried = carrying.state(state)
    reopened = state.ended == "budget" and bool(changed)
    if reopened:
        carried = replace(carried, ended=None)
    moved = {
        old: new.id
        for old, new in carrying.matches.same.items()
        if old != new.id and state.fired.get(old)
    }
    anew, forgotten = carrying.told(state, carried)
    return Edit(carried, changed, anew, forgotten, moved, reopened)


def edit_saved(
    saved: Mapping[str, Any], before: CompiledGraph, after: CompiledGraph
) -> tuple[dict[str, Any], Edit]:
    """As :func:`edit`, for what ``Core.state_dict`` has saved.

    Raises:
        SnapshotError: As for :func:`edit`; or it is no saved state, or not of the first graph.
    """
    try:
        data = saved["engine"]
    except (KeyError, TypeError) as error:
        raise SnapshotError(f"this is no saved state of an engine: {error!r}") from error
    found = edit(before, after, State.from_json(data, digest(before.graph)))
    return {**saved, "engine": found.state.to_json(digest(after.graph))}, found


def graph_of(saved: Any) -> str | None:
    """The digest of the graph that a saved engine ran under, if it says."""
    engine = saved.get("engine") if isinstance(saved, Mapping) else None
    stamp = engine.get("graph") if isinstance(engine, Mapping) else None
    return stamp if isinstance(stamp, str) else None


def _require_own(graph: CompiledGraph, state: State) -> None:
    regions = state.regions.values()
    stages = [
        *state.visits,
        *(r.stage for r in regions),
        *(r.back.stage for r in regions if r.back),
    ]
    told = [*(key for key in stages if key not in graph.stages)]
    told += [edge for edge in state.fired if edge not in graph.edges]
    if told:
        raise SnapshotError(
            f"this engine state is damaged: it tells of {told[0]!r}, which is not in the graph "
            "that it belongs to"
        )
    for snapshot in state.snapshots:
        _require_own(graph, snapshot.state)


def _matches(before: CompiledGraph, after: CompiledGraph) -> Matches:
    """The edges of one graph in another: stage by stage, then the interrupts."""
    found = Matches()

    def take(old: Iterable[Edge], new: Iterable[Edge]) -> None:
        matched = match_edges(tuple(old), tuple(new))
        found.same.update(matched.same)
        found.ambiguous.update(matched.ambiguous)

    for key, stage in before.stages.items():
        other = after.stages.get(key)
        if other is not None:
            ways = (_own(one.ways) for one in (stage, other))
            take(*ways)
    take(_interrupts(before), _interrupts(after))
    return found


def _own(ways: Iterable[Edge]) -> list[Edge]:
    return [edge for edge in ways if edge.kind != "interrupt"]


def _interrupts(graph: CompiledGraph) -> list[Edge]:
    return [edge for edge in graph.edges.values() if edge.kind == "interrupt"]


class _Carrying:
    """Everything that a state calls by a place in the old document, by its place in the new one."""

    def __init__(self, before: CompiledGraph, after: CompiledGraph, matches: Matches) -> None:
        self.before, self.after, self.matches = before, after, matches
        self._old, self._new = Plans(before), Plans(after)
        self._metrics = frozenset(after.graph.metrics)

    def state(self, state: State) -> State:
        """A state, and the states of its snapshots."""
        return replace(
            state,
            regions={name: self._region(region) for name, region in state.regions.items()},
            memories=self._memories(state.memories, _configuration(state)),
            fired=self._by_edge(state.fired),
            errors=self._by_edge(state.errors),
            blocked=self._by_edge(state.blocked),
            metrics={n: metric for n, metric in state.metrics.items() if n in self._metrics},
            wanted=self._wanted(state),
            attributions=tuple(one for one in state.attributions if one.metric in self._metrics),
            asked={name: asked for name, asked in state.asked.items() if self._is_evaluated(name)},
            baselines={
                name: replace(
                    kept,
                    values={n: v for n, v in kept.values.items() if n in self._metrics},
                    recent=self._recent(kept.recent),
                )
                for name, kept in state.baselines.items()
            },
            recent=self._recent(state.recent),
            snapshots=tuple(
                replace(kept, state=self.state(kept.state)) for kept in state.snapshots
            ),
        )

    def told(self, state: State, carried: State) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The memories that begin anew, and those that are dropped."""
        here = _configuration(state)
        old, new = self._leaves(self._old, here), self._leaves(self._new, here)
        anew = tuple(key for key, leaf in new.items() if old.get(key) != leaf)
        forgotten = tuple(key for key in state.memories if key not in carried.memories)
        return anew, forgotten

    def _by_edge(self, kept: Mapping[str, Any]) -> dict[str, Any]:
        """What is kept per edge; an edge that is not the same any more begins anew."""
        same = self.matches.same
        return {same[edge].id: value for edge, value in kept.items() if edge in same}

    def _region(self, region: RegionState) -> RegionState:
        back = region.back
        return replace(
            region,
            held=self._held(region.stage, region.held),
            back=None if back is None else self._back(back),
        )

    def _back(self, back: BackSlot) -> BackSlot:
        return replace(
            back,
            held=self._held(back.stage, back.held),
            memories=self._memories(back.memories, (back.stage,)),
        )

    def _held(self, stage: str, held: Mapping[str, Any]) -> dict[str, Any]:
        places, _, _ = match_activities(self.before.stages[stage], self.after.stages[stage])
        return {places[place]: since for place, since in held.items()}

    def _memories(
        self, memories: Mapping[str, Memory], stages: tuple[str, ...]
    ) -> dict[str, Memory]:
        """Those whose guard asks the same of the same metric as before (rule S7)."""
        old, new = self._leaves(self._old, stages), self._leaves(self._new, stages)
        return {
            key: memory
            for key, memory in memories.items()
            if key in old and old[key] == new.get(key)
        }

    def _recent(self, recent: Mapping[str, Recent]) -> dict[str, Recent]:
        """The newest values that some guard still asks for."""
        return {key: kept for key, kept in recent.items() if key in self._new.before}

    def _leaves(self, plans: Plans, stages: tuple[str, ...]) -> dict[str, MemoryLeaf]:
        return {key: leaf for stage in stages for key, leaf in plans[stage].leaves.items()}

    def _wanted(self, state: State) -> dict[str, int]:
        """Evaluations asked for; of a metric with another ``every``, the next is a whole one on."""
        kept = {}
        for name, count in evaluations(self.after, state).items():
            if not self._is_evaluated(name):
                kept[name] = count
            elif name in state.wanted:
                kept[name] = state.wanted[name]
        return kept

    def _is_evaluated(self, name: str) -> bool:
        """Whether a metric is evaluated, and as often as before."""
        before, now = self.before.graph.metrics.get(name), self.after.graph.metrics.get(name)
        every = None if now is None else now.every
        return every is not None and before is not None and before.every == every


def _configuration(state: State) -> tuple[str, ...]:
    return tuple(region.stage for region in state.regions.values())
