"""What is held in the reference model: a function of the configuration (S8, S9, S10)."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.reference.state import Place

if TYPE_CHECKING:
    from tests.reference.model import Model

RAMPS = ("alpha_ramp", "lr_ramp")


def values(model: Model) -> dict[str, tuple[float | None, tuple[str, ...]]]:
    """S9: every activity in force, with its value and the growths that it is over."""
    if model.ended is not None:
        return {}
    return {
        where: (_value(model, place, where, activity), _growths(model, place, activity, prefix))
        for place in model.branch.places.values()
        for where, activity, prefix, _ in model.document.held(model.document.stages[place.stage])
    }


def alphas(model: Model) -> dict[str, float]:
    """The alpha of every growth: a ramp in force says it, else it stays as it was."""
    found = {cohort: model.branch.alphas.get(cohort, 1.0) for cohort in model.branch.cohorts}
    for place in model.branch.places.values():
        for where, activity, prefix, _ in model.document.held(model.document.stages[place.stage]):
            if activity.type == "alpha_ramp":
                value = _value(model, place, where, activity)
                assert value is not None
                over = _growths(model, place, activity, prefix)
                found |= {c: value for c in over if c not in model.branch.blockless}
    return found


def _value(model: Model, place: Place, where: str, activity: Any) -> float | None:
    if activity.type == "lr_factor":
        return float(activity.factor)
    if activity.type not in RAMPS:
        return None
    unit = activity.over.unit
    gone = model.branch.clock.of(unit) - place.held[where].of(unit)
    share = float(gone / activity.over.exact)
    if share >= 1:
        return float(activity.end)
    curve = {
        "linear": share,
        "cosine": (1 - math.cos(math.pi * share)) / 2,
        "exponential": (1 - math.exp(-5 * share)) / (1 - math.exp(-5)),
    }[activity.curve]
    return float(activity.start + (activity.end - activity.start) * curve)


def _growths(model: Model, place: Place, activity: Any, prefix: str) -> tuple[str, ...]:
    found: list[str] = []
    of = getattr(activity, "of", ())
    for part in (of,) if isinstance(of, str) or not isinstance(of, tuple) else of:
        if part == "grown":
            found += place.grown
        elif hasattr(part, "grown"):
            name = model.document.full_name("cohort", prefix, part.grown)
            found.append([c for c in model.branch.cohorts if c.split("#")[0] == name][-1])
    return tuple(found)


def bend(model: Model) -> bool:
    """S8: whether a ramp moves, alpha's too; then no trend is looked at."""
    return model.ended is None and any(
        model.branch.clock.of(activity.over.unit) - place.held[where].of(activity.over.unit)
        < activity.over.exact
        for place in model.branch.places.values()
        for where, activity, _, _ in model.document.held(model.document.stages[place.stage])
        if activity.type in RAMPS
    )


def in_force(model: Model) -> Counter[Any]:
    """S8: what bends the curves while it is in force. A ramp that begins anew is another."""
    found: Counter[Any] = Counter()
    for place in model.branch.places.values() if model.ended is None else ():
        for where, activity, _, _ in model.document.held(model.document.stages[place.stage]):
            if activity.type != "alpha_ramp":
                since = place.held[where] if activity.type in RAMPS else None
                found[activity, since] += 1
    return found
