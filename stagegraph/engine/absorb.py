"""absorb: a state and an observation give the next state. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite

from stagegraph.engine.memories import Memory, MemoryLeaf, remember
from stagegraph.engine.plans import Plans
from stagegraph.engine.state import MetricState, State
from stagegraph.progress import Progress
from stagegraph.schema.guards import Regressed

__all__ = ["Observation", "absorb"]


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen since the last one.

    Attributes:
        progress: What was added: updates made, samples, tokens, passes, seconds.
        metrics: Names and values in the order they came, after that progress.
    """

    progress: Progress = Progress()
    metrics: tuple[tuple[str, float], ...] = ()


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
    seen = state.observations
    for name, value in observation.metrics:
        seen += 1
        metric = newest.get(name)
        if metric is None:
            metric = newest[name] = _Newest(MetricState(None, None, None, 0))
        metric.seen = seen
        if not isfinite(value):
            metric.value = None
            continue
        metric.value = metric.last = value
        if metric.best is None or (
            value < metric.best if plans.minimizes[name] else value > metric.best
        ):
            metric.best = value
        for key, leaf in listening.get(name, ()):
            reference = _reference(leaf.guard, state) if isinstance(leaf.guard, Regressed) else None
            memory = remember(memories.get(key), leaf, clock, value, reference)
            if memory is not None:
                memories[key] = memory
    metrics = {name: metric.state() for name, metric in newest.items()}
    return replace(state, metrics=metrics, memories=memories, observations=seen)


class _Newest:
    """A metric's state while a thousand values of it may come in."""

    __slots__ = ("best", "last", "seen", "value")

    def __init__(self, metric: MetricState) -> None:
        self.value, self.last, self.best, self.seen = (
            metric.value,
            metric.last,
            metric.best,
            metric.seen,
        )

    def state(self) -> MetricState:
        return MetricState(self.value, self.last, self.best, self.seen)


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
