"""What the kinds promise about growth, and what a growth needs around it."""

from __future__ import annotations

from collections.abc import Iterator

from stagegraph.graph.compiled import CompiledStage, HeldActivity, PlacedAction
from stagegraph.graph.linear import Constraint
from stagegraph.graph.rules.context import Context
from stagegraph.graph.rules.registry import Found, rule
from stagegraph.graph.truth import Case, Condition
from stagegraph.schema.actions import Attach, Deepen, GrowthAction, Inherit, Regrow
from stagegraph.schema.activities import (
    AlphaRamp,
    Distill,
    Freeze,
    GrownCohort,
    LrFactor,
    LrRamp,
    Ramp,
)
from stagegraph.schema.guards import Completed

__all__ = ["landing"]

_CALM = ("warmup", "settle", "consolidate")


def landing(context: Context, stage: CompiledStage) -> CompiledStage | None:
    """The first stage after a growth that takes time; ``None`` if there is none."""
    seen = {stage.key}
    here: CompiledStage | None = stage
    while here is not None and here.next is not None:
        here = context.stages.get(here.next.target)
        if here is None or here.key in seen:
            return None
        if not here.instant:
            return here
        seen.add(here.key)
    return None


def _grows(stage: CompiledStage) -> bool:
    """Whether new parameters come here; a ``grow`` stage may also do nothing but prune."""
    return stage.structural and bool(stage.possible_growths)


@rule("growth-outside-grow", "error", needs_names=False)
def growth_outside_grow(context: Context) -> Iterator[Found]:
    """A change of the model's shape outside of `grow` and `trial`.

    Only `grow` and `trial` stages take the structure lock, so only they may change the model's
    shape; a `train` stage promises that it does not.

    Example: `actions: [{type: deepen, …}]` on a transition.
    """
    for placed, edge, stage in context.actions():
        if not placed.action.structural or (stage and stage.structural):
            continue
        where = context.way(edge) if edge else context.name(stage.key) if stage else "it"
        yield Found(
            f"{placed.action.type!r} changes the model's shape, but stands on {where}",
            "move it to the 'actions' of a stage of kind 'grow', and lead there",
            placed.pointer,
        )


@rule("grow-without-growth", "error", needs_names=False)
def grow_without_growth(context: Context) -> Iterator[Found]:
    """A growth that grows nothing.

    The promise of `grow`, and of each option: at least one structural action.

    Example: a `grow` stage with nothing but `{type: snapshot, name: before}`.
    """
    for stage in context.stages.values():
        acts = any(a.action.structural for a in stage.actions)
        if stage.kind == "grow" and not acts and not stage.options:
            yield Found(
                f"{context.name(stage.key)} is a 'grow' stage without a growth",
                "add a structural action such as deepen, widen or prune",
                f"{stage.pointer}/actions",
            )
        for index, option in enumerate(stage.options):
            if not option.growths and not stage.growths:
                yield Found(
                    f"option {option.name!r} of {context.name(stage.key)} has no growth",
                    "add a structural action such as deepen or widen",
                    f"{stage.pointer}/options/{index}/actions",
                )


@rule("growth-unprotected", "warning")
def growth_unprotected(context: Context) -> Iterator[Found]:
    """A growth that leads straight into ordinary training.

    New parameters have no optimizer state and a full learning rate; the first updates can undo
    what was learned. A `grow` stage therefore leads to a `warmup`, `settle` or `consolidate`.

    Example: `grow` with `next: train`.
    """
    for stage in context.stages.values():
        after = landing(context, stage) if _grows(stage) else None
        if after is not None and after.kind not in _CALM:
            yield Found(
                f"{context.name(stage.key)} leads to {context.name(after.key)}, a {after.kind!r} "
                "stage",
                "put a stage of kind 'warmup', 'settle' or 'consolidate' between them",
                f"{stage.pointer}/next",
            )


