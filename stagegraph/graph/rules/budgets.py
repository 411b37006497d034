"""Budgets: read but not declared, too small for the plan, or missing where growth has no end."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import networkx as nx

from stagegraph.graph.compiled import CompiledStage, Edge
from stagegraph.graph.linear import Constraint, budget_of
from stagegraph.graph.rules.context import Context, leaves
from stagegraph.graph.rules.registry import Found, rule
from stagegraph.graph.structure import RegionView
from stagegraph.progress import Duration, Unit
from stagegraph.schema.activities import Ramp
from stagegraph.schema.expressions import Left, NameExpr, Spent, Visits
from stagegraph.schema.guards import Affordable, Exhausted
from stagegraph.schema.since_guards import Improved
from stagegraph.schema.stages import Grow, Trial

__all__: list[str] = []


@rule("undeclared-budget", "error", needs_names=False)
def undeclared_budget(context: Context) -> Iterator[Found]:
    """`left(...)` of a budget that is not declared.

    What is left of a budget that nobody set is unknown for ever.

    Example: `left(tokens) < 1M` with `budget: {steps: 20k}`.
    """
    for edge, _ in context.guarded:
        for node in leaves(edge.guard):
            if isinstance(node, Left) and getattr(context.graph.budget, node.amount) is None:
                yield Found(
                    f"left({node.amount}) is read, but 'budget' sets no {node.amount!r}",
                    f"add {node.amount!r} to 'budget', or ask spent({node.amount})",
                    f"{edge.pointer}/when",
                )


@rule("affordable-without-budget", "error", needs_names=False)
def affordable_without_budget(context: Context) -> Iterator[Found]:
    """`affordable(...)` without a budget of parameters.

    `affordable(stage)` asks whether a growth fits what is left of `params`; without that budget
    there is no answer.

    Example: `affordable(grow)` with `budget: {steps: 20k}`.
    """
    if context.graph.budget.params is not None:
        return
    for edge, _ in context.guarded:
        if any(isinstance(node, Affordable) for node in leaves(edge.guard)):
            yield Found(
                "affordable(...) is asked, but 'budget' sets no 'params'",
                "add 'params' to 'budget', such as {params: 3M}",
                f"{edge.pointer}/when",
            )


@rule("affordable-nothing", "warning")
def affordable_nothing(context: Context) -> Iterator[Found]:
    """`affordable(...)` or `exhausted(...)` of a stage that adds nothing.

    A stage that does not grow costs no parameters, so it is always affordable and never exhausted.

    Example: `affordable(warmup)` where `affordable(grow)` is meant.
    """
    for edge, _ in context.guarded:
        for node in leaves(edge.guard):
            if not isinstance(node, Affordable | Exhausted):
                continue
            stage = context.stages.get(node.stage)
            if stage is not None and not stage.structural:
                answer = "always affordable" if isinstance(node, Affordable) else "never exhausted"
                yield Found(
                    f"{context.name(stage.key)} adds no parameters, so it is {answer}",
                    "name the 'grow' or 'trial' stage that is meant",
                    f"{edge.pointer}/when",
                )


@rule("never-exhausted", "error")
def never_exhausted(context: Context) -> Iterator[Found]:
    """`exhausted(...)` of a growth that can always be had once more.

    A growth is exhausted when its options are used up or none fits the budget of `params`. With
    neither there is always one more, and the guard is never true.

    Example: `exhausted(grow)` where `grow` has no `options` and `budget` no `params`.
    """
    if context.graph.budget.params is not None:
        return
    for edge, _ in context.guarded:
        for node in leaves(edge.guard):
            stage = context.stages.get(node.stage) if isinstance(node, Exhausted) else None
            if stage is not None and stage.structural and not stage.options:
                yield Found(
                    f"{context.name(stage.key)} has no 'options' that could be used up, and "
                    "'budget' sets no 'params'",
                    "add 'params' to 'budget', or give the stage 'options'",
                    f"{edge.pointer}/when",
                )


@rule("budget-too-small", "warning")
def budget_too_small(context: Context) -> Iterator[Found]:
    """A budget that ends the run before any path can end.

    The run ends when a budget is spent, wherever it is then. Where even the shortest path to
    the end takes longer, its last stages are never seen.

    Example: stages of 8k and 5k steps one after the other with `budget: {steps: 10k}`.
    """
    for view in context.views.values():
        if not view.region.has_final or view.region.initial not in view.region.stages:
            continue
        for unit in Unit:
            budget = budget_of(context.graph.budget, unit.value)
            shortest = _shortest(context, view, unit)
            if budget is not None and shortest is not None and shortest > budget:
                yield Found(
                    f"the shortest way from {context.name(view.region.initial)} to an end takes "
                    f"{_number(shortest)} {unit}, the budget is {_number(budget)}",
                    "raise the budget, or shorten the stages",
                    f"/budget/{unit}",
                )


def _shortest(context: Context, view: RegionView, unit: Unit) -> Fraction | None:
    """The least a region needs from its first stage to an end, in one unit."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_node(view.region.initial)
    for move in view.live_moves:
        takes = _least(context, move.edge, view.region.stages[move.source], unit)
        if graph.has_edge(move.source, move.target):
            takes = min(takes, graph.edges[move.source, move.target]["takes"])
        graph.add_edge(move.source, move.target, takes=takes)
    lengths = nx.single_source_dijkstra_path_length(graph, view.region.initial, weight="takes")
    found = [Fraction(length) for key, length in lengths.items() if key in view.ends]
    return min(found, default=None)


