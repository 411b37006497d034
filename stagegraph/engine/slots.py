"""Slots: the numbers that the guards of one stage look at.

A frame is a list of floats, one per slot, made for one region in one stage. Unknown is NaN, true
is 1, false is 0; so an unknown number fails every interval test, in both polarities, at no cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from stagegraph.engine import memories
from stagegraph.engine.options import fits
from stagegraph.engine.standing import lengthened
from stagegraph.engine.state import State
from stagegraph.graph.compiled import CompiledGraph, CompiledStage
from stagegraph.progress import Duration, Progress, Unit
from stagegraph.schema.activities import Ramp
from stagegraph.schema.stagegraph import Budget

__all__ = ["UNIT_OF", "Slot", "TimeSlot", "left", "read", "stage_completed"]

NAN = float("nan")

UNIT_OF: Mapping[str, Unit] = {
    "step": Unit.STEPS,
    "epoch": Unit.EPOCHS,
    "samples": Unit.SAMPLES,
    "tokens": Unit.TOKENS,
    "seconds": Unit.SECONDS,
    "steps": Unit.STEPS,
    "epochs": Unit.EPOCHS,
}
"""The unit behind a fact's or a budget's name."""


class Slot(NamedTuple):
    """One number in a frame.

    Attributes:
        kind: What it is.
        name: Of what: a metric, a fact, a stage's key, a memory's key.
        duration: For ``elapsed`` and ``gain``.
        metric: For ``gain``.
    """

    kind: str
    name: str
    duration: Duration | None = None
    metric: str = ""


@dataclass(frozen=True, slots=True)
class TimeSlot:
    """A slot that moves with progress alone: ``value = base + sign * clock``."""

    unit: Unit
    base: float
    sign: int


def read(slot: Slot, graph: CompiledGraph, state: State, stage: CompiledStage) -> float:
    """The number in a slot, for the region of a stage, in a state."""
    return _READERS[slot.kind](slot, graph, state, stage)


Reader = Callable[[Slot, CompiledGraph, State, CompiledStage], float]


def _fact(slot: Slot, graph: CompiledGraph, state: State, stage: CompiledStage) -> float:
    if slot.name == "params":
        return NAN if state.facts.params is None else float(state.facts.params)
    if slot.name == "flops":
        return float(state.clock.flops)
    return float(state.clock.of(UNIT_OF[slot.name]))


def _metric(slot: Slot, graph: CompiledGraph, state: State, stage: CompiledStage) -> float:
    metric = state.metrics.get(slot.name)
    if metric is None or metric.value is None:
        return NAN
    newest = max(state.regions[stage.region].since, state.disturbed)
    return metric.value if metric.seen > newest else NAN


def _last(slot: Slot, graph: CompiledGraph, state: State, stage: CompiledStage) -> float:
    metric = state.metrics.get(slot.name)
    return NAN if metric is None or metric.last is None else metric.last


def _best(slot: Slot, graph: CompiledGraph, state: State, stage: CompiledStage) -> float:
    metric = state.metrics.get(slot.name)
    return NAN if metric is None or metric.best is None else metric.best


def _nonfinite(slot: Slot, graph: CompiledGraph, state: State, stage: CompiledStage) -> float:
    metric = state.metrics.get(slot.name)
    return 0.0 if metric is None else float(metric.nonfinite)


def _spent(slot: Slot, graph: CompiledGraph, state: State, stage: CompiledStage) -> float:
    return spent(slot.name, state)


def _left(slot: Slot, graph: CompiledGraph, state: State, stage: CompiledStage) -> float:
    return left(slot.name, graph.graph.budget, state)


def spent(amount: str, state: State) -> float:
    """What was spent of an amount; of ``params``: how many there are."""
    if amount == "params":
        return NAN if state.facts.params is None else float(state.facts.params)
    if amount == "flops":
        return float(state.spent.flops)
    return float(state.spent.of(UNIT_OF[amount]))


def left(amount: str, budget: Budget, state: State) -> float:
    """What is left of a budget; NaN if none is declared."""
    limit = getattr(budget, amount)
    return NAN if limit is None else float(limit) - spent(amount, state)


def _visits(slot: Slot, graph: CompiledGraph, state: State, stage: CompiledStage) -> float:
    return float(state.visits.get(slot.name, 0))


def _memory(slot: Slot, graph: CompiledGraph, state: State, stage: CompiledStage) -> float:
    return memories.truth(state.memories.get(slot.name))


def _gain(slot: Slot, graph: CompiledGraph, state: State, stage: CompiledStage) -> float:
    memory = state.memories.get(slot.name)
    assert slot.duration is not None
    return memories.gain(memory, slot.duration, graph.graph.metrics[slot.metric])


def _in(slot: Slot, graph: CompiledGraph, state: State, stage: CompiledStage) -> float:
    region = state.regions.get(slot.name.partition(":")[0])
    return NAN if region is None else float(region.stage == slot.name)


def _done(slot: Slot, graph: CompiledGraph, state: State, stage: CompiledStage) -> float:
    region = state.regions.get(slot.name)
    return NAN if region is None else float(graph.stages[region.stage].final)


def _event(slot: Slot, graph: CompiledGraph, state: State, stage: CompiledStage) -> float:
    return float(any(event.name == slot.name for event in state.events))


def _elapsed(slot: Slot, graph: CompiledGraph, state: State, stage: CompiledStage) -> float:
    assert slot.duration is not None
    return float(state.clock.reached(slot.duration, state.regions[stage.region].entered))


def _completed(slot: Slot, graph: CompiledGraph, state: State, stage: CompiledStage) -> float:
    return float(stage_completed(stage, state))


def _affordable(slot: Slot, graph: CompiledGraph, state: State, stage: CompiledStage) -> float:
    if graph.graph.budget.params is None:
        return NAN
    answer = fits(graph, state, slot.name)
    return NAN if answer is None else float(answer)


def _exhausted(slot: Slot, graph: CompiledGraph, state: State, stage: CompiledStage) -> float:
    answer = fits(graph, state, slot.name)
    return NAN if answer is None else float(not answer)


def _harmful(slot: Slot, graph: CompiledGraph, state: State, stage: CompiledStage) -> float:
    metric, _, by = slot.name.partition(" ")
    for one in state.attributions:
        if one.metric == metric and one.is_of(stage.region):
            answer = one.harmful(float(by))
            return NAN if answer is None else float(answer)
    return NAN


_READERS: Mapping[str, Reader] = {
    "fact": _fact,
    "metric": _metric,
    "last": _last,
    "best": _best,
    "nonfinite": _nonfinite,
    "spent": _spent,
    "left": _left,
    "visits": _visits,
    "memory": _memory,
    "gain": _gain,
    "in": _in,
    "done": _done,
    "event": _event,
    "elapsed": _elapsed,
    "completed": _completed,
    "affordable": _affordable,
    "exhausted": _exhausted,
    "harmful": _harmful,
}


def stage_completed(stage: CompiledStage, state: State) -> bool:
    """Whether a region's stage has run its course (rule S6)."""
    if stage.instant:
        return True
    region = state.regions[stage.region]
    if stage.kind == "warmup":
        return all(
            state.clock.reached(
                lengthened(held.activity.over, region.extended), region.held[held.place]
            )
            for held in stage.during
            if isinstance(held.activity, Ramp)
        )
    if stage.duration is None:
        return False
    return state.clock.reached(lengthened(stage.duration, region.extended), region.entered)


def time_slot(slot: Slot, graph: CompiledGraph, state: State) -> TimeSlot | None:
    """How a slot moves with progress, if that is all that moves it."""
    if slot.kind == "fact" and slot.name in UNIT_OF:
        return TimeSlot(UNIT_OF[slot.name], 0.0, 1)
    if slot.kind in ("spent", "left") and slot.name in UNIT_OF:
        unit = UNIT_OF[slot.name]
        offset = _offset(unit, state.clock, state.spent)
        if slot.kind == "spent":
            return TimeSlot(unit, offset, 1)
        limit = getattr(graph.graph.budget, slot.name)
        return None if limit is None else TimeSlot(unit, float(limit) - offset, -1)
    return None


def _offset(unit: Unit, clock: Progress, spent_: Progress) -> float:
    return float(spent_.of(unit) - clock.of(unit))


def moves_with_time(slot: Slot) -> bool:
    """Whether progress alone can change a slot's number."""
    return slot.kind in ("fact", "spent", "left") and slot.name != "params"
