"""Past: what was done in a run, and so may not be edited any more: stages entered, ways taken.

The present stages were entered too, so that what is held now is pinned by the same rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from stagegraph.engine.matching import Matches, match_activities
from stagegraph.engine.refusal import Refusal
from stagegraph.engine.state import Options, State
from stagegraph.graph.compiled import CompiledGraph, CompiledStage, Edge, HeldActivity
from stagegraph.schema.differences import differences, meaning, shown

__all__ = ["edges_taken", "stages_entered"]

_STAGE_ANEW = "give what is to come a stage of another name"
_RETIRE = "set 'at_most' to {fired} to take it no more, and write another way beside it"
_FUTURE_OF_A_STAGE = frozenset(
    {"kind", "actions", "during", "transitions", "next", "duration", "min_duration", "note"}
    | {"options", "choose", "otherwise"}
)
"""Fields of a stage that are free, or are looked at with their names resolved."""


def stages_entered(before: CompiledGraph, after: CompiledGraph, state: State) -> Iterator[Refusal]:
    """Edits of stages that were entered."""
    for key, count in state.visits.items():
        if count:
            yield from _stage(before, after, key, count)
            yield from _options(before, after, key, state)


def edges_taken(
    before: CompiledGraph, after: CompiledGraph, state: State, matches: Matches
) -> Iterator[Refusal]:
    """Edits of ways that were taken."""
    for edge_id in state.fired:
        yield from _edge(before, after, edge_id, state, matches)


# Stages


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


def _options(
    before: CompiledGraph, after: CompiledGraph, key: str, state: State
) -> Iterator[Refusal]:
    """Options that were taken or are tried; the others are free, in a trial that is over too."""
    old, new = before.stages[key], after.stages.get(key)
    if new is None or new.kind != old.kind:
        return
    known = state.options.get(key, Options())
    names = [*known.taken, *known.excluded, *known.failed]
    if state.trial is not None and state.trial.stage == key:
        names = [option.name for option in old.options]
        for name in (option.name for option in new.options):
            if name not in names:
                pointer = f"{new.pointer}/options"
                why = "the options are being tried"
                yield Refusal(key, pointer, None, f"an option {name!r}", why, "wait for its end")
    for name in dict.fromkeys(names):
        was, now = old.option(name), new.option(name)
        why = "it was taken, excluded or tried"
        if now is None or was is None:
            pointer, keep = f"{new.pointer}/options", "leave it in; add others beside it"
            yield Refusal(key, pointer, f"an option {name!r}", None, why, keep)
            continue
        index = [option.name for option in new.options].index(name)
        pointer = f"{new.pointer}/options/{index}/actions"
        did, does = (tuple(placed.action for placed in o.actions) for o in (was, now))
        for found in differences(did, does, pointer):
            remedy = "leave it as it was; add another option beside it"
            yield Refusal(key, found.pointer, found.before, found.after, why, remedy)


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
    entered = [key for key in old.within if key in after.stages and state.visits.get(key)]
    lost = [key for key in entered if key not in new.within]
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


# Words


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
