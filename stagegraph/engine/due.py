"""Due: when the engine must look again if no metric and no event comes.

Guards that wait for time need no look until their time has come: each interval test on progress
tells the next progress at which its answer changes.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from fractions import Fraction

from stagegraph.engine.plans import Plans, StagePlan
from stagegraph.engine.slots import TimeSlot, time_slot
from stagegraph.engine.standing import lengthened, waited
from stagegraph.engine.state import RegionState, State
from stagegraph.graph.compiled import CompiledGraph
from stagegraph.progress import Duration, Progress, Unit
from stagegraph.schema.activities import overs

__all__ = ["Due", "due", "evaluations", "next_evaluations"]

Due = dict[Unit, float]
"""Per unit, the clock's reading at which to look again; a little early does no harm."""

_BUDGET_UNITS = {
    "steps": Unit.STEPS,
    "epochs": Unit.EPOCHS,
    "samples": Unit.SAMPLES,
    "tokens": Unit.TOKENS,
    "seconds": Unit.SECONDS,
}


def due(plans: Plans, state: State) -> Due:
    """The next looks, from the configuration alone."""
    found: Due = {}
    if state.ended is not None:
        return found
    for region in state.regions.values():
        plan = plans[region.stage]
        _stage(found, plan, region, state)
        _conditions(found, plans.graph, plan, region.entered, state)
    _budget(found, plans.graph, state)
    for unit, at in next_evaluations(plans.graph, state).items():
        found[unit] = min(found.get(unit, math.inf), at)
    return found


def next_evaluations(
    graph: CompiledGraph, state: State, *, but: Collection[str] = frozenset()
) -> Due:
    """When metrics with an ``every`` are to be evaluated next, those named by ``but`` left out."""
    found: Due = {}
    for name, metric in graph.graph.metrics.items():
        if metric.every is not None and name not in but:
            ahead = (state.wanted.get(name, 0) + 1) * metric.every.exact
            _put(found, metric.every.unit, ahead)
    return found


def evaluations(graph: CompiledGraph, state: State) -> dict[str, int]:
    """Per metric with an ``every``, how many of its intervals are over."""
    return {
        name: math.floor(state.clock.of(metric.every.unit) / metric.every.exact)
        for name, metric in graph.graph.metrics.items()
        if metric.every is not None
    }


def _put(found: Due, unit: Unit, at: float | Fraction) -> None:
    threshold = float(at)
    if unit in (Unit.EPOCHS, Unit.SECONDS):
        threshold -= 1e-9 * max(1.0, abs(threshold))
    found[unit] = min(found.get(unit, math.inf), threshold)


def _after(found: Due, duration: Duration, since: Progress, clock: Progress) -> None:
    if not clock.reached(duration, since):
        _put(found, duration.unit, since.of(duration.unit) + duration.exact)


def _stage(found: Due, plan: StagePlan, region: RegionState, state: State) -> None:
    stage, extension = plan.stage, region.extended
    for duration in (stage.duration, stage.min_duration):
        if duration is not None:
            _after(found, lengthened(duration, extension), region.entered, state.clock)
    for activity in stage.during:
        for over in overs(activity.activity):
            _after(found, over, region.held[activity.place], state.clock)
            if extension is not None:
                later = lengthened(over, extension)
                _after(found, later, region.held[activity.place], state.clock)
    if extension is not None and not waited(extension, region.entered, state.clock):
        _put(found, extension.unit, region.entered.of(extension.unit) + extension.amount)


def _conditions(
    found: Due, graph: CompiledGraph, plan: StagePlan, entered: Progress, state: State
) -> None:
    if plan.restless:
        _put(found, Unit.STEPS, state.clock.step + 1)
    for slot in plan.slots:
        if slot.kind == "elapsed" and slot.duration is not None:
            _after(found, slot.duration, entered, state.clock)
    for _, condition in plan.ways:
        for interval in condition.intervals:
            moving = time_slot(plan.slots[interval.slot], graph, state)
            if moving is not None:
                _crossings(found, moving, interval.low, interval.high, state.clock)
        if any(plan.slots[index].name == "flops" for index in condition.slots):
            _put(found, Unit.STEPS, state.clock.step + 1)


def _crossings(found: Due, moving: TimeSlot, low: float, high: float, clock: Progress) -> None:
    """The clock's reading at which ``base + sign * clock`` next enters or leaves an interval."""
    now = float(clock.of(moving.unit))
    for bound in (low, high):
        if math.isfinite(bound):
            at = (bound - moving.base) * moving.sign
            for crossing in (at, math.nextafter(at, math.inf)):
                if crossing > now:
                    _put(found, moving.unit, crossing)
                    break


def _budget(found: Due, graph: CompiledGraph, state: State) -> None:
    for name, unit in _BUDGET_UNITS.items():
        limit = getattr(graph.graph.budget, name)
        if limit is not None:
            _put(found, unit, limit - state.spent.of(unit) + state.clock.of(unit))
    if graph.graph.budget.flops is not None:
        _put(found, Unit.STEPS, state.clock.step + 1)
