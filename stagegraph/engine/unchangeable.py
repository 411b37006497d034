"""Unchangeable: what of a graph is past or present in a state, and may not be edited any more.

Past is what happened: stages entered, ways taken, metrics seen. Present is what is held now; it
belongs to stages entered, so one rule does for both. All else is future.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import zip_longest
from typing import Any

from stagegraph.engine.decide import AMOUNTS
from stagegraph.engine.matching import Matches, match_activities
from stagegraph.engine.slots import UNIT_OF, spent
from stagegraph.engine.standing import Extension
from stagegraph.engine.state import State
from stagegraph.errors import SnapshotError
from stagegraph.graph.compiled import CompiledGraph, CompiledStage, Edge, HeldActivity
from stagegraph.graph.needs import needs
from stagegraph.progress import Unit
from stagegraph.schema.differences import differences, meaning, shown

__all__ = ["Refusal", "refusal_error", "refusals", "stages_entered"]

_STAGE_ANEW = "give what is to come a stage of another name"
_RETIRE = "set 'at_most' to {fired} to take it no more, and write another way beside it"
_FUTURE_OF_A_STAGE = frozenset(
    {"kind", "actions", "during", "transitions", "next", "duration", "min_duration"}
)
"""Fields of a stage that are free, or are looked at with their names resolved."""
_COUNTED = frozenset({"epochs", "samples", "tokens", "flops"})


@dataclass(frozen=True, slots=True)
class Refusal:
    """One edit that cannot be.

    Attributes:
        place: Whose it is: a stage's key, an edge's id, a name.
        pointer: JSON pointer into the edited graph, or into the old one for what is gone.
        was: What it was.
        now: What it is, or ``None`` if it is gone.
        why: Why that cannot be.
        remedy: What to do instead.
    """

    place: str
    pointer: str
    was: str | None
    now: str | None
    why: str
    remedy: str

    def to_json(self) -> dict[str, Any]:
        """The refusal as JSON data."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def __str__(self) -> str:
        if self.now is None:
            what = f"was {self.was}, is gone"
        elif self.was is None:
            what = f"is new: {self.now}"
        else:
            what = f"was {self.was}, is {self.now}"
        where = f" ({self.pointer})" if self.pointer else ""
        return f"{self.place}{where} {what}: {self.why}; {self.remedy}"


def refusal_error(found: list[Refusal], name: str) -> SnapshotError:
    """All refusals as one error."""
    lines = "\n".join(f"  {refusal}" for refusal in found)
    return SnapshotError(
        f"the run cannot go on under the edited graph {name!r}; what has happened stays as it was, "
        f"and so does what is held now:\n{lines}\nelse resume under the graph that ran"
    )


def stages_entered(state: State) -> dict[str, int]:
    """Every stage that was entered, with how often."""
    return {key: count for key, count in state.visits.items() if count}


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
    for key, count in stages_entered(state).items():
        yield from _stage(before, after, key, count)
    yield from _extensions(before, after, state)
    for edge_id in state.fired:
        yield from _edge(before, after, edge_id, state, matches)
    yield from _metrics(before, after, state)
    yield from _budget(before, after, state)
    yield from _counts(before, after, state)


def _events(after: CompiledGraph, state: State) -> Iterator[Refusal]:
    known = after.graph.events
    for name in dict.fromkeys(e.name for e in state.events if e.name not in known):
        yield Refusal(
            f"event {name!r}", "/events", "declared", None, "it is on its way", "leave it declared"
        )


# Regions and stages


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


def _stage(before: CompiledGraph, after: CompiledGraph, key: str, count: int) -> Iterator[Refusal]:
    old, new = before.stages[key], after.stages.get(key)
    why = f"it has been entered {_times(count)}"
    if new is None:
        keep = "leave it in, under its name; no new way needs to lead there"
        yield Refusal(key, old.pointer, f"a {old.kind} stage", None, why, keep)
        return
    if new.kind != old.kind:
        yield Refusal(key, f"{new.pointer}/kind", old.kind, new.kind, why, _STAGE_ANEW)
        return
    for name in type(old.spec).model_fields:
        if name not in _FUTURE_OF_A_STAGE:
            was, now = getattr(old.spec, name), getattr(new.spec, name)
            if name != "note" and meaning(was) != meaning(now):
                pointer = f"{new.pointer}/{name}"
                yield Refusal(key, pointer, shown(was), shown(now), why, _STAGE_ANEW)
    yield from _actions(old, new, f"{new.pointer}/actions", why, _STAGE_ANEW)
    yield from _held(old, new, why)
    following = new.next
    if old.instant and old.next is not None and following is not None:
        # No edge of its own fires: whoever enters such a stage goes through it.
        was, now = old.next.target, following.target
        if was != now:
            yield Refusal(key, following.pointer, was, now, why, _STAGE_ANEW)


