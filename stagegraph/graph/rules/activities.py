"""Activities that fight each other, do nothing, or speak of what is not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from stagegraph.graph.compiled import CompiledStage
from stagegraph.graph.history import GROWTH, Past
from stagegraph.graph.rules.context import Context
from stagegraph.graph.rules.registry import Found, rule
from stagegraph.schema.actions import Attribute, Prune
from stagegraph.schema.activities import (
    Activity,
    AlphaRamp,
    Freeze,
    GrownCohort,
    Head,
    Hyper,
    Selection,
)
from stagegraph.schema.stages import Settle

__all__: list[str] = []


@rule("knob-conflict", "error")
def knob_conflict(context: Context) -> Iterator[Found]:
    """Two activities that hold one knob at once.

    Learning-rate factors multiply and freezes unite, but a data knob, the alpha of a growth, a
    hyper-parameter or the attribute of a head can only have one value.

    Example: a stage with `{type: difficulty, level: 0}` and `{type: difficulty, level: 2}`.
    """
    for stage in context.stages.values():
        seen: dict[object, str] = {}
        for held in stage.during:
            activity = held.activity
            for part in _exclusive(activity):
                other = seen.setdefault((activity.writes, part), held.pointer)
                if other != held.pointer:
                    yield Found(
                        f"two activities of {context.name(stage.key)} hold {activity.writes!r} at "
                        "the same time",
                        "keep one of them",
                        held.pointer,
                    )


def _exclusive(activity: Activity) -> tuple[object, ...]:
    """What of its knob an activity must hold alone."""
    if isinstance(activity, AlphaRamp):
        return activity.of
    if isinstance(activity, Head):
        return (activity.of,)
    if isinstance(activity, Hyper):
        return (activity.target,)
    return (None,) if activity.data else ()


@rule("shared-data-knob", "warning")
def shared_data_knob(context: Context) -> Iterator[Found]:
    """Two regions that turn the same data knob, hyper-parameter or attribute of a head.

    Regions run side by side: if both hold the same one at one boundary, the run stops with an
    error.

    Example: `difficulty` in stages of `data` and of `arch`.
    """
    holders: dict[str, dict[str, str]] = {}
    for stage, held in context.held():
        for knob in _shared(held.activity):
            holders.setdefault(knob, {}).setdefault(stage.region, held.pointer)
    for knob, regions in holders.items():
        if len(regions) > 1:
            names = ", ".join(repr(name) for name in regions)
            yield Found(
                f"regions {names} all hold {knob}, perhaps at the same time",
                "let one region hold it, and the others ask in(...) or send events",
                list(regions.values())[1],
            )


def _shared(activity: Activity) -> tuple[str, ...]:
    """What of the model or its data an activity holds for all regions."""
    if isinstance(activity, Head):
        return (f"the attribute {activity.of!r}",)
    if isinstance(activity, Hyper):
        return (f"the hyper-parameter {activity.target!r}",)
    return (f"the data knob {activity.writes!r}",) if activity.data else ()


@rule("listed-twice", "warning")
def listed_twice(context: Context) -> Iterator[Found]:
    """An activity that a stage lists twice.

    A named activity is on or off; a second mention changes nothing.

    Example: `during: [low_frozen, low_frozen]`.
    """
    for stage in context.stages.values():
        seen: set[str] = set()
        for held in stage.during:
            if held.named and held.place in seen:
                name = held.place.partition(":")[2]
                yield Found(
                    f"{context.name(stage.key)} lists activity {name!r} twice",
                    "take one of the two out",
                    held.pointer,
                )
            seen.add(held.place)


@rule("freeze-everything", "warning")
def freeze_everything(context: Context) -> Iterator[Found]:
    """A stage in which nothing is trained.

    With all parameters frozen the updates cost time and change nothing.

    Example: `{type: freeze, of: all}`.
    """
    for stage, held in context.held():
        activity = held.activity
        if not isinstance(activity, Freeze) or activity.but:
            continue
        if {"all", "*"} & set(activity.of):
            yield Found(
                f"{context.name(stage.key)} freezes every parameter: nothing is trained in it",
                "name the parameters to freeze, such as 'encoder.*'",
                held.pointer,
            )


@rule("settle-without-effect", "warning")
def settle_without_effect(context: Context) -> Iterator[Found]:
    """A settle stage that cuts nothing.

    The promise of `settle`: every learning rate is cut. A factor of 1 cuts none.

    Example: `{kind: settle, lr_factor: 1, …}`.
    """
    for stage in context.stages.values():
        if isinstance(stage.spec, Settle) and stage.spec.lr_factor == 1:
            yield Found(
                f"{context.name(stage.key)} settles with an lr_factor of 1, which cuts nothing",
                "take a factor under 1, such as 0.3, or make it a 'train' stage",
                f"{stage.pointer}/lr_factor",
            )


@rule("grown-before-growth", "error")
def grown_before_growth(context: Context) -> Iterator[Found]:
    """`grown` where nothing can have grown.

    `grown` is what this region's last growth added. On no path to this stage has it grown, so
    the selection would match nothing.

    Example: a warm-up over `grown` as the first stage.
    """
    for stage, pointer, part, fact, past in _selections(context):
        if fact not in past.sometimes:
            yield Found(
                f"{context.name(stage.key)} selects {part}, but on no path to it that has grown",
                "put the growth before it, or select parameters by a glob",
                pointer,
            )


@rule("grown-may-be-missing", "warning")
def grown_may_be_missing(context: Context) -> Iterator[Found]:
    """`grown` where something may have grown, or not.

    On some path to this stage the growth was passed by; a run that takes it stops there with
    an error, as the selection matches nothing.

    Example: a transition from the first stage straight to the warm-up.
    """
    for stage, pointer, part, fact, past in _selections(context):
        if fact in past.sometimes and fact not in past.always:
            yield Found(
                f"{context.name(stage.key)} selects {part}, but there is a path to it on which "
                "that has not grown",
                "let every way to this stage go through the growth",
                pointer,
            )


def _selections(context: Context) -> Iterator[tuple[CompiledStage, str, str, str, Past]]:
    """Every selection of a cohort of the stage's own region, with the fact that it needs."""
    owners = _owners(context)
    for stage, held in context.held():
        past = context.history[stage.region].get(stage.key)
        if past is None:
            continue
        both = (*held.activity.selection, *held.activity.excepted)
        for part, needed in _needed(both, stage.region, owners):
            yield stage, held.pointer, part, needed, past
    for placed, _, at in context.actions():
        if at is not None and isinstance(placed.action, Attribute | Prune):
            past = context.history[at.region].get(at.key)
            for part, needed in _needed(placed.action.of, at.region, owners) if past else ():
                assert past is not None
                yield at, placed.pointer, part, needed, past


def _needed(
    selection: Selection, region: str, owners: Mapping[str, set[str]]
) -> Iterator[tuple[str, str]]:
    """The cohorts of the region itself that a selection asks for, with the fact that each needs."""
    for part in selection:
        if part == "grown":
            yield "'grown'", GROWTH
        elif isinstance(part, GrownCohort) and owners.get(part.grown) == {region}:
            yield f"what {part.grown!r} added", f"cohort:{part.grown}"


def _owners(context: Context) -> dict[str, set[str]]:
    """The regions in which each named growth happens."""
    found: dict[str, set[str]] = {}
    for region, history in context.history.items():
        for past in history.values():
            for fact in past.sometimes:
                if fact.startswith("cohort:"):
                    found.setdefault(fact.removeprefix("cohort:"), set()).add(region)
    for stage in context.stages.values():
        for name in (growth.name for growth in stage.possible_growths):
            if name is not None:
                found.setdefault(name, set()).add(stage.region)
    return found
