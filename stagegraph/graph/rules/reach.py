"""Where a region can go: stages that nothing leads to, traps, and runs that never end."""

from __future__ import annotations

from collections.abc import Iterator

import networkx as nx

from stagegraph.graph.compiled import STOP, CompiledStage, Edge
from stagegraph.graph.rules.context import Context
from stagegraph.graph.rules.registry import Found, rule
from stagegraph.graph.structure import RegionView

__all__ = ["AMOUNTS", "has_amount"]

AMOUNTS = ("steps", "epochs", "samples", "tokens", "flops", "seconds")
"""The budgets that end a run."""


def has_amount(context: Context) -> bool:
    """Whether a budget ends the run."""
    return any(getattr(context.graph.budget, amount) is not None for amount in AMOUNTS)


@rule("unreachable-stage", "error")
def unreachable_stage(context: Context) -> Iterator[Found]:
    """A stage that nothing leads to.

    A stage that no path from `initial` leads to is never run: the plan is not what it seems.

    Example: a `consolidate` stage after its `next` was turned past it.
    """
    for view in context.views.values():
        for key, stage in view.region.stages.items():
            if key not in view.reached:
                yield Found(
                    f"no path from {context.name(view.region.initial)} leads to "
                    f"{context.name(key)}",
                    "let a transition, an interrupt or a 'next' lead to it, or take it out",
                    stage.pointer,
                )


@rule("dead-end", "error")
def dead_end(context: Context) -> Iterator[Found]:
    """A stage that cannot be left.

    Where a region has a final stage, every other stage must have a way on.

    Otherwise the run trains in it until a budget ends it, or for ever. Ways that can never be
    taken do not count. Example: a `train` stage with neither `transitions` nor `next`.
    """
    for view, trap in _traps(context):
        if len(trap) == 1 and not view.live.has_edge(trap[0].key, trap[0].key):
            stage = trap[0]
            why = "its ways out can never be taken" if stage.ways else "it has no way out"
            yield Found(
                f"{context.name(stage.key)} cannot be left: {why}",
                "give it a 'duration' and a 'next', or a transition that can fire",
                stage.pointer,
            )


@rule("no-way-to-end", "error")
def no_way_to_end(context: Context) -> Iterator[Found]:
    """Stages from which no final stage can be reached.

    Stages that only lead to each other are a trap: once in, the region is never done.

    Example: `a` with `next: b` and `b` with `next: a`, beside a final stage that only the first
    stage leads to.
    """
    for view, trap in _traps(context):
        if len(trap) > 1 or view.live.has_edge(trap[0].key, trap[0].key):
            names = ", ".join(context.name(stage.key) for stage in trap)
            yield Found(
                f"from {names} no final stage can be reached",
                "let one of them lead on to a final stage, or to 'stop'",
                trap[0].pointer,
            )


def _traps(context: Context) -> Iterator[tuple[RegionView, list[CompiledStage]]]:
    """Groups of stages that are entered and then never left."""
    for view in context.views.values():
        if not view.region.has_final:
            continue
        lost = [key for key in view.region.stages if key in view.reached - view.ending]
        within = view.live.subgraph(lost)
        parts: list[set[str]] = list(nx.strongly_connected_components(within))
        for part in sorted(parts, key=lambda part: min(lost.index(key) for key in part)):
            if all(after in part for key in part for after in within.successors(key)):
                yield view, [view.region.stages[key] for key in lost if key in part]


@rule("no-end", "error")
def no_end(context: Context) -> Iterator[Found]:
    """A run that nothing ends.

    A run ends in final stages, at `target: stop`, or when a budget is spent; one is needed.

    A budget of `params` limits growth and ends nothing. Example: two stages that lead to each
    other, and no `budget`.
    """
    if has_amount(context) or any(region.has_final for region in context.compiled.regions):
        return
    if not any(STOP in view.from_stage(view.region.initial) for view in context.views.values()):
        yield Found(
            "nothing ends the run: no region has a final stage, no way leads to 'stop', and the "
            "budget limits no amount",
            "add a stage of kind 'final', or a budget such as {steps: 20k}",
        )


@rule("instant-cycle", "error")
def instant_cycle(context: Context) -> Iterator[Found]:
    """A loop of stages that take no time.

    A move goes through stages that take no time; in a loop of them it would never arrive.

    Example: two `grow` stages that are each other's `next`.
    """
    for view in context.views.values():
        instant = [key for key, stage in view.region.stages.items() if stage.instant]
        within = view.all.subgraph(instant)
        for part in nx.strongly_connected_components(within):
            first = min(part, key=instant.index)
            if len(part) > 1 or within.has_edge(first, first):
                names = ", ".join(context.name(key) for key in instant if key in part)
                yield Found(
                    f"{names} take no time and lead to each other for ever",
                    "put a stage that takes time, such as a warm-up, between them",
                    view.region.stages[first].pointer,
                )


