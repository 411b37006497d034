"""Growths to choose from: options that can be excluded, and trials in their place."""

from __future__ import annotations

from collections.abc import Iterator

from stagegraph.graph.rules.context import Context
from stagegraph.graph.rules.registry import Found, rule
from stagegraph.schema.actions import Attribute, RollBack

__all__: list[str] = []


@rule("exclude-without-options", "error")
def exclude_without_options(context: Context) -> Iterator[Found]:
    """A rollback that excludes an option of a stage that has none.

    `exclude` names a stage with `options`; the one that it took last is not taken again.

    Example: `{type: roll_back, to: before, exclude: grow}` where `grow` has `actions` alone.
    """
    for placed, _, _ in context.actions():
        action = placed.action
        stage = context.stages.get(str(getattr(action, "exclude", None)))
        if isinstance(action, RollBack) and stage is not None and not stage.options:
            yield Found(
                f"the rollback excludes an option of {context.name(stage.key)}, which has none",
                "give that stage 'options', or name something else that will differ",
                f"{placed.pointer}/exclude",
            )


@rule("return-into-excluded", "warning")
def return_into_excluded(context: Context) -> Iterator[Found]:
    """A rollback into the very growth whose option it excludes.

    A return leads on only if there is a growth to have behind it. When the last option is excluded
    there is none: the rollback is held back, and what it was to undo stays.

    Example: `{type: roll_back, to: before, exclude: grow}` with `target: grow`.
    """
    for placed, edge, _ in context.actions():
        action = placed.action
        excluded = getattr(action, "exclude", None)
        if isinstance(action, RollBack) and edge is not None and excluded == edge.target:
            yield Found(
                f"{context.way(edge)} excludes an option of {context.name(edge.target)} and leads "
                "into it: with none left it is held back, and the last option is never undone",
                "lead to a stage before it that has a way out when its options are exhausted",
                placed.pointer,
            )


@rule("trial-misplaced", "error")
def trial_misplaced(context: Context) -> Iterator[Found]:
    """A trial where there is no one state to try from, or none to go on with.

    A trial returns to the state it was entered from, once per option. It is entered by a
    transition or a `next`: not at the beginning, not through a growth and not by an interrupt, and
    without an `attribute` on the way, which would measure the first option.
    It is left when it is over, by itself, for a stage that takes time and does not grow.

    Example: `initial: try` with a `trial` called `try`; or `next: grow` in one.
    """
    for region in context.compiled.regions:
        initial = region.stages.get(region.initial)
        if initial is not None and initial.kind == "trial":
            yield Found(
                f"region {region.name!r} begins with the trial {context.name(initial.key)}",
                "begin with a 'train' stage that leads to it",
                f"{region.pointer}/initial",
            )
    for edge, stages in context.guarded:
        target = context.stages.get(edge.target)
        for stage in stages:
            if stage.kind == "trial" and edge.kind == "interrupt":
                yield Found(
                    f"{context.way(edge)} may leave the trial {context.name(stage.key)}",
                    "leave the trial out of 'within': it ends by itself",
                    edge.pointer,
                )
            elif stage.kind == "trial" and target is not None and target.structural:
                yield Found(
                    f"{context.way(edge)} leads to the growth {context.name(target.key)}",
                    "lead to a 'warmup', 'settle', 'consolidate', 'train' or 'final' stage",
                    edge.pointer,
                )
        if target is None or target.kind != "trial":
            continue
        measuring = [placed for placed in edge.actions if isinstance(placed.action, Attribute)]
        if measuring:
            yield Found(
                f"{context.way(edge)} leads into the trial {context.name(target.key)} and has an "
                "attribution made: it would measure the first option, and go with it",
                "measure on the way into a stage before the trial, or after it",
                measuring[0].pointer,
            )
        if edge.kind == "interrupt" or any(stage.instant for stage in stages):
            yield Found(
                f"{context.way(edge)} leads into the trial {context.name(target.key)}",
                "lead to it by a transition, or by the 'next' of a stage that takes time",
                edge.pointer,
            )
