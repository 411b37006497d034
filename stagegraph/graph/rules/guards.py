"""Guards that say nothing: never true, always true, or hidden by an earlier way out."""

from __future__ import annotations

from collections.abc import Iterator

from stagegraph.graph.compiled import CompiledStage, Edge
from stagegraph.graph.rules.context import Context
from stagegraph.graph.rules.registry import Found, rule

__all__: list[str] = []


@rule("never-true", "error")
def never_true(context: Context) -> Iterator[Found]:
    """A guard that contradicts itself.

    A guard whose conditions exclude each other never opens its way, in any run.

    Example: `val_loss < 1 and val_loss > 2`.
    """
    for edge, stages in context.guarded:
        if edge.kind == "next":
            continue
        why = [context.truth.never(edge, stage, limited=False) for stage in stages]
        if why and all(why):
            yield Found(
                f"{context.shown(edge.guard)} can never be true: {why[0]}",
                "correct the condition, or take the way out",
                f"{edge.pointer}/when",
            )


@rule("out-of-reach", "warning")
def out_of_reach(context: Context) -> Iterator[Found]:
    """A guard that budget or duration keep from ever being true.

    Before the condition can hold, the budget is spent or the stage is over.

    Example: `step >= 50k` with `budget: {steps: 20k}`, or `elapsed(3 epochs)` in a stage that is
    left after two.
    """
    for edge, stages in context.guarded:
        if edge.kind == "next":
            continue
        if all(context.truth.never(edge, stage, limited=False) for stage in stages):
            continue
        why = [context.truth.never(edge, stage, limited=True) for stage in stages]
        if why and all(why):
            yield Found(
                f"{context.shown(edge.guard)} cannot become true: {why[0]}",
                "lower the threshold, or raise the budget or the duration",
                f"{edge.pointer}/when",
            )


@rule("always-true", "warning")
def always_true(context: Context) -> Iterator[Found]:
    """A guard that is true from the start.

    A guard that cannot be false takes its way at the first chance; the stage is over after one
    update.

    Example: `left(steps) <= 50k` with `budget: {steps: 20k}`.
    """
    for edge, stages in context.guarded:
        if edge.kind == "next" or edge.guard is None:
            continue
        if stages and all(context.truth.always(edge, stage, limited=True) for stage in stages):
            yield Found(
                f"{context.shown(edge.guard)} is true whenever it is asked",
                "correct the condition; to go on unconditionally, leave 'when' out",
                f"{edge.pointer}/when",
            )


@rule("shadowed-way", "error")
def shadowed_way(context: Context) -> Iterator[Found]:
    """A way out that an earlier one always takes first.

    Ways out are asked in order: interrupts, transitions, `next`. One that is true only when an
    earlier one is true as well is never taken.

    Example: `val_loss < 0.5` after `val_loss < 0.8`; or anything after a transition without
    `when`.
    """
    truth = context.truth
    for edge, stages in context.guarded:
        firsts = []
        for stage in stages:
            firsts += [way for way in _before(edge, stage) if truth.covers(way, edge, stage)][:1]
        never = all(truth.never(edge, stage, limited=False) for stage in stages)
        if len(firsts) == len(stages) and not never:
            yield Found(
                f"{context.way(edge)} is never taken: whenever it could be, "
                f"{context.way(firsts[0])} ({context.shown(firsts[0].guard)}) is taken first",
                "put the narrower condition first, or take one of the two out",
                edge.pointer,
            )


def _before(edge: Edge, stage: CompiledStage) -> list[Edge]:
    """The ways out of a stage that are asked before an edge."""
    if stage.kind == "trial":
        return []  # what its options come to tells which is taken
    return list(stage.ways[: [way.id for way in stage.ways].index(edge.id)])