@rule("growth-without-warmup", "warning")
def growth_without_warmup(context: Context) -> Iterator[Found]:
    """A growth that no warm-up follows.

    Settling and consolidation treat old and new parameters alike; only a warm-up eases the new
    ones in.

    Example: `grow` with `next: consolidate`.
    """
    for stage in context.stages.values():
        after = landing(context, stage) if _grows(stage) else None
        if after is not None and after.kind in ("settle", "consolidate"):
            yield Found(
                f"no warm-up follows {context.name(stage.key)}: its new parameters start at full "
                "rate",
                "put a 'warmup' stage with ramps over 'grown' after it",
                f"{stage.pointer}/next",
            )


@rule("warmup-ignores-growth", "error")
def warmup_ignores_growth(context: Context) -> Iterator[Found]:
    """A warm-up after a growth that warms up something else.

    The promise of `warmup` where a growth leads to it: one of its ramps is over `grown`, or
    over the growth by its name.

    Example: `grow` → `warmup` with nothing but an LR ramp of `all`.
    """
    for stage in context.stages.values():
        after = landing(context, stage) if _grows(stage) else None
        if after is None or after.kind != "warmup":
            continue
        if not any(
            isinstance(h.activity, Ramp) and _is_of(h.activity, stage) for h in after.during
        ):
            yield Found(
                f"{context.name(after.key)} follows the growth {context.name(stage.key)}, but none "
                "of its ramps is over what has grown",
                "add a ramp with 'of: grown'",
                f"{after.pointer}/during",
            )


def _is_of(ramp: Ramp, grow: CompiledStage) -> bool:
    names = {growth.name for growth in grow.possible_growths}
    return any(
        part == "grown" or (isinstance(part, GrownCohort) and part.grown in names)
        for part in ramp.selection
    )


@rule("growth-without-consolidation", "warning")
def growth_without_consolidation(context: Context) -> Iterator[Found]:
    """A growth that no consolidation follows.

    Without a time in which nothing but refinement happens, the next growth builds on what has
    not set yet, and whether this one was worth it cannot be told.

    Example: `grow` → `warmup` → `train` → `grow`.
    """
    for name, stages in context.growing.items():
        view = context.views[name]
        growing = frozenset(stage.key for stage in stages)
        for stage in stages:
            if stage.kind == "grow" and not stage.growths:
                continue  # it prunes, and adds nothing that would have to set
            after = view.from_stage(stage.key, without=growing)
            kinds = {view.region.stages[key].kind for key in after if key in view.region.stages}
            if "consolidate" not in kinds and stage.key in view.reached:
                yield Found(
                    f"no stage of kind 'consolidate' follows {context.name(stage.key)}",
                    "lead through one before the next growth and before the end",
                    stage.pointer,
                )


@rule("growth-without-settling", "note")
def growth_without_settling(context: Context) -> Iterator[Found]:
    """A growth with random weights after which what was there before trains on at full rate.

    Weights that begin at random shake what is around them too: its gradients come through them. A
    `settle` stage cuts every learning rate for a while, and so does a ramp, a factor or a freeze
    over more than what has grown, as long as the run has not come to `train` again. A growth that
    keeps the function needs none.

    Example: `{type: deepen, how: random}`, then a warm-up of `grown` alone, then `consolidate`.
    """
    for name, stages in context.growing.items():
        view = context.views[name]
        growing = frozenset(stage.key for stage in stages)
        for stage in stages:
            stops = growing | {s.key for s in view.region.stages.values() if s.kind not in _CALM}
            later = view.from_stage(stage.key, without=stops) - stops
            calm = [context.stages[key] for key in later if key in context.stages]
            if not any(_jumps(growth) for growth in stage.possible_growths):
                continue
            if stage.key in view.reached and not any(_eases(after) for after in calm):
                yield Found(
                    f"after {context.name(stage.key)} nothing eases what was there before it into "
                    "the change",
                    "put a stage of kind 'settle' after its warm-up, or ramp all learning rates up "
                    "again",
                    f"{stage.pointer}/next",
                )


def _eases(stage: CompiledStage) -> bool:
    """Whether the host of what has grown trains more slowly, or not at all, in a stage."""
    return stage.kind == "settle" or any(
        isinstance(h.activity, LrRamp | LrFactor | Freeze)
        and not all(
            part == "grown" or isinstance(part, GrownCohort) for part in h.activity.selection
        )
        for h in stage.during
    )


