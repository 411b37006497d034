"""absorb: a state and an observation give the next state. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import NamedTuple

from stagegraph.engine.comparing import ComparedSpec
from stagegraph.engine.holding import bends
from stagegraph.engine.host_rates import follow
from stagegraph.engine.memories import Memory, MemoryLeaf, remember
from stagegraph.engine.plans import Plans
from stagegraph.engine.references import reference_of
from stagegraph.engine.state import MetricState, State
from stagegraph.engine.unstable import Recent, UnstableSpec
from stagegraph.progress import Progress

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
        rate: The host's learning rate now, if somebody knows it. It is kept with values that
            guards remember, which are absorbed as they come.
    """

    progress: Progress = Progress()
    metrics: tuple[Arrival, ...] = ()
    rate: float | None = None


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
    recent = dict(state.recent)
    listening = _listening(plans, state)
    count = state.observations
    for arrival in observation.metrics:
        name, value = arrival.name, arrival.value
        count += 1
        metric = newest.get(name)
        if metric is None:
            metric = newest[name] = _Newest(MetricState(None, None, None, 0))
        known = metric.take(arrival, count, state.spent.step, minimizes=plans.minimizes[name])
        if known and arrival.trend:
            for key, leaf in listening.get(name, ()):
                memory = remember(memories.get(key), leaf, clock, value, reference_of(leaf, state))
                if memory is not None:
                    memories[key] = memory
            _keep_recent(plans, recent, name, clock, value)
    host = state.host
    if observation.rate is not None and any(arrival.trend for arrival in observation.metrics):
        host = follow(host, clock, observation.rate)
    metrics = {name: metric.state() for name, metric in newest.items()}
    return replace(
        state, metrics=metrics, memories=memories, observations=count, recent=recent, host=host
    )


def _keep_recent(
    plans: Plans, recent: dict[str, Recent], name: str, clock: Progress, value: float
) -> None:
    """Keep a value that the reference of a growth to come may be made of."""
    for key, leaf in plans.before.items():
        if leaf.metric == name and isinstance(leaf.spec, UnstableSpec):
            at = float(clock.of(leaf.unit))
            recent[key] = recent.get(key, Recent()).add(leaf.spec.spacing, at, value)


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

    def take(self, arrival: Arrival, count: int, spent: int, *, minimizes: bool) -> bool:
        """Take a value; whether it is looked at and finite."""
        self.came, value = count, arrival.value
        if not arrival.seen:
            return False
        self.seen, self.cell, self.boundary = count, arrival.cell, spent - arrival.ago
        if not isfinite(value):
            self.value = None
            self.nonfinite += 1
            return False
        self.value = self.last = value
        self.nonfinite = 0
        if self.best is None or (value < self.best if minimizes else value > self.best):
            self.best = value
        return True

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
    """Per metric, the remembering guards of the configuration, each once.

    While a ramp moves it bends the curves, and those that look at a curve's slope look away.
    """
    leaves = {
        key: leaf
        for region in state.regions.values()
        for key, leaf in plans[region.stage].leaves.items()
    }
    if bends(plans.graph, state):
        leaves = {
            key: leaf
            for key, leaf in leaves.items()
            if isinstance(leaf.spec, ComparedSpec | UnstableSpec)
        }
    found: dict[str, list[tuple[str, MemoryLeaf]]] = {}
    for key, leaf in leaves.items():
        found.setdefault(leaf.metric, []).append((key, leaf))
    return found


def active_memories(plans: Plans, state: State) -> Mapping[str, Memory]:
    """The memories that some guard in the configuration still uses."""
    keys = {key for region in state.regions.values() for key in plans[region.stage].leaves}
    return {key: memory for key, memory in state.memories.items() if key in keys}
