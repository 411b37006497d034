"""Declarations that nothing uses: often the other half of a misspelling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from stagegraph.graph.rules.context import Context
from stagegraph.graph.rules.registry import Found, rule
from stagegraph.schema.actions import (
    Attribute,
    Baseline,
    GrowthAction,
    Prune,
    Send,
    SnapshotAction,
    TeacherAction,
)
from stagegraph.schema.activities import GrownCohort
from stagegraph.schema.stages import Stage, Use

__all__: list[str] = []


@rule("unused-metric", "note")
def unused_metric(context: Context) -> Iterator[Found]:
    """A metric that nothing reads.

    It is recorded, and decides nothing. That may be meant.

    Example: `accuracy` under `metrics` while all guards read `val_loss`.
    """
    for name in context.graph.metrics:
        if name not in context.problems.used.get("metrics", ()):
            yield Found(
                f"metric {name!r} is declared, but no guard reads it",
                "nothing, if it is only to be recorded; else use it, or take it out",
                f"/metrics/{name}",
            )


def _sent(context: Context) -> dict[str, str]:
    return {
        placed.action.event: placed.pointer
        for placed, _, _ in context.actions()
        if isinstance(placed.action, Send)
    }


@rule("unused-event", "warning")
def unused_event(context: Context) -> Iterator[Found]:
    """An event that nobody sends or hears.

    A declaration that nothing uses is left over, or the right spelling of one that is wrong.

    Example: `events: [grown, finished]` where nothing speaks of `finished`.
    """
    sent, heard = _sent(context), context.problems.used.get("heard", set())
    for index, name in enumerate(context.graph.events):
        if name not in sent and name not in heard:
            yield Found(
                f"event {name!r} is declared, but neither sent nor heard",
                "use it, or take it out",
                f"/events/{index}",
            )


@rule("event-unheard", "warning")
def event_unheard(context: Context) -> Iterator[Found]:
    """An event that is sent and never heard.

    Sending it has no effect: no guard asks for it.

    Example: `{type: send, event: finished}` and no `event(finished)`.
    """
    for name, pointer in _sent(context).items():
        if name in context.graph.events and name not in context.problems.used.get("heard", ()):
            yield Found(
                f"event {name!r} is sent, but no guard listens to it",
                f"ask event({name}) in a guard, or do not send it",
                pointer,
            )


@rule("event-unsent", "note")
def event_unsent(context: Context) -> Iterator[Found]:
    """An event that only the outside can send.

    No action sends it, so its ways open only when somebody sends it from outside, by
    `stagegraph send` or `engine.send`.

    Example: `event(new_data)` and no `{type: send, event: new_data}`.
    """
    sent, heard = _sent(context), context.problems.used.get("heard", set())
    for index, name in enumerate(context.graph.events):
        if name in heard and name not in sent:
            yield Found(
                f"event {name!r} is heard, but no action sends it",
                "nothing, if it comes from outside; else send it with an action",
                f"/events/{index}",
            )


@rule("unused-snapshot", "note")
def unused_snapshot(context: Context) -> Iterator[Found]:
    """A snapshot that nothing goes back to.

    A snapshot costs the room of a checkpoint. It is useful to `roll_back` and `regressed`, or
    to people.

    Example: `{type: snapshot, name: before}` and nothing that names `before`.
    """
    used = context.problems.used.get("snapshots", set())
    for placed, _, _ in context.actions():
        if isinstance(placed.action, SnapshotAction) and placed.action.name not in used:
            yield Found(
                f"snapshot {placed.action.name!r} is taken, but nothing goes back to it or asks "
                "for it",
                "nothing, if it is kept for people; else take it out",
                placed.pointer,
            )


@rule("unused-baseline", "warning")
def unused_baseline(context: Context) -> Iterator[Found]:
    """A baseline that nothing is compared with.

    Example: `{type: baseline, name: before}` and no guard with `since=before`.
    """
    used = context.problems.used.get("baselines", set())
    for placed, _, _ in context.actions():
        if isinstance(placed.action, Baseline) and placed.action.name not in used:
            yield Found(
                f"baseline {placed.action.name!r} is taken, but no guard compares with it",
                f"ask regressed(metric, by=5%, since={placed.action.name}), or take it out",
                placed.pointer,
            )


@rule("unused-teacher", "warning")
def unused_teacher(context: Context) -> Iterator[Found]:
    """A teacher that nobody learns from.

    A teacher costs the room of a model. Nothing but `distill` has a use for it.

    Example: `{type: teacher, name: small}` and no `distill` that names `small`.
    """
    used = context.problems.used.get("teachers", set())
    for placed, _, _ in context.actions():
        if isinstance(placed.action, TeacherAction) and placed.action.name not in used:
            yield Found(
                f"teacher {placed.action.name!r} is made, but nothing learns from it",
                f"learn from it with {{type: distill, teachers: {placed.action.name}}}, or take it "
                "out",
                placed.pointer,
            )


@rule("unused-activity", "warning")
def unused_activity(context: Context) -> Iterator[Found]:
    """A named activity that no stage lists.

    A freeze or a factor that was declared and is never active.

    Example: `activities: {low_frozen: …}` and no `during: [low_frozen]`.
    """
    used = context.problems.used.get("activities", set())
    for name in context.graph.activities:
        if name not in used:
            yield _not_listed(name, f"/activities/{name}")
    inner = {full.rpartition(".")[2] for full in used if "." in full}
    for group in _used_groups(context):
        for name in context.graph.graphs[group].activities:
            if name not in inner:
                yield _not_listed(name, f"/graphs/{group}/activities/{name}")


def _not_listed(name: str, pointer: str) -> Found:
    return Found(
        f"activity {name!r} is declared, but no stage lists it",
        "list it in a stage's 'during', or take it out",
        pointer,
    )


@rule("unused-graph", "warning")
def unused_graph(context: Context) -> Iterator[Found]:
    """A group of stages that is put in nowhere.

    Stages that were written and are never run.

    Example: `graphs: {grow_cycle: …}` and no `use: grow_cycle`.
    """
    used = _used_groups(context)
    for name in context.graph.graphs:
        if name not in used:
            yield Found(
                f"graph {name!r} is declared, but no stage uses it",
                f"put it in with 'use: {name}', or take it out",
                f"/graphs/{name}",
            )


def _used_groups(context: Context) -> dict[str, None]:
    found: dict[str, None] = {}

    def visit(stages: Mapping[str, Stage]) -> None:
        for stage in stages.values():
            if isinstance(stage, Use) and stage.use not in found:
                group = context.graph.graphs.get(stage.use)
                if group is not None:
                    found[stage.use] = None
                    visit(group.stages)

    for region in context.graph.all_regions.values():
        visit(region.stages)
    return found


@rule("unused-cohort", "note")
def unused_cohort(context: Context) -> Iterator[Found]:
    """A name of a growth that nothing selects.

    A growth's `name` is there to select what it added, by `{grown: name}`; without that it is
    only a label in the journal.

    Example: `{type: deepen, name: upper, …}` and no `of: {grown: upper}`.
    """
    used = {
        part.grown
        for _, held in context.held()
        for part in (*held.activity.selection, *held.activity.excepted)
        if isinstance(part, GrownCohort)
    }
    used |= {
        part.grown
        for placed, _, _ in context.actions()
        if isinstance(placed.action, Attribute | Prune)
        for part in placed.action.of
        if isinstance(part, GrownCohort)
    }
    for placed, _, _ in context.actions():
        action = placed.action
        if isinstance(action, GrowthAction) and action.name is not None and action.name not in used:
            yield Found(
                f"the growth {action.name!r} is named, but nothing selects it by that name",
                f"select it with {{grown: {action.name}}}, or leave the name out",
                placed.pointer,
            )
