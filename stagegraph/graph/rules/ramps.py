"""Alpha ramps: what blends a growth in must be completed, and needs a learning-rate ramp."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TypeGuard

from stagegraph.graph.blending import added_at, may_name, named_growths
from stagegraph.graph.compiled import BACK, STOP, CompiledStage, Edge, HeldActivity
from stagegraph.graph.linear import Constraint
from stagegraph.graph.rules.context import Context
from stagegraph.graph.rules.growth import landing
from stagegraph.graph.rules.registry import Found, rule
from stagegraph.graph.structure import rolls_back
from stagegraph.schema.actions import GrowthAction
from stagegraph.schema.activities import (
    AlphaRamp,
    Freeze,
    GroupMembers,
    GrownCohort,
    LrFactor,
    LrRamp,
    Selection,
)
from stagegraph.schema.guards import Completed

__all__: list[str] = []


def _alpha_ramps(stage: CompiledStage) -> list[AlphaRamp]:
    return [held.activity for held in stage.during if isinstance(held.activity, AlphaRamp)]


def _meet(one: Selection, other: Selection) -> bool:
    """Whether two selections of cohorts may have parameters in common."""
    if "all" in one or "all" in other:
        return True
    return bool(set(one) & set(other)) or ("grown" in one) != ("grown" in other)


@rule("alpha-without-lr", "warning")
def alpha_without_lr(context: Context) -> Iterator[Found]:
    """An alpha ramp without a learning-rate ramp.

    Adam divides by the size of the gradient, so a small alpha does not make a small update: at
    alpha 0.01 the new parameters move at the full rate. Ramp their learning rate beside it, from
    under 1. A pattern counts if it may name something of what the growth adds, as far as paths
    tell, and the name of a growth if that may be the last one when the stage begins.

    Example: a warm-up with only `{type: alpha_ramp, of: grown, over: 500 steps}`.
    """
    for stage, held in context.held():
        ramp = held.activity
        if not isinstance(ramp, AlphaRamp):
            continue
        rates = [h.activity for h in stage.during if _slows(h.activity)]
        if not any(
            _rates(context, stage, ramp, r.of) and not set(ramp.of) <= set(r.but) for r in rates
        ):
            yield Found(
                f"{context.name(stage.key)} ramps alpha, but not the learning rate of the same "
                "parameters; Adam does not see alpha",
                "add {type: lr_ramp, of: grown, start: 0, end: 1, over: …} beside it",
                held.pointer,
            )


def _slows(activity: object) -> TypeGuard[LrRamp | LrFactor]:
    """Whether an activity begins with a learning rate under the host's."""
    if isinstance(activity, LrRamp):
        return activity.start < 1
    return isinstance(activity, LrFactor) and activity.factor < 1


def _rates(context: Context, stage: CompiledStage, ramp: AlphaRamp, of: Selection) -> bool:
    """Whether a selection may have something of what a ramp blends in."""
    if "all" in (*of, *ramp.of) or any(isinstance(part, GroupMembers) for part in of):
        return True
    if set(of) & set(ramp.of) or any(
        _may_be_last(context, stage, part)
        for one, other in ((of, ramp.of), (ramp.of, of))
        for part in one
        if "grown" in other and isinstance(part, GrownCohort)
    ):
        return True
    known = [part for part in of if isinstance(part, str) and part != "grown"]
    paths = _paths(context, stage, ramp) if known else None
    return any(paths is None or any(may_name(part, path) for path in paths) for part in known)


def _may_be_last(context: Context, stage: CompiledStage, cohort: GrownCohort) -> bool:
    """Whether a named growth may be the region's last when a stage begins."""
    stages = context.compiled.by_name[stage.region].stages.values()
    landed = [s for s in stages if s.possible_growths and landing(context, s) is stage]
    names = {growth.name for growing in landed for growth in growing.possible_growths}
    return not landed or cohort.grown in names


def _paths(context: Context, stage: CompiledStage, ramp: AlphaRamp) -> list[str] | None:
    """Where the growths that a ramp is of put their blocks; ``None`` where that is not said."""
    found: list[str] = []
    for part in ramp.of:
        growths = list(_named(context, part))
        if part == "grown":
            stages = context.compiled.by_name[stage.region].stages.values()
            growths = [growth for other in stages for growth in other.possible_growths]
        for growth in growths:
            places = added_at(growth)
            if growth.blends and places is None:
                return None
            found += places or ()
    return found or None


@rule("closed-in-frozen-host", "error")
def closed_in_frozen_host(context: Context) -> Iterator[Found]:
    """An alpha ramp from 0 in a stage that freezes all but what it blends in.

    At alpha 0 the output does not depend on the new modules, and all else is frozen: in the first
    update nothing has a gradient, and the backward pass fails.

    Example: `{type: freeze, of: all, but: grown}` beside `{type: alpha_ramp, of: grown, …}`.
    """
    for stage, held in context.held():
        ramp = held.activity
        if not isinstance(ramp, AlphaRamp) or ramp.start > 0 or held.named:
            continue
        freezes = [h.activity for h in stage.during if isinstance(h.activity, Freeze)]
        if any("all" in f.of and set(f.but) <= set(ramp.of) for f in freezes if f.but):
            yield Found(
                f"{context.name(stage.key)} freezes all but what it blends in from alpha 0: at its "
                "first update nothing has a gradient",
                "let new modules begin with zeros (how: identity, init: zero) and leave the alpha "
                "ramp out, or give it a 'start' over 0",
                held.pointer,
            )


