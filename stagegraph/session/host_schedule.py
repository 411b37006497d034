"""What the host's scheduler does to a graph: plateaus of its own, and late growth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from stagegraph.graph.check import place
from stagegraph.graph.compile import compile_graph
from stagegraph.graph.findings import Finding, Severity
from stagegraph.graph.rules.context import Context, leaves
from stagegraph.graph.rules.registry import Found
from stagegraph.graph.under_schedule import Schedule, late_growths, plateaus_under_decay
from stagegraph.schema.expressions import Gain
from stagegraph.schema.guards import Plateau
from stagegraph.schema.stagegraph import StageGraph

if TYPE_CHECKING:
    from stagegraph.actions.optimizing.schedules import Course

__all__ = ["schedule_findings"]


def schedule_findings(graph: StageGraph, scheduler: Any, loader: Any) -> list[Finding]:
    """What a graph without errors has to fear from the host's schedulers.

    Args:
        graph: The graph.
        scheduler: A scheduler, or several.
        loader: For a budget in epochs: whose length says how many updates one takes.
    """
    several = scheduler if isinstance(scheduler, Sequence) else [scheduler]
    context = Context(*compile_graph(graph))
    updates = _updates(graph, loader)
    return [
        place(_finding(graph, code, severity, found), graph)
        for one in several
        if one is not None
        for code, severity, found in _of_one(context, one, updates)
    ]


def _of_one(
    context: Context, scheduler: Any, updates: int | None
) -> Iterator[tuple[str, Severity, Found]]:
    from stagegraph.actions.optimizing.schedules import course_of

    cares = bool(context.growing) or _waits_for_slopes(context)
    if not cares and updates is None:
        return
    course = course_of(scheduler, updates or 0)
    if course.refuses is not None and updates is not None:
        yield "scheduler-too-short", "warning", _too_short(course, updates)
    if not cares:
        return
    if course.follows_metric:
        yield "scheduler-follows-metric", "warning", _follows_metric(context, course.name)
        return
    why = course.unknown
    if updates is None:
        why = why or "'budget' has no 'steps', and nothing else says how many updates the run takes"
    if why is not None:
        yield (
            "scheduler-unknown",
            "note",
            Found(
                f"what {course.name} does to plateaus and to late growth is not known: {why}",
                "give a budget in steps and one of torch's schedulers, or see to it yourself that "
                "growth comes before the decay",
            ),
        )
        return
    schedule = Schedule(course.name, course.rates)
    for found in plateaus_under_decay(context, schedule):
        yield "plateau-under-decay", "warning", found
    for found in late_growths(context, schedule):
        yield "late-growth", "warning", found


def _too_short(course: Course, updates: int) -> Found:
    return Found(
        f"{course.name} raises when it is stepped for update {len(course.rates):,}, and the run "
        f"may take {updates:,}: {course.refuses}",
        "give it as many steps as 'budget' has, or end the graph sooner (budget: {steps: "
        f"{len(course.rates) - 1}}})",
        "/budget",
    )


def _follows_metric(context: Context, name: str) -> Found:
    harm = "the two answer one plateau twice"
    if context.growing:
        harm = (
            "a growth lifts the metric for a while, which it counts as waiting, so that it cuts "
            "the rate although nothing is wrong"
        )
    return Found(
        f"{name} waits for a plateau of its own and does not know of this graph: {harm}",
        "let one of them do it: an lr_ramp in a stage after the plateau, or no plateau in the "
        "graph; else call the scheduler's step only in stages that do not follow a growth",
    )


def _waits_for_slopes(context: Context) -> bool:
    return any(
        isinstance(node, Plateau | Gain)
        for edge, _ in context.guarded
        for node in leaves(edge.guard)
    )


def _updates(graph: StageGraph, loader: Any) -> int | None:
    """How many updates the run takes at the most, if anything says so."""
    budget = graph.budget
    if budget.steps is not None:
        return int(budget.steps)
    if budget.epochs is None or not hasattr(loader, "__len__"):
        return None
    return int(float(budget.epochs) * len(loader))


def _finding(graph: StageGraph, code: str, severity: Severity, found: Found) -> Finding:
    waived = graph.waive.get(code)
    return Finding(code, severity, found.message, found.remedy, found.pointer, waived=waived)