@rule("growth-without-transfer", "warning")
def growth_without_transfer(context: Context) -> Iterator[Found]:
    """A growth with random weights that nothing hands the model's knowledge to.

    New blocks with random weights, or weights put into the corner of larger tensors, change what
    the model computes: its loss jumps, and what it knew has to be learnt again. An alpha ramp from
    0 blends them in, `inherit` maps the old weights so that the function stays, and `distill` from
    a teacher made before the growth teaches what it knew.

    Example: `{type: deepen, how: random}` with an LR ramp alone after it; among `options` too.
    """
    for name, stages in context.growing.items():
        view = context.views[name]
        growing = frozenset(stage.key for stage in stages)
        for stage in stages:
            later = view.from_stage(stage.key, without=growing) - growing
            if any(isinstance(h.activity, Distill) for k in later for h in _during(context, k)):
                continue
            after = landing(context, stage)
            for placed in _not_handed_over(stage):
                growth = placed.action
                assert isinstance(growth, GrowthAction)
                if not (growth.blends and after is not None and _blends_in(after)):
                    yield Found(
                        f"{growth.type!r} in {context.name(stage.key)} begins with random weights, "
                        "and nothing carries over what the model knew",
                        "blend it in with an alpha_ramp from 0, distil from a teacher made before "
                        "it, or grow so that the function stays (how: identity, split, …)",
                        placed.pointer,
                    )


def _not_handed_over(stage: CompiledStage) -> Iterator[PlacedAction]:
    """The growths with random weights, those of options too, that no `inherit` stands beside."""
    for actions in (stage.actions, *(option.actions for option in stage.options)):
        beside = [placed.action for placed in (*stage.actions, *actions)]
        if not any(isinstance(growth, Inherit) and not _jumps(growth) for growth in beside):
            for placed in actions:
                if isinstance(placed.action, GrowthAction) and _jumps(placed.action):
                    yield placed


def _during(context: Context, key: str) -> tuple[HeldActivity, ...]:
    stage = context.stages.get(key)
    return () if stage is None else stage.during


def _jumps(growth: GrowthAction) -> bool:
    """Whether a growth changes the function because weights begin at random or are cut off."""
    match growth:
        case Deepen():
            return growth.how == "random"
        case Inherit():
            return growth.how == "corner"
        case Regrow():
            return growth.how == "corner" or growth.stacks == "leave"
        case Attach():
            return growth.init == "keep"
    return False


def _blends_in(stage: CompiledStage) -> bool:
    return any(isinstance(h.activity, AlphaRamp) and h.activity.start == 0 for h in stage.during)


@rule("consolidation-cut-short", "note")
def consolidation_cut_short(context: Context) -> Iterator[Found]:
    """A consolidation that a growth would cut short.

    While its own `consolidate` is not completed, a region may not grow: such a way waits for
    completion whatever its guard says.

    Example: a transition from `consolidate` to `grow` with `when: plateau(…)`.
    """
    for edge, stages in context.guarded:
        target = context.stages.get(edge.target)
        if edge.kind == "next" or target is None or not target.structural:
            continue
        for stage in stages:
            cases = context.truth.cases(edge, stage) or ()
            if stage.kind == "consolidate" and not all(
                _completed(context, stage, c) for c in cases
            ):
                yield Found(
                    f"{context.way(edge)} is blocked until {context.name(stage.key)} is completed, "
                    "whatever its guard says",
                    "write completed() into the guard, so that it says what will happen",
                    edge.pointer,
                )


def _completed(context: Context, stage: CompiledStage, case: Case) -> bool:
    ends = context.truth.limits.completion(stage)
    return any(
        (isinstance(part, Condition) and part.positive and isinstance(part.node, Completed))
        or (
            ends is not None
            and isinstance(part, Constraint)
            and [name for name, _ in part.form] == [f"elapsed({ends.unit})"]
            and part.grows_true
            and part.bound >= ends.exact
        )
        for part in case
    )