@rule("alpha-of-width", "error")
def alpha_of_width(context: Context) -> Iterator[Found]:
    """An alpha ramp over a growth that makes tensors larger.

    Alpha blends new modules in. A growth in width adds none: what is new lies inside of tensors
    that were there before. It is eased in by a learning-rate ramp over the same growth.

    Example: a warm-up with `{type: alpha_ramp, of: grown, over: 500 steps}` after a `widen`.
    """
    for stage, after, held in _landing_ramps(context):
        if not any(growth.blends for growth in stage.possible_growths):
            yield Found(
                f"{context.name(after.key)} ramps the alpha of what {context.name(stage.key)} "
                "grew, which is no module that could be blended in",
                "take an lr_ramp of: grown alone",
                held.pointer,
            )
    for stage, held in context.held():
        named = held.activity.of if isinstance(held.activity, AlphaRamp) else ()
        for part in named:
            growths = list(_named(context, part))
            if growths and not any(growth.blends for growth in growths):
                yield Found(
                    f"{context.name(stage.key)} ramps the alpha of {growths[0].name!r}, a "
                    f"{_type(growths[0])!r}, which adds no module that could be blended in",
                    f"take an lr_ramp of: {{grown: {growths[0].name}}} alone",
                    held.pointer,
                )


@rule("alpha-passes-over", "note")
def alpha_passes_over(context: Context) -> Iterator[Found]:
    """An alpha ramp over a growth that adds blocks by some of its options only.

    Where the option that is taken makes tensors larger, or an action beside one that adds blocks
    does, there is nothing to blend in. The ramp passes over it, and the record of the growth in
    the journal has `unblended: true`. A learning-rate ramp over the same growth eases it in.

    Example: `options` of which one is a `widen` and one a `deepen`, then
    `{type: alpha_ramp, of: grown, over: 500 steps}`.
    """
    for stage, after, held in _landing_ramps(context):
        growths = stage.possible_growths
        without = sorted({_type(growth) for growth in growths if not growth.blends})
        if without and any(growth.blends for growth in growths):
            yield Found(
                f"the alpha ramp of {context.name(after.key)} passes over what "
                f"{' and '.join(map(repr, without))} in {context.name(stage.key)} adds: there is "
                "no block to blend in",
                "nothing, if an lr_ramp of: grown beside it eases that in",
                held.pointer,
            )


def _landing_ramps(
    context: Context,
) -> Iterator[tuple[CompiledStage, CompiledStage, HeldActivity]]:
    """Alpha ramps over ``grown`` in the first stage that takes time after each growth."""
    for stage in context.stages.values():
        after = landing(context, stage) if stage.possible_growths else None
        for held in () if after is None else after.during:
            if isinstance(held.activity, AlphaRamp) and "grown" in held.activity.of:
                assert after is not None
                yield stage, after, held


def _type(growth: GrowthAction) -> str:
    return str(getattr(growth, "type", "growth"))


def _named(context: Context, part: object) -> Iterator[GrowthAction]:
    if isinstance(part, GrownCohort):
        yield from named_growths(context.compiled, part.grown)


@rule("alpha-left-open", "warning")
def alpha_left_open(context: Context) -> Iterator[Found]:
    """A way out that leaves new blocks half blended in.

    Alpha is part of the model and stays as it is when the stage is left. A way out before the
    ramp has reached 1, with no later ramp over the same growth, leaves it there for good.

    Example: a warm-up with an alpha ramp over 500 steps and a transition on `val_loss < 1`.
    """
    for stage in context.stages.values():
        for ramp in _alpha_ramps(stage):
            for edge in stage.ways:
                if edge.target in (STOP, BACK) or (stage.key, edge.id) in context.dead:
                    continue
                if rolls_back(edge) is not None or _covered(context, stage, ramp, edge.target):
                    continue
                if not _completes(context, stage, ramp, edge) or ramp.end < 1:
                    yield Found(
                        f"{context.way(edge)} leaves {context.name(stage.key)} while alpha may be "
                        "under 1, and no later ramp takes it there",
                        "wait for completed(), or lead to a stage with an alpha ramp to 1 over the "
                        "same growth",
                        edge.pointer,
                    )


def _covered(context: Context, stage: CompiledStage, ramp: AlphaRamp, target: str) -> bool:
    view = context.views[stage.region]
    growing = frozenset(key for key, other in view.region.stages.items() if other.structural)
    if target in growing:
        return False
    return any(
        _meet(ramp.of, later.of)
        for key in view.from_stage(target, without=growing) - growing
        if key in view.region.stages
        for later in _alpha_ramps(view.region.stages[key])
        if later.end == 1
    )


def _completes(context: Context, stage: CompiledStage, ramp: AlphaRamp, edge: Edge) -> bool:
    """Whether an edge is only taken when the ramp is over, or this cannot be told."""
    cases = context.truth.cases(edge, stage)
    if cases is None or (stage.kind == "warmup" and edge.kind == "next"):
        return True
    least = stage.min_duration if edge.kind != "interrupt" else None
    if least is not None and least.unit is ramp.over.unit and least.exact >= ramp.over.exact:
        return True
    return all(any(_waits(part, ramp) for part in case) for case in cases)


def _waits(part: object, ramp: AlphaRamp) -> bool:
    if not isinstance(part, Constraint):
        return isinstance(getattr(part, "node", None), Completed)
    if len(part.form) != 1 or not part.grows_true:
        return False
    name, bound = part.form[0][0], part.bound
    if name == f"elapsed({ramp.over.unit})":
        return bound >= Fraction(ramp.over.exact)
    return name.startswith("elapsed(")