def _held(old: CompiledStage, new: CompiledStage, why: str) -> Iterator[Refusal]:
    _, gone, come = match_activities(old, new)
    listed = ([held for held in some if not _own_factor(held)] for some in (gone, come))
    for was, now in zip_longest(*listed):
        if was is None or now is None or _called(was) != _called(now):
            pointer = now.pointer if now is not None else was.pointer if was is not None else ""
            before, after = _whole(was), _whole(now)
            yield Refusal(old.key, pointer, before, after, why, _STAGE_ANEW)
            continue
        for found in differences(was.activity, now.activity):
            # A stage lists a named activity by its name alone; what it is stands elsewhere.
            pointer, name = now.pointer + found.pointer, ""
            if now.named:
                pointer, name = now.pointer, f"{found.pointer[1:]} "
            before = None if found.before is None else name + found.before
            after = None if found.after is None else name + found.after
            yield Refusal(old.key, pointer, before, after, why, _STAGE_ANEW)


def _own_factor(held: HeldActivity) -> bool:
    """Whether it is the factor of a ``settle``, which is a field of its own."""
    return not held.named and held.pointer.endswith("/lr_factor")


def _called(held: HeldActivity) -> tuple[str | None, str]:
    return (held.place if held.named else None, type(held.activity).__name__)


def _whole(held: HeldActivity | None) -> str | None:
    if held is None:
        return None
    return held.place.partition(":")[2] if held.named else shown(held.activity)


def _actions(
    old: CompiledStage | Edge, new: CompiledStage | Edge, pointer: str, why: str, remedy: str
) -> Iterator[Refusal]:
    was, now = (tuple(placed.action for placed in one.actions) for one in (old, new))
    place = old.key if isinstance(old, CompiledStage) else old.id
    for found in differences(was, now, pointer):
        yield Refusal(place, found.pointer, found.before, found.after, why, remedy)


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


# Edges


def _edge(
    before: CompiledGraph, after: CompiledGraph, edge_id: str, state: State, matches: Matches
) -> Iterator[Refusal]:
    old, new, count = before.edges[edge_id], matches.same.get(edge_id), state.fired[edge_id]
    why = f"it has been taken {_times(count)}"
    if new is not None:
        yield from _same_edge(old, new, after, state, why)
        return
    source = None if old.kind == "interrupt" else after.stages.get(old.scope)
    if old.kind != "interrupt" and source is None:
        return  # that the stage is gone has been said
    if edge_id in matches.ambiguous:
        yield Refusal(
            edge_id,
            old.pointer,
            _says(old),
            "one of several that say the same",
            f"{why}, and nothing tells which of them it is",
            "let as many of them stand as there were, each with its 'at_most'",
        )
        return
    remedy = "write a transition with 'completed()' before it"
    if old.kind != "next":
        remedy = f"leave it in; {_RETIRE.format(fired=count)}"
    instead = _instead(old, after, source, matches)
    if instead is None:
        yield Refusal(edge_id, old.pointer, _says(old), None, why, remedy)
    else:
        yield from _other_edge(old, instead, why, remedy)


def _same_edge(
    old: Edge, new: Edge, after: CompiledGraph, state: State, why: str
) -> Iterator[Refusal]:
    """An edge that does what it did may not be allowed less than it has done."""
    count = state.fired[old.id]
    if new.at_most is not None and new.at_most < count:
        was = "without limit" if old.at_most is None else str(old.at_most)
        pointer, remedy = f"{new.pointer}/at_most", f"the least it can be is {count}"
        yield Refusal(old.id, pointer, was, str(new.at_most), why, remedy)
    entered = after.stages.keys() & stages_entered(state).keys()
    lost = [key for key in old.within if key in entered and key not in new.within]
    if lost:
        was, remedy = f"a way out of {', '.join(lost)}", f"leave it so; {_RETIRE}"
        pointer, remedy = f"{new.pointer}/within", remedy.format(fired=count)
        yield Refusal(old.id, pointer, was, "none", why, remedy)


def _other_edge(old: Edge, new: Edge, why: str, remedy: str) -> Iterator[Refusal]:
    """What an edge does that it did not do."""
    if meaning(old.guard) != meaning(new.guard):
        was, now = _guard(old), _guard(new)
        yield Refusal(old.id, f"{new.pointer}/when", was, now, why, remedy)
    if old.target != new.target:
        pointer = new.pointer if new.kind == "next" else f"{new.pointer}/target"
        yield Refusal(old.id, pointer, old.target, new.target, why, remedy)
    yield from _actions(old, new, f"{new.pointer}/actions", why, remedy)


def _instead(
    old: Edge, after: CompiledGraph, source: CompiledStage | None, matches: Matches
) -> Edge | None:
    """What stands where an edge stood: under its id, or with its target."""
    if source is None or old.kind == "next":
        return after.edges.get(old.id)
    known = {edge.id for edge in matches.same.values()}
    free = [e for e in source.ways if e.kind == old.kind and e.id not in known]
    by_id = (edge for edge in free if edge.id == old.id)
    by_target = (edge for edge in free if edge.target == old.target)
    return next(iter((*by_target, *by_id)), None)


def _guard(edge: Edge) -> str:
    return "always" if edge.guard is None else shown(edge.guard)


def _says(edge: Edge) -> str:
    return f"a way to {edge.target} when {_guard(edge)}"


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


# Words


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
