"""Unchangeable: what of a graph is past or present in a state, and may not be edited any more.

Past is what happened: stages entered, ways taken, metrics seen. Present is what is held now; it
belongs to stages entered, so one rule does for both. All else is future.
"""

from __future__ import annotations

from collections.abc import Iterator

from stagegraph.engine.locks import AMOUNTS
from stagegraph.engine.matching import Matches
from stagegraph.engine.past import edges_taken, stages_entered
from stagegraph.engine.refusal import Refusal
from stagegraph.engine.slots import UNIT_OF, spent
from stagegraph.engine.standing import Extension
from stagegraph.engine.state import State
from stagegraph.graph.compiled import CompiledGraph
from stagegraph.graph.needs import needs
from stagegraph.progress import Unit
from stagegraph.schema.differences import meaning

__all__ = ["refusals"]

_COUNTED = frozenset({"epochs", "samples", "tokens", "flops"})


def refusals(
    before: CompiledGraph, after: CompiledGraph, state: State, matches: Matches
) -> Iterator[Refusal]:
    """Every difference between two graphs that a state forbids.

    Args:
        before: The graph that ran.
        after: The edited one.
        state: The state to go on from.
        matches: The edges of the first in the second.
    """
    yield from _ended(before, after, state)
    yield from _events(after, state)
    if not state.regions:
        return
    yield from _regions(before, after)
    yield from stages_entered(before, after, state)
    yield from _extensions(before, after, state)
    yield from edges_taken(before, after, state, matches)
    yield from _metrics(before, after, state)
    yield from _budget(before, after, state)
    yield from _counts(before, after, state)


def _events(after: CompiledGraph, state: State) -> Iterator[Refusal]:
    known = after.graph.events
    for name in dict.fromkeys(e.name for e in state.events if e.name not in known):
        yield Refusal(
            f"event {name!r}", "/events", "declared", None, "it is on its way", "leave it declared"
        )


# Regions, and stages that a command made longer


def _regions(before: CompiledGraph, after: CompiledGraph) -> Iterator[Refusal]:
    for name, region in before.by_name.items():
        other = after.by_name.get(name)
        if other is None:
            yield Refusal(
                f"region {name!r}",
                region.pointer,
                "there",
                None,
                "it runs",
                "leave it in; a region cannot be renamed either",
            )
        elif other.initial != region.initial:
            yield Refusal(
                f"region {name!r}",
                f"{other.pointer}/initial",
                repr(region.initial),
                repr(other.initial),
                "it has begun there",
                "leave it as it was; a new way out leads where you want to go",
            )
    for name, region in after.by_name.items():
        if name not in before.by_name:
            yield Refusal(
                f"region {name!r}",
                region.pointer,
                None,
                "a region that did not run",
                "regions begin with the run",
                "put its stages into a region that runs, or begin a new run",
            )


def _extensions(before: CompiledGraph, after: CompiledGraph, state: State) -> Iterator[Refusal]:
    """What a command has made longer must still be counted in the command's unit."""
    for key, extension in _extended(state):
        old, new = before.stages[key], after.stages.get(key)
        if new is None or extension.waits or old.duration is None:
            continue
        if new.duration is None or new.duration.unit is not extension.unit:
            yield Refusal(
                key,
                f"{new.pointer}/duration",
                str(old.duration),
                None if new.duration is None else str(new.duration),
                f"{extension.author} has extended it by {extension.unit}",
                f"give it a duration in {extension.unit}",
            )


def _extended(state: State) -> Iterator[tuple[str, Extension]]:
    for region in state.regions.values():
        if region.extended is not None:
            yield region.stage, region.extended
        if region.back is not None and region.back.extended is not None:
            yield region.back.stage, region.back.extended
    for snapshot in state.snapshots:
        yield from _extended(snapshot.state)


# Metrics, budgets, counts


def _metrics(before: CompiledGraph, after: CompiledGraph, state: State) -> Iterator[Refusal]:
    for name in state.metrics:
        old, new = before.graph.metrics.get(name), after.graph.metrics.get(name)
        if old is not None and new is not None and old.goal != new.goal:
            yield Refusal(
                f"metric {name!r}",
                f"/metrics/{name}/goal",
                old.goal,
                new.goal,
                "it has been seen, and its best value is by that goal",
                "declare it under another name, with this one's 'source'",
            )


def _budget(before: CompiledGraph, after: CompiledGraph, state: State) -> Iterator[Refusal]:
    if state.ended is not None:
        return
    for amount in AMOUNTS:
        old, new = getattr(before.graph.budget, amount), getattr(after.graph.budget, amount)
        paid = spent(amount, state)
        if new is not None and new != old and paid >= new:
            yield Refusal(
                f"budget of {amount}",
                f"/budget/{amount}",
                "without limit" if old is None else f"{old:,}",
                f"{new:,}",
                f"{paid:,.0f} are spent, so that the run would end at once",
                "leave more, or stop the run",
            )


def _counts(before: CompiledGraph, after: CompiledGraph, state: State) -> Iterator[Refusal]:
    """What was never counted cannot be read from the middle on."""
    asked = (needs(after).facts - needs(before).facts) & _COUNTED
    for fact in sorted(asked) if state.clock.step else ():
        unit = UNIT_OF.get(fact)
        counted = state.clock.flops if unit is None else state.clock.of(unit)
        if not counted:
            yield Refusal(
                fact,
                "",
                None,
                "read by the edited graph",
                f"none were counted in the {state.clock.of(Unit.STEPS):,} updates so far",
                "count in another unit",
            )


def _ended(before: CompiledGraph, after: CompiledGraph, state: State) -> Iterator[Refusal]:
    """A run that has ended goes on only if it ended for want of a budget, and has one now."""
    if state.ended is None or meaning(before.graph) == meaning(after.graph):
        return
    was, now = f"ended ({state.ended})", "to go on under an edited graph"
    if state.ended != "budget":
        why = "what has ended has no future to edit"
        yield Refusal("the run", "", was, now, why, "begin a new run from its weights")
        return
    for amount in AMOUNTS:
        limit, paid = getattr(after.graph.budget, amount), spent(amount, state)
        if limit is not None and paid >= limit:
            why = f"{paid:,.0f} of {limit:,} {amount} are spent"
            pointer = f"/budget/{amount}"
            yield Refusal("the run", pointer, was, now, why, f"raise the budget of {amount}")
