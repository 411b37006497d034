"""When a stage is completed: durations, `next`, ramps and `completed()`."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from stagegraph.graph.compiled import CompiledStage, HeldActivity
from stagegraph.graph.rules.context import Context, leaves
from stagegraph.graph.rules.registry import Found, rule
from stagegraph.schema.activities import Ramp
from stagegraph.schema.guards import Completed

__all__: list[str] = []

_TIMED = ("train", "settle", "consolidate")


def _reads_completed(stage: CompiledStage) -> bool:
    return any(
        isinstance(node, Completed)
        for edge in stage.ways
        if edge.kind != "next"
        for node in leaves(edge.guard)
    )


@rule("next-without-duration", "error")
def next_without_duration(context: Context) -> Iterator[Found]:
    """`next` in a stage that is never completed.

    `next` is taken when the stage is completed, and a `train`, `settle` or `consolidate` stage
    is completed when its `duration` has passed. Without one it never is.

    Example: `{kind: consolidate, next: train}`.
    """
    for stage in context.stages.values():
        if stage.kind in _TIMED and stage.duration is None and getattr(stage.spec, "next", None):
            yield Found(
                f"{context.name(stage.key)} has 'next' but no 'duration', so it is never "
                "completed and 'next' is never taken",
                "add a 'duration' such as '5k steps', or a transition with the condition meant",
                f"{stage.pointer}/next",
            )


@rule("duration-without-next", "error")
def duration_without_next(context: Context) -> Iterator[Found]:
    """A `duration` that leads nowhere.

    When the `duration` has passed, the stage is completed and `next` is taken. A duration
    without `next`, and without a transition on `completed()`, does nothing.

    Example: `{kind: train, duration: 10k steps}`.
    """
    for stage in context.stages.values():
        if stage.kind not in _TIMED or stage.duration is None:
            continue
        if getattr(stage.spec, "next", None) is None and not _reads_completed(stage):
            yield Found(
                f"{context.name(stage.key)} has a 'duration' of {stage.duration} but no 'next': "
                "nothing happens when it has passed",
                "say with 'next' which stage follows",
                f"{stage.pointer}/duration",
            )


@rule("nothing-completes", "error")
def nothing_completes(context: Context) -> Iterator[Found]:
    """`completed()` where nothing can be completed.

    `completed()` is true when the stage's duration has passed or its ramps have ended. In a
    stage with neither it is never true.

    Example: `when: completed()` in a `train` stage without `duration`.
    """
    for edge, stages in context.guarded:
        if edge.kind == "next" or not any(isinstance(n, Completed) for n in leaves(edge.guard)):
            continue
        if not any(_completes(stage) for stage in stages):
            names = ", ".join(context.name(stage.key) for stage in stages)
            yield Found(
                f"{context.way(edge)} waits for completed(), but {names} is never completed",
                "give the stage a 'duration', or ask elapsed(...) instead",
                f"{edge.pointer}/when",
            )


def _completes(stage: CompiledStage) -> bool:
    if stage.kind == "warmup":
        return any(isinstance(held.activity, Ramp) for held in stage.during)
    return stage.duration is not None


@rule("min-over-duration", "error")
def min_over_duration(context: Context) -> Iterator[Found]:
    """A `min_duration` longer than the `duration`.

    `min_duration` holds back transitions and `next` alike; a longer one than `duration`
    contradicts it.

    Example: `{min_duration: 5k steps, duration: 2k steps, next: done}`.
    """
    for stage in context.stages.values():
        least, ends = stage.min_duration, context.truth.limits.completion(stage)
        if least is None or ends is None or least.unit is not ends.unit:
            continue
        if least.exact > ends.exact:
            yield Found(
                f"{context.name(stage.key)} is completed after {ends} but must last at least "
                f"{least}",
                "make 'min_duration' the shorter of the two",
                f"{stage.pointer}/min_duration",
            )


@rule("warmup-without-ramp", "error")
def warmup_without_ramp(context: Context) -> Iterator[Found]:
    """A warm-up that has no ramp.

    The promise of `warmup`: it eases something in, and ends when its ramps have ended. Without
    a ramp it is no warm-up and never completed.

    Example: `{kind: warmup, during: [{type: lr_factor, factor: 0.1}], next: train}`.
    """
    for stage in context.stages.values():
        if stage.kind == "warmup" and not any(isinstance(h.activity, Ramp) for h in stage.during):
            yield Found(
                f"{context.name(stage.key)} is a warm-up without a ramp",
                "add an alpha_ramp or an lr_ramp to 'during', or make it a 'train' stage",
                f"{stage.pointer}/during",
            )


@rule("ramp-cut-short", "warning")
def ramp_cut_short(context: Context) -> Iterator[Found]:
    """A ramp that is longer than its stage.

    A stage that ends before its ramp does cuts it off in the middle: a learning rate that was
    to reach zero jumps back. A named ramp that goes on from the stages before has had their time.

    Example: `{kind: train, during: [{type: lr_ramp, end: 0, over: 5k steps}], duration: 2k steps}`.
    """
    for stage in context.stages.values():
        ends, after = context.truth.limits.stay(stage), stage.next
        if ends is None or after is None:
            continue
        goes_on = {held.place for held in context.stages[after.target].during if held.named}
        for held in stage.during:
            ramp = held.activity
            if not isinstance(ramp, Ramp) or (held.named and held.place in goes_on):
                continue
            ran = _ran(context, stage, held) if held.named else Fraction(0)
            if (
                ramp.over.unit is ends.unit
                and ran is not None
                and ramp.over.exact > ends.exact + ran
            ):
                yield Found(
                    f"the {ramp.type} of {context.name(stage.key)} takes {ramp.over}, but the "
                    f"stage ends after {ends}",
                    "shorten the ramp's 'over', or lengthen the stage",
                    held.pointer,
                )


def _ran(
    context: Context,
    stage: CompiledStage,
    held: HeldActivity,
    seen: frozenset[str] = frozenset(),
) -> Fraction | None:
    """How long a named ramp has run at the least when a stage is entered.

    ``None`` if it is over: a warm-up that all ways in come from waits for all its ramps.
    """
    ramp, view = held.activity, context.views[stage.region]
    if stage.key == view.region.initial or stage.key in seen or not isinstance(ramp, Ramp):
        return Fraction(0)
    least: list[Fraction] = []
    for move in view.live_moves:
        if move.target != stage.key:
            continue
        source = context.stages[move.source]
        if move.how != "way" or held.place not in {h.place for h in source.during}:
            return Fraction(0)
        if source.kind == "warmup" and move.edge.kind == "next":
            continue
        before = _ran(context, source, held, seen | {stage.key})
        if before is None:
            continue
        stays = source.min_duration if move.edge.kind != "interrupt" else None
        ends = context.truth.limits.completion(source) if move.edge.kind == "next" else stays
        known = [one.exact for one in (stays, ends) if one and one.unit is ramp.over.unit]
        least.append(before + max(known, default=Fraction(0)))
    return min(least, default=None)
