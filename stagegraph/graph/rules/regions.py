"""Regions that grow side by side, and the structure lock between them."""

from __future__ import annotations

from collections.abc import Iterator

from stagegraph.graph.compiled import Edge
from stagegraph.graph.rules.context import Context
from stagegraph.graph.rules.registry import Found, rule
from stagegraph.graph.structure import rolls_back
from stagegraph.graph.truth import Case, Condition
from stagegraph.schema.guards import InStage

__all__: list[str] = []


@rule("overlap-too-large", "warning")
def overlap_too_large(context: Context) -> Iterator[Found]:
    """A `max_overlap` that never comes into play.

    `max_overlap` bounds how many regions are between a growth and the end of its consolidation
    at once. More than there are growing regions bounds nothing.

    Example: `max_overlap: 3` where only `depth` and `width` grow.
    """
    allowed, growing = context.graph.max_overlap, len(context.growing)
    if allowed > max(1, growing):
        yield Found(
            f"max_overlap is {allowed}, but {growing} region(s) grow",
            f"set it to {max(1, growing)} at most, or take it out",
            "/max_overlap",
        )


@rule("growths-take-turns", "note")
def growths_take_turns(context: Context) -> Iterator[Found]:
    """Regions whose growths wait for each other.

    With `max_overlap: 1`, the default, a region that would grow waits until every other one has
    consolidated. That is safe, and makes the schedule sequential.

    Example: regions `depth` and `width` that both grow, and no `max_overlap`.
    """
    if len(context.growing) > 1 and context.graph.max_overlap == 1:
        names = ", ".join(repr(name) for name in sorted(context.growing))
        yield Found(
            f"regions {names} grow one at a time: each waits until the others have consolidated",
            "nothing, if that is meant; 'max_overlap: 2' lets them overlap",
            "/regions",
        )


@rule("growth-blocked", "error")
def growth_blocked(context: Context) -> Iterator[Found]:
    """A growth that asks for what blocks it.

    A region between a growth and the end of its consolidation keeps others from growing, up to
    `max_overlap`. A growth whose guard asks for another region to be there is then always blocked.

    Example: `when: in(depth:consolidate)` on the way to `width`'s growth with `max_overlap: 1`.
    """
    for edge, open_regions in _growth_cases(context):
        if open_regions and all(len(c) >= context.graph.max_overlap for c in open_regions):
            names = ", ".join(repr(name) for name in sorted(open_regions[0]))
            yield Found(
                f"{context.way(edge)} grows only while region {names} is between its growth and "
                f"the end of its consolidation, but max_overlap is {context.graph.max_overlap}",
                f"raise max_overlap to {len(open_regions[0]) + 1}, or wait for a stage after it",
                f"{edge.pointer}/when",
            )


def _growth_cases(context: Context) -> Iterator[tuple[Edge, list[set[str]]]]:
    """For each way into growth, and each case of its guard, the other regions that are open."""
    locked = _locked(context)
    for edge, stages in context.guarded:
        target = context.stages.get(edge.target)
        if target is None or not target.structural or edge.kind == "next":
            continue
        for stage in stages[:1]:
            cases = context.truth.cases(edge, stage) or ()
            yield edge, [_open(context, case, locked) for case in cases]


def _open(context: Context, case: Case, locked: frozenset[str]) -> set[str]:
    return {
        context.stages[part.node.stage].region
        for part in case
        if isinstance(part, Condition)
        and part.positive
        and isinstance(part.node, InStage)
        and part.node.stage in locked
    }


def _locked(context: Context) -> frozenset[str]:
    """The stages in which a region is always between a growth and the end of it.

    A way ``back`` changes nothing here: it opens what was open when it was left. A rollback may
    lead to its target out of a state in which the region was closed.
    """
    found: set[str] = set()
    for name, stages in context.growing.items():
        view = context.views[name]
        growing = frozenset(stage.key for stage in stages)
        free = {s.key for s in view.region.stages.values() if s.kind in ("train", "final")}
        closed: set[str] = set()
        restored = {m.target for m in view.moves if m.how == "way" and rolls_back(m.edge)}
        for start in (free & view.reached) | {view.region.initial} | restored:
            if start not in growing:
                closed |= view.from_stage(start, without=growing, back=False) - growing
        found |= view.reached - closed - growing - free
    return frozenset(found)


@rule("growth-sometimes-blocked", "note")
def growth_sometimes_blocked(context: Context) -> Iterator[Found]:
    """A growth that part of its guard cannot open.

    One side of an "or" asks for another region to be there where it blocks this growth; only
    the other side can open the way.

    Example: `in(depth:consolidate) or done(depth)` with `max_overlap: 1`.
    """
    for edge, open_regions in _growth_cases(context):
        blocked = [case for case in open_regions if len(case) >= context.graph.max_overlap]
        if blocked and len(blocked) < len(open_regions):
            names = ", ".join(repr(name) for name in sorted(blocked[0]))
            yield Found(
                f"{context.way(edge)} is blocked while region {names} has not consolidated, though "
                f"part of {context.shown(edge.guard)} asks for just that",
                f"raise max_overlap to {len(blocked[0]) + 1}, or take that part out",
                f"{edge.pointer}/when",
            )


@rule("lock-never-freed", "warning")
def lock_never_freed(context: Context) -> Iterator[Found]:
    """A region that never ends its growth.

    After a growth a region counts as open until it enters a `train` or `final` stage. One that
    never does keeps the others from growing.

    Example: `grow` → `warmup` → `consolidate` → `grow` beside another region that grows.
    """
    if len(context.growing) < 2:
        return
    for name, stages in context.growing.items():
        view = context.views[name]
        for stage in stages:
            after = [view.region.stages.get(key) for key in view.from_stage(stage.key)]
            if stage.key in view.reached and not any(
                other is not None and other.kind in ("train", "final") for other in after
            ):
                yield Found(
                    f"after {context.name(stage.key)} region {name!r} enters no 'train' or 'final' "
                    "stage, so it keeps other regions from growing for ever",
                    "lead to a 'train' or 'final' stage after the consolidation",
                    stage.pointer,
                )
