"""What a run's status tells, read from another thread: frozen state alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from stagegraph.engine.core import Core
from stagegraph.engine.holding import alphas
from stagegraph.engine.ports import Record
from stagegraph.engine.slots import left
from stagegraph.engine.state import State
from stagegraph.graph.compiled import CompiledGraph

__all__ = ["Rate", "status_of"]

BUDGETS = ("params", "steps", "epochs", "samples", "tokens", "flops", "seconds")


class Rate:
    """Updates per second, over the last while."""

    def __init__(self, span: float = 15.0) -> None:
        self._span = span
        self._seen: deque[tuple[float, int]] = deque()

    def of(self, steps: int, now: float) -> float | None:
        """The rate, after so many updates; ``None`` before it can be told."""
        self._seen.append((now, steps))
        while len(self._seen) > 2 and now - self._seen[0][0] > self._span:
            self._seen.popleft()
        begun, first = self._seen[0]
        return (steps - first) / (now - begun) if now > begun else None


def status_of(core: Core, *, vitals: Record, noted: Sequence[Record]) -> dict[str, Any]:
    """How a run stands, as JSON data.

    The engine's thread may go on meanwhile: the state that is read here is frozen, and what was
    counted since is added as it stands.

    Args:
        core: The engine.
        vitals: The newest record of how the model is trained.
        noted: The newest happenings.
    """
    state = core.state
    if state.ended is None:
        now = core.progress
        state = replace(state, clock=now, spent=state.spent + (now - state.clock))
    graph = core.graph
    names = {key: stage.name for key, stage in graph.stages.items()}
    return {
        "graph": graph.graph.name,
        "state": "done" if state.ended else "paused" if state.commands.paused else "running",
        "ended": state.ended,
        "step": state.clock.step,
        "made": state.spent.step,
        "progress": state.clock.to_json(),
        "stages": {region: names.get(key, key) for region, key in state.stages.items()},
        "in_stage": _in_stage(state),
        "metrics": {
            name: metric.last if metric.value is None else metric.value
            for name, metric in state.metrics.items()
        },
        "lr": vitals.get("lr"),
        "params": state.facts.params,
        "alphas": alphas(graph, state) if state.regions else {},
        "waits": core.waits_in(state),
        "budget": _budget(graph, state),
        "commands": state.commands.to_json(),
        "wants_evaluation": core.wants_evaluation,
        "noted": list(noted),
    }


def _in_stage(state: State) -> dict[str, int]:
    """Updates made in each region's stage."""
    now = state.clock.step
    return {name: now - region.entered.step for name, region in state.regions.items()}


def _budget(graph: CompiledGraph, state: State) -> Mapping[str, Any]:
    """Per budget, what is left of how much."""
    budget = graph.graph.budget
    return {
        name: {"left": left(name, budget, state), "of": getattr(budget, name)}
        for name in BUDGETS
        if getattr(budget, name) is not None
    }
