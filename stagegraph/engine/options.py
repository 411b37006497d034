"""Options: which of several growths a stage takes when it is entered. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from stagegraph.engine.state import Options, State
from stagegraph.graph.compiled import CompiledGraph, CompiledStage, Option
from stagegraph.schema.stages import Grow

__all__ = [
    "Choice",
    "choose",
    "cost_of",
    "fits",
    "room",
    "usable",
    "why_none",
    "why_not",
]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a stage with options would take now.

    Attributes:
        option: The option, or ``None``.
        passed_over: Per option that cannot be taken, why.
        unknown: Whether one may be had and nobody knows: what it costs is not known.
    """

    option: Option | None
    passed_over: Mapping[str, str] = field(default_factory=dict)
    unknown: bool = False


def room(graph: CompiledGraph, state: State) -> float:
    """How many parameters may still be added: infinitely many without a budget, NaN if unknown."""
    limit = graph.graph.budget.params
    if limit is None:
        return math.inf
    return math.nan if state.facts.params is None else limit - state.facts.params


def choose(graph: CompiledGraph, state: State, stage: CompiledStage) -> Choice:
    """The option that an entry into a stage takes, by its policy."""
    passed_over, unknown = {}, False
    able: list[Option] = []
    for option, reason, doubtful in usable(graph, state, stage):
        unknown |= doubtful
        if reason is None:
            able.append(option)
        else:
            passed_over[option.name] = reason
    if not able:
        return Choice(None, passed_over, unknown)
    chosen = able[0]
    if isinstance(stage.spec, Grow) and stage.spec.policy == "largest":
        chosen = max(able, key=lambda option: state.facts.costs.get(option.place, -1))
    return Choice(chosen, passed_over)


def usable(
    graph: CompiledGraph, state: State, stage: CompiledStage
) -> Iterator[tuple[Option, str | None, bool]]:
    """Every option, why it cannot be taken now, and whether that is only not known."""
    known = state.options.get(stage.key, Options())
    once = isinstance(stage.spec, Grow) and stage.spec.policy == "next"
    measured = isinstance(stage.spec, Grow) and stage.spec.policy == "largest"
    left = room(graph, state)
    for option in stage.options:
        cost = state.facts.costs.get(option.place)
        reason, doubtful = None, False
        if option.name in known.failed:
            reason = f"failed: {known.failed[option.name]}"
        elif option.name in known.excluded:
            reason = "excluded by a roll-back"
        elif once and option.name in known.taken:
            reason = "taken already"
        elif cost is None:
            doubtful = left != math.inf or measured
            reason = "what it would cost is not known" if doubtful else None
        elif math.isnan(left):
            reason, doubtful = "how many parameters there are is not known", True
        elif cost > left:
            reason = f"it would add {cost:,} parameters, and {left:,.0f} are left of the budget"
        yield option, reason, doubtful


def why_none(stage: CompiledStage, passed_over: Mapping[str, str]) -> str:
    """In words, why a stage with options cannot be entered."""
    reasons = "; ".join(f"{name}: {reason}" for name, reason in passed_over.items())
    return f"no option of {stage.name!r} is left ({reasons})"


def why_not(graph: CompiledGraph, state: State, key: str) -> str | None:
    """In words, why an entry has no option to take; ``None``: it has one, or needs none."""
    for stage in _entered(graph, key):
        if stage.options:
            choice = choose(graph, state, stage)
            if choice.option is None:
                return why_none(stage, choice.passed_over)
    return None


def cost_of(graph: CompiledGraph, state: State, key: str) -> int | None:
    """The parameters that entering a stage would add, those it leads through included.

    ``None``: not known, or no option of it is left.
    """
    total = 0
    for stage in _entered(graph, key):
        places = list(stage.priced)
        if stage.options:
            option = choose(graph, state, stage).option
            places = [] if option is None else [option.place]
            if option is None:
                return None
        for place in places:
            cost = state.facts.costs.get(place)
            if cost is None:
                return None
            total += cost
    return total


def fits(graph: CompiledGraph, state: State, key: str) -> bool | None:
    """Whether entering a stage is possible by its options and the budget of parameters.

    ``None``: not known.
    """
    for stage in _entered(graph, key):
        if stage.options:
            choice = choose(graph, state, stage)
            if choice.option is None:
                return None if choice.unknown else False
    left = room(graph, state)
    if left == math.inf:
        return True
    cost = cost_of(graph, state, key)
    return None if cost is None or math.isnan(left) else cost <= left


def _entered(graph: CompiledGraph, key: str) -> Iterator[CompiledStage]:
    """A stage and those that a move into it goes through."""
    seen: set[str] = set()
    while key in graph.stages and key not in seen:
        seen.add(key)
        stage = graph.stages[key]
        yield stage
        following = stage.next
        if not stage.instant or following is None:
            return
        key = following.target
