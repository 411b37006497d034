"""Waiting for what may never come: plateaus, other regions, room to grow."""

from __future__ import annotations

from collections.abc import Iterator

import networkx as nx

from stagegraph.graph.compiled import CompiledStage, Edge
from stagegraph.graph.linear import Constraint
from stagegraph.graph.rules.context import Context, leaves
from stagegraph.graph.rules.registry import Found, rule
from stagegraph.graph.structure import RegionView, rolls_back
from stagegraph.graph.truth import Case, Condition
from stagegraph.schema.expressions import Best, Gain, Last, NameExpr, Nonfinite
from stagegraph.schema.guards import Completed, Done, Plateau
from stagegraph.schema.names import PROGRESS_NAMES
from stagegraph.schema.since_guards import Since

__all__ = ["opens_by_progress"]

_PROGRESS = frozenset({"step", "epoch", "samples", "tokens", "seconds", "flops"})


def opens_by_progress(case: Case, *, elapsed: bool = True) -> bool:
    """Whether a case comes true by training on, whatever the metrics do, and then stays true.

    Args:
        case: The case.
        elapsed: Whether time in the stage counts, or only progress of the whole run.
    """
    return all(_opens(literal, elapsed=elapsed) for literal in case) and (elapsed or bool(case))


def _opens(literal: object, *, elapsed: bool) -> bool:
    if isinstance(literal, Constraint):
        return literal.grows_true and all(
            name in _PROGRESS
            or name.startswith("spent(")
            or (elapsed and name.startswith("elapsed("))
            for name, _ in literal.form
        )
    return elapsed and isinstance(literal, Condition) and isinstance(literal.node, Completed)


@rule("no-progress-exit", "warning")
def no_progress_exit(context: Context) -> Iterator[Found]:
    """A stage that may wait for ever for a metric.

    A plateau may never be told (too much noise, too few values), a loss may never get under
    its mark. A stage that waits for one also needs a way out that progress alone opens: a
    `duration`, `elapsed(...)`, a comparison of `step`, or `left(...)`. Interrupts count.

    Example: a `train` stage whose only transition has `when: plateau(val_loss, worth=1%)`.
    """
    for stage in context.stages.values():
        view = context.views[stage.region]
        if stage.final or stage.instant or stage.key not in view.reached:
            continue
        waits = [edge for edge in stage.ways if _waits(edge, plateau_only=not view.ends)]
        if not view.region.has_final:
            waits = [edge for edge in waits if _waits(edge, plateau_only=True)]
        if waits and not any(_opens_way(context, edge, stage) for edge in stage.ways):
            yield Found(
                f"{context.name(stage.key)} waits for {context.shown(waits[0].guard)}, and no way "
                "out of it opens by progress alone",
                "add a 'duration' and a 'next', or an interrupt such as left(steps) <= 2000",
                stage.pointer,
            )


def _waits(edge: Edge, *, plateau_only: bool) -> bool:
    for node in leaves(edge.guard):
        if isinstance(node, Plateau):
            return True
        if not plateau_only and (
            isinstance(node, Last | Best | Nonfinite | Gain | Since)
            or (isinstance(node, NameExpr) and node.name not in PROGRESS_NAMES)
        ):
            return True
    return False


def _opens_way(context: Context, edge: Edge, stage: CompiledStage) -> bool:
    cases = context.truth.cases(edge, stage)
    return cases is None or any(opens_by_progress(case) for case in cases)


@rule("waits-in-circle", "error")
def waits_in_circle(context: Context) -> Iterator[Found]:
    """Regions that wait for each other's end.

    When each of two regions can only end after the other has ended, neither ever does.

    Example: `data` waits for `done(arch)` and `arch` for `done(data)`.
    """
    waits: nx.DiGraph[str] = nx.DiGraph()
    for name, view in context.views.items():
        for other in context.views:
            can_end = view.region.initial in view.ending
            if other != name and can_end and _needs(context, view, other):
                waits.add_edge(name, other)
    for part in nx.strongly_connected_components(waits):
        if len(part) > 1:
            names = ", ".join(repr(name) for name in sorted(part))
            first = context.compiled.by_name[min(part)]
            yield Found(
                f"regions {names} wait for each other: each can only end after another has ended",
                "let one of them end by itself",
                first.pointer,
            )


def _needs(context: Context, view: RegionView, other: str) -> bool:
    """Whether no path to an end avoids ``done(other)``."""
    free: nx.DiGraph[str] = nx.DiGraph()
    free.add_node(view.region.initial)
    for move in view.live_moves:
        cases = context.truth.cases(move.edge, view.region.stages[move.source])
        if cases is None or not cases or not all(_asks_done(case, other) for case in cases):
            free.add_edge(move.source, move.target)
    reached = nx.descendants(free, view.region.initial) | {view.region.initial}
    return not reached & view.ends


def _asks_done(case: Case, region: str) -> bool:
    return any(
        isinstance(part, Condition)
        and part.positive
        and isinstance(part.node, Done)
        and part.node.region == region
        for part in case
    )


def _rounds(view: RegionView, *, rollbacks: bool) -> set[str]:
    """The stages in loops on which the model grows, or on which options are used up.

    A rollback takes a growth back, but options that were taken, or that it excludes, stay so.
    """
    graph: nx.DiGraph[str] = nx.DiGraph()
    moves = (m for m in view.live_moves if rollbacks or not rolls_back(m.edge))
    graph.add_edges_from((m.source, m.target) for m in moves)
    parts = nx.strongly_connected_components(graph)
    return {key for part in parts if len(part) > 1 for key in part}


@rule("stuck-when-full", "warning")
def stuck_when_full(context: Context) -> Iterator[Found]:
    """A stage that can only be left by growing.

    Growth past the budget of `params` is blocked, and so is growth of a stage whose options are
    used up. A stage in a loop whose every way out leads into growth cannot be left then.

    Example: `train` with only `{target: grow, …}` and a budget of `params`.
    """
    limited = context.graph.budget.params is not None
    for stage in context.stages.values():
        view = context.views[stage.region]
        targets = [context.stages.get(edge.target) for edge in stage.ways]
        if stage.instant or not targets:
            continue
        chosen = all(t is not None and t.options for t in targets)
        filled = limited and all(t is not None and t.structural for t in targets)
        filled = filled and stage.key in _rounds(view, rollbacks=False)
        if filled or (chosen and stage.key in _rounds(view, rollbacks=True)):
            full = "the budget of params is full" if filled else "their options are used up"
            first = next(target for target in targets if target is not None)
            yield Found(
                f"every way out of {context.name(stage.key)} leads into growth; when {full}, all "
                "of them are blocked",
                f"add a way out for that, such as: when: exhausted({first.name})",
                stage.pointer,
            )
