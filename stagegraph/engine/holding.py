"""Holding: what is in force, as a function of the configuration (rule S9).

Nothing here remembers anything: the same state gives the same effects, so a boundary can apply
the difference and a resumed run holds what the uninterrupted one would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from stagegraph.engine.curves import curve_value
from stagegraph.engine.ports import Effect
from stagegraph.engine.selecting import selected
from stagegraph.engine.state import RegionState, State
from stagegraph.errors import ActionError
from stagegraph.graph.compiled import CompiledGraph, HeldActivity
from stagegraph.progress import Progress
from stagegraph.schema.activities import (
    AlphaRamp,
    Distill,
    LrFactor,
    LrRamp,
    Ramp,
    overs,
)
from stagegraph.schema.levels import MovingLevel

__all__ = [
    "all_alphas",
    "alphas",
    "bending",
    "bends",
    "effects",
    "held_after",
    "moving",
    "values",
]


def held_after(
    during: tuple[HeldActivity, ...], before: Mapping[str, Progress], clock: Progress
) -> dict[str, Progress]:
    """When each activity of a stage began: a named one goes on if it was held already."""
    return {
        held.place: before[held.place] if held.named and held.place in before else clock
        for held in during
    }


def _held(graph: CompiledGraph, state: State) -> Iterator[tuple[HeldActivity, RegionState]]:
    for compiled in graph.regions:
        region = state.regions.get(compiled.name)
        if region is not None:
            for held in compiled.stages[region.stage].during:
                yield held, region


def _value(held: HeldActivity, region: RegionState, clock: Progress) -> float | None:
    activity = held.activity
    if isinstance(activity, LrFactor):
        return activity.factor
    if not isinstance(activity, AlphaRamp | LrRamp):
        return None
    return _on_curve(activity, region.held[held.place], clock)


def _on_curve(ramp: AlphaRamp | LrRamp | MovingLevel, since: Progress, clock: Progress) -> float:
    share = clock.elapsed(since, ramp.over.unit) / ramp.over.exact
    return curve_value(ramp.curve, ramp.start, ramp.end, share)


def _levels(held: HeldActivity, region: RegionState, clock: Progress) -> dict[str, float]:
    since = region.held[held.place]
    return {
        key: _on_curve(level, since, clock) if isinstance(level, MovingLevel) else level
        for key, level in held.activity.levels.items()
    }


def _teachers(held: HeldActivity, state: State) -> dict[str, str]:
    if not isinstance(held.activity, Distill):
        return {}
    names = [teacher.name for teacher in held.activity.weighted]
    missing = [name for name in names if name not in state.teachers]
    if missing:
        raise ActionError(held.place, f"no teacher {missing[0]!r} has been made yet")
    return {name: state.teachers[name] for name in names}


def effects(graph: CompiledGraph, state: State) -> tuple[Effect, ...]:
    """Every activity in force, with its value for the next update.

    Raises:
        ActionError: A selection asks for a growth that has not happened, or a distillation for a
            teacher that has not been made.
    """
    if state.ended is not None:
        return ()
    return tuple(
        Effect(
            held.place,
            held.activity,
            selected(held.place, held.activity.selection, region, state),
            _value(held, region, state.clock),
            _levels(held, region, state.clock),
            _teachers(held, state),
            selected(held.place, held.activity.excepted, region, state),
        )
        for held, region in _held(graph, state)
    )


def moving(graph: CompiledGraph, state: State) -> tuple[tuple[HeldActivity, Progress], ...]:
    """The activities in force with a value that has not reached its end, with their start."""
    if state.ended is not None:
        return ()
    return tuple(
        (held, region.held[held.place])
        for held, region in _held(graph, state)
        if any(
            not state.clock.reached(over, region.held[held.place]) for over in overs(held.activity)
        )
    )


def values(graph: CompiledGraph, state: State) -> dict[str, float]:
    """Every value in force that moves, for the next update: by place, levels by place and key."""
    found: dict[str, float] = {}
    if state.ended is not None:
        return found
    for held, region in _held(graph, state):
        value = _value(held, region, state.clock) if isinstance(held.activity, Ramp) else None
        if value is not None:
            found[held.place] = value
        levels = held.activity.levels
        for key, level in _levels(held, region, state.clock).items() if levels else ():
            if isinstance(levels[key], MovingLevel):
                found[f"{held.place}/{key}"] = level
    return found


def alphas(graph: CompiledGraph, state: State) -> dict[str, float]:
    """Alpha of every cohort that is not 1: ramps in force over what was kept before.

    A growth that added no block, where another option of it would have, is left out: there is
    nothing that a ramp could blend in.
    """
    found = dict(state.alphas)
    for held, region in _held(graph, state):
        if isinstance(held.activity, AlphaRamp):
            value = _value(held, region, state.clock)
            assert value is not None
            of = held.activity.selection
            for cohort in selected(held.place, of, region, state).cohorts:
                if cohort not in state.unblended:
                    found[cohort] = value
    return {cohort: value for cohort, value in found.items() if value != 1.0}


def all_alphas(graph: CompiledGraph, state: State) -> dict[str, float]:
    """Alpha of every cohort on the branch; whoever has gates closes those that are at 1."""
    return dict.fromkeys(state.cohorts, 1.0) | alphas(graph, state)


def bending(graph: CompiledGraph, state: State) -> Counter[Any]:
    """The activities in force whose start and end bend the metrics' curves (rule S8).

    One whose values move is another one when it begins again, for its values jump back.
    """
    return Counter(
        (held.activity, region.held[held.place] if overs(held.activity) else None)
        for held, region in (_held(graph, state) if state.ended is None else ())
        if held.activity.disturbs
    )


def bends(graph: CompiledGraph, state: State) -> bool:
    """Whether something moves that bends the metrics' curves: a ramp, alpha's too, or a level."""
    return any(
        held.activity.disturbs or isinstance(held.activity, AlphaRamp)
        for held, _ in moving(graph, state)
    )
