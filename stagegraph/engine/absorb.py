"""absorb: a state and an observation give the next state. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import NamedTuple

from stagegraph.engine.memories import Memory, MemoryLeaf, remember
from stagegraph.engine.plans import Plans
from stagegraph.engine.state import MetricState, State
from stagegraph.progress import Progress
from stagegraph.schema.guards import Regressed

__all__ = ["Arrival", "Observation", "absorb", "told_twice"]


class Arrival(NamedTuple):
    """One value of a metric.

    Attributes:
        name: The metric.
        value: The value.
        ago: How many updates before the end of the observation it came.
        seen: Whether it is looked at. What comes sooner than the metric's ``look_every`` is not,
            nor what says again what was said at the same boundary.
        trend: Whether guards that remember look at it too.
        cell: In which of the metric's ``look_every`` intervals it came.
        again: Whether the metric had a value at this boundary already.
    """

    name: str
    value: float
    ago: int = 0
    seen: bool = True
    trend: bool = True
    cell: int | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen since the last one.

    Attributes:
        progress: What was added: updates made, samples, tokens, passes, seconds.
        metrics: Values in the order they came.
    """

    progress: Progress = Progress()
    metrics: tuple[Arrival, ...] = ()


def told_twice(state: State, progress: Progress, arrivals: Iterable[Arrival]) -> list[Arrival]:
    """The arrivals, with those marked that come twice at one boundary.

    The same value again, and nothing has moved in between, is the same observation told twice:
    it is not looked at. Another value is another observation, and the last one counts.
    """
    spent = state.spent.step + progress.step
    moved = max((state.disturbed, *(region.since for region in state.regions.values())))
    newest = {
        name: (metric.boundary, metric.value)
        for name, metric in state.metrics.items()
        if metric.seen > moved
    }
    found = []
    for arrival in arrivals:
        if arrival.seen:
            boundary = spent - arrival.ago
            value = arrival.value if isfinite(arrival.value) else None
            before = newest.get(arrival.name)
            if before is not None and before[0] == boundary:
                arrival = arrival._replace(again=True, seen=before[1] != value)  # noqa: PLW2901
            newest[arrival.name] = (boundary, value)
        found.append(arrival)
    return found


def absorb(plans: Plans, state: State, observation: Observation) -> State:
    """The state after an observation: clocks, metrics and guard memories moved on.

    Several observations without metrics are the same as one that holds their sum.
    """
    clock = state.clock + observation.progress
    state = replace(state, clock=clock, spent=state.spent + observation.progress)
    if not observation.metrics:
        return state
    newest = {name: _Newest(metric) for name, metric in state.metrics.items()}
    memories = dict(state.memories)
    listening = _listening(plans, state)
    count = state.observations
    for arrival in observation.metrics:
        name, value = arrival.name, arrival.value
        count += 1
        metric = newest.get(name)
        if metric is None:
            metric = newest[name] = _Newest(MetricState(None, None, None, 0))
        metric.came = count
        if not arrival.seen:
            continue
        metric.seen, metric.cell = count, arrival.cell
        metric.boundary = state.spent.step - arrival.ago
        if not isfinite(value):
            metric.value = None
            metric.nonfinite += 1
            continue
        metric.value = metric.last = value
        metric.nonfinite = 0
        if metric.best is None or (
            value < metric.best if plans.minimizes[name] else value > metric.best
        ):
            metric.best = value
        for key, leaf in listening.get(name, ()) if arrival.trend else ():
            reference = _reference(leaf.guard, state) if isinstance(leaf.guard, Regressed) else None
            memory = remember(memories.get(key), leaf, clock, value, reference)
            if memory is not None:
                memories[key] = memory
    metrics = {name: metric.state() for name, metric in newest.items()}
    return replace(state, metrics=metrics, memories=memories, observations=count)


class _Newest:
    """A metric's state while a thousand values of it may come in."""

    __slots__ = ("best", "boundary", "came", "cell", "last", "nonfinite", "seen", "value")

    def __init__(self, metric: MetricState) -> None:
        self.value, self.last, self.best, self.seen = (
            metric.value,
            metric.last,
            metric.best,
            metric.seen,
        )
        self.nonfinite, self.cell, self.came, self.boundary = (
            metric.nonfinite,
            metric.cell,
            metric.came,
            metric.boundary,
        )

    def state(self) -> MetricState:
        return MetricState(
            self.value,
            self.last,
            self.best,
            self.seen,
            self.nonfinite,
            self.cell,
            self.came,
            self.boundary,
        )


def _listening(plans: Plans, state: State) -> dict[str, list[tuple[str, MemoryLeaf]]]:
    """Per metric, the remembering guards of the configuration, each once."""
    leaves = {
        key: leaf
        for region in state.regions.values()
        for key, leaf in plans[region.stage].leaves.items()
    }
    found: dict[str, list[tuple[str, MemoryLeaf]]] = {}
    for key, leaf in leaves.items():
        found.setdefault(leaf.metric, []).append((key, leaf))
    return found


def _reference(guard: Regressed, state: State) -> float | None:
    snapshot = state.snapshot(guard.since)
    metric: MetricState | None = snapshot.metrics.get(guard.metric) if snapshot else None
    return None if metric is None else metric.last


def active_memories(plans: Plans, state: State) -> Mapping[str, Memory]:
    """The memories that some guard in the configuration still uses."""
    keys = {key for region in state.regions.values() for key in plans[region.stage].leaves}
    return {key: memory for key, memory in state.memories.items() if key in keys}
