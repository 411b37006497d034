"""Extending: how a stage comes to last longer by command. Pure."""

from __future__ import annotations

from fractions import Fraction

from stagegraph.engine.standing import Extension, lengthened, waited
from stagegraph.engine.state import State
from stagegraph.errors import CommandError
from stagegraph.graph.compiled import CompiledStage
from stagegraph.progress import Duration
from stagegraph.schema.activities import Ramp

__all__ = ["extend"]


def extend(
    stage: CompiledStage, state: State, amount: Duration, author: str
) -> tuple[Extension, str]:
    """Let the present stage of its region be completed later.

    Args:
        stage: The stage.
        state: The state.
        amount: How much later.
        author: Who wants it.

    Returns:
        The extension in place of the one that there was, and in words what it does.

    Raises:
        CommandError: The stage is never left, or the amount has a unit that does not fit.
    """
    if stage.final:
        raise CommandError(f"{stage.key} is final: it is never left")
    if state.clock.step and not state.clock.of(amount.unit):
        raise CommandError(f"no {amount.unit} have been counted in this run so far")
    if _completed_by(stage):
        return _longer(stage, state, amount, author)
    return _waiting(stage, state, amount, author)


def _completed_by(stage: CompiledStage) -> list[tuple[Duration, str]]:
    """What completes a stage: its durations, each with the activity that it belongs to."""
    if stage.kind == "warmup":
        return [
            (held.activity.over, held.place)
            for held in stage.during
            if isinstance(held.activity, Ramp)
        ]
    return [(stage.duration, "")] if stage.duration is not None else []


def _longer(
    stage: CompiledStage, state: State, amount: Duration, author: str
) -> tuple[Extension, str]:
    """What completes the stage comes later; if it has come already, as much later than now."""
    region = state.regions[stage.region]
    over: list[Fraction] = []
    for duration, place in _completed_by(stage):
        if duration.unit is not amount.unit:
            raise CommandError(
                f"what completes {stage.key} is counted in {duration.unit} ({duration}); "
                f"extend it by an amount of {duration.unit}"
            )
        since = region.held[place] if place else region.entered
        longer = lengthened(duration, region.extended)
        over.append(Fraction(state.clock.elapsed(since, amount.unit)) - longer.exact)
    had = region.extended.amount if region.extended is not None else Fraction(0)
    added = had + max(Fraction(0), min(over)) + amount.exact
    text = f"{stage.key} is completed {amount} later"
    stay = stage.min_duration
    if stay is not None and stay.unit is not amount.unit:
        text += f"; its min_duration of {stay} stays as it is"
    extension = Extension(amount.unit, added, waits=False, author=author)
    try:
        for duration, _ in _completed_by(stage):
            lengthened(duration, extension)
    except ValueError as error:
        raise CommandError(f"{stage.key} would last too long: {error}") from error
    return extension, text


def _waiting(
    stage: CompiledStage, state: State, amount: Duration, author: str
) -> tuple[Extension, str]:
    """Nothing completes the stage: its ways out are asked when the amount has passed."""
    region = state.regions[stage.region]
    running = region.extended
    begun = Fraction(state.clock.elapsed(region.entered, amount.unit))
    if running is not None and not waited(running, region.entered, state.clock):
        if running.unit is not amount.unit:
            raise CommandError(
                f"{stage.key} is extended in {running.unit} already; extend it further in those"
            )
        begun = running.amount
    text = f"{stage.key}: its transitions and next are not asked for {amount} more"
    return Extension(amount.unit, begun + amount.exact, waits=True, author=author), text