@rule("exits-used-up", "warning")
def exits_used_up(context: Context) -> Iterator[Found]:
    """A stage whose ways out can all be used up.

    `at_most` counts in the whole run. When every way out of a stage in a loop has one, the
    region is caught in it after the last firing.

    Example: `train` with only a transition to `grow` that says `at_most: 3`, and a way back.
    """
    for view in context.views.values():
        for key, stage in view.region.stages.items():
            live = [e for e in stage.ways if (key, e.id) not in context.dead]
            if not live or key not in view.looping or not view.region.has_final:
                continue
            if any(edge.at_most is None for edge in live):
                continue
            out = sum(edge.at_most or 0 for edge in live)
            entries = context.truth.limits.entries.get(key)
            if entries is None or entries > out:
                yield Found(
                    f"after {out} firings {context.name(key)} cannot be left any more: all its "
                    "ways out have 'at_most'",
                    "add a way out without 'at_most', such as a 'duration' with a 'next'",
                    stage.pointer,
                )


@rule("interrupt-nowhere", "warning")
def interrupt_nowhere(context: Context) -> Iterator[Found]:
    """An interrupt that can leave nothing.

    An interrupt leaves the stages of `within`. A final stage is never left, and a `grow` stage
    only by its `next`, at once; with nothing else the interrupt never fires.

    Example: `within: [done]`.
    """
    placed = {edge.pointer for edge, _ in context.guarded}
    broken = [problem.pointer for problem in context.problems.found]
    for pointer, name in _written_interrupts(context):
        if pointer not in placed and not any(at.startswith(pointer) for at in broken):
            yield Found(
                f"interrupt {name!r} can leave no stage: its region has none that takes time",
                "take it out, or name the stages it should leave in 'within'",
                pointer,
            )
    for edge, stages in context.guarded:
        idle = [stage for stage in stages if stage.final or stage.instant]
        if edge.kind == "interrupt" and idle:
            names = ", ".join(context.name(stage.key) for stage in idle)
            yield Found(
                f"{context.way(edge)} can never leave {names}: final stages are never left, "
                "'grow' stages only by their 'next'",
                "take them out of 'within', and name the stage that follows instead",
                f"{edge.pointer}/within",
            )


def _written_interrupts(context: Context) -> Iterator[tuple[str, str]]:
    for index, interrupt in enumerate(context.graph.interrupts):
        yield f"/interrupts/{index}", interrupt.name
    for region in context.compiled.regions:
        for index, interrupt in enumerate(context.graph.all_regions[region.name].interrupts):
            yield f"{region.pointer}/interrupts/{index}", interrupt.name


@rule("restarts-for-ever", "error")
def restarts_for_ever(context: Context) -> Iterator[Found]:
    """A way that stays open and leads back into what it leaves.

    A condition such as `left(steps) <= 2000` stays true once it is true. An interrupt on it
    that may also leave its own target, or a stage after that, takes it again at every boundary:
    the target starts anew each time and nothing follows it.

    Example: `{name: last_call, when: left(steps) <= 2000, target: anneal}` without `within`.
    """
    for edge, stages in context.guarded:
        view = context.views[edge.region]
        if edge.at_most is not None or edge.target not in view.region.stages:
            continue
        if not any(_stays_true(context, edge, stage) for stage in stages):
            continue
        after = view.from_stage(edge.target)
        back = [s for s in stages if s.key in after and not (s.final or s.instant)]
        if edge.kind != "interrupt":
            back = [stage for stage in back if stage.key == edge.target]
        if back:
            names = ", ".join(context.name(stage.key) for stage in back)
            yield Found(
                f"{context.way(edge)} stays open once {context.shown(edge.guard)} is true, and it "
                f"leaves {names} too: {context.name(edge.target)} would start anew for ever",
                "list in 'within' only stages before its target, or give it 'at_most'",
                edge.pointer,
            )


def _stays_true(context: Context, edge: Edge, stage: CompiledStage) -> bool:
    """Whether some case of a guard is about global progress alone, and only comes true."""
    from stagegraph.graph.rules.waiting import opens_by_progress

    return any(
        opens_by_progress(case, elapsed=False) for case in context.truth.cases(edge, stage) or ()
    )