def _least(context: Context, edge: Edge, stage: CompiledStage, unit: Unit) -> Fraction:
    """The least time a region spends in a stage before it leaves by an edge."""
    least = Fraction(0)
    if edge.kind != "interrupt":
        least = _amount(stage.min_duration, unit)
    if edge.kind == "next" and stage.kind == "warmup":
        ramps = [h.activity.over for h in stage.during if isinstance(h.activity, Ramp)]
        return max([least, *(_amount(over, unit) for over in ramps)])
    if edge.kind == "next":
        times = 1
        if isinstance(stage.spec, Trial):
            times = len(stage.options) + (stage.spec.worth is not None)
        return max(least, times * _amount(stage.duration, unit))
    cases = context.truth.cases(edge, stage)
    waits = [_waited(case, unit) for case in cases] if cases else [Fraction(0)]
    return max(least, min(waits))


def _waited(case: tuple[object, ...], unit: Unit) -> Fraction:
    form = ((f"elapsed({unit})", Fraction(1)),)
    return max(
        (
            part.bound
            for part in case
            if isinstance(part, Constraint) and part.form == form and part.op in (">", ">=")
        ),
        default=Fraction(0),
    )


def _amount(duration: Duration | None, unit: Unit) -> Fraction:
    return duration.exact if duration is not None and duration.unit is unit else Fraction(0)


def _number(value: Fraction) -> str:
    return f"{float(value):g}" if value.denominator != 1 else str(value.numerator)


@rule("unbounded-growth", "warning")
def unbounded_growth(context: Context) -> Iterator[Found]:
    """Growth in a loop that nothing bounds.

    A loop through a growth makes the model larger on every round. Without a stopping rule,
    memory ends it: a budget of `params`, an `at_most`, a guard on `visits(...)`, or one that asks
    whether growth still helps, `not improved(...)`.

    Example: `train` → `grow` → `warmup` → `train` with only a budget of steps.
    """
    if context.graph.budget.params is not None:
        return
    for view in context.views.values():
        loose: nx.DiGraph[str] = nx.DiGraph()
        for move in view.live_moves:
            if move.edge.at_most is None and not _counts(move.edge):
                loose.add_edge(move.source, move.target)
        for part in nx.strongly_connected_components(loose):
            for key, stage in view.region.stages.items():
                round_again = len(part) > 1 or loose.has_edge(key, key)
                bounded = _used_up(stage) or _asks(view, part)
                if key in part and stage.structural and round_again and not bounded:
                    yield Found(
                        f"{context.name(key)} lies in a loop that nothing bounds: the model grows "
                        "until memory ends it",
                        "add a stopping rule: 'params' in 'budget', 'at_most' on the way into it, "
                        "or a way out when: not improved(metric, by=2%, since=before)",
                        stage.pointer,
                    )


def _used_up(stage: CompiledStage) -> bool:
    """Whether a stage can be entered only as often as it has options."""
    return isinstance(stage.spec, Grow) and bool(stage.options) and stage.spec.policy == "next"


def _asks(view: RegionView, part: set[str]) -> bool:
    """Whether a way out of a stage of the loop asks whether growth has helped."""
    return any(
        isinstance(node, Improved)
        for move in view.live_moves
        if move.source in part
        for node in leaves(move.edge.guard)
    )


def _counts(edge: Edge) -> bool:
    return any(
        isinstance(node, Visits)
        or (isinstance(node, NameExpr) and node.name == "params")
        or (isinstance(node, Spent) and node.amount == "params")
        for node in leaves(edge.guard)
    )
