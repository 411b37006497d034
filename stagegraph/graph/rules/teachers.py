"""Distillation: a teacher must have been made before anybody learns from it."""

from __future__ import annotations

from collections.abc import Iterator

from stagegraph.graph.compiled import CompiledStage
from stagegraph.graph.history import Past
from stagegraph.graph.rules.context import Context
from stagegraph.graph.rules.registry import Found, rule
from stagegraph.schema.actions import TeacherAction
from stagegraph.schema.activities import Distill

__all__: list[str] = []


@rule("distill-before-teacher", "error")
def distill_before_teacher(context: Context) -> Iterator[Found]:
    """A `distill` before its teacher.

    On no path to this stage has the teacher been made, so the run would stop there.

    Example: `distill` in the first stage, from a teacher that the second one makes.
    """
    for stage, pointer, name, past in _lessons(context):
        if f"teacher:{name}" not in past.sometimes:
            yield Found(
                f"{context.name(stage.key)} learns from {name!r}, but on no path to it is that "
                "teacher made",
                f"put {{type: teacher, name: {name}}} among the actions on the way to it",
                pointer,
            )


@rule("teacher-may-be-missing", "warning")
def teacher_may_be_missing(context: Context) -> Iterator[Found]:
    """A `distill` whose teacher may have been made, or not.

    On some path to this stage the teacher was not made; a run that takes it stops there with an
    error.

    Example: a transition from the first stage past the growth whose actions make the teacher.
    """
    for stage, pointer, name, past in _lessons(context):
        if f"teacher:{name}" in past.sometimes and f"teacher:{name}" not in past.always:
            yield Found(
                f"{context.name(stage.key)} learns from {name!r}, but there is a path to it on "
                "which that teacher is not made",
                "let every way to this stage make the teacher, or make it in the stage's own "
                "actions",
                pointer,
            )


def _lessons(context: Context) -> Iterator[tuple[CompiledStage, str, str, Past]]:
    """Every teacher that only the stage's own region makes, where one learns from it."""
    makers = _makers(context)
    for stage, held in context.held():
        past = context.history[stage.region].get(stage.key)
        if past is None or not isinstance(held.activity, Distill):
            continue
        for teacher in held.activity.weighted:
            if makers.get(teacher.name) == {stage.region}:
                yield stage, held.pointer, teacher.name, past


def _makers(context: Context) -> dict[str, set[str]]:
    """The regions in which each teacher is made."""
    found: dict[str, set[str]] = {}
    for placed, edge, stage in context.actions():
        if isinstance(placed.action, TeacherAction):
            region = edge.region if edge is not None else stage.region if stage else ""
            found.setdefault(placed.action.name, set()).add(region)
    return found
