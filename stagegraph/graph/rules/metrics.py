"""Metrics that come too late or too rarely for those who ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from stagegraph.graph.compiled import CompiledStage, Edge
from stagegraph.graph.rules.context import Context, leaves
from stagegraph.graph.rules.registry import Found, rule
from stagegraph.graph.spans import most_values
from stagegraph.progress import Duration, Unit
from stagegraph.schema.activities import AlphaRamp, overs
from stagegraph.schema.expressions import Gain, NameExpr, Spent
from stagegraph.schema.guards import Elapsed, Plateau
from stagegraph.schema.since_guards import Since, Unstable

__all__: list[str] = []

OBSERVATIONS = 8
"""How many values the window of a plateau must hold (rule S8)."""

LEAST_IN_WINDOW = 3
"""How many values the window of ``unstable`` must hold."""


def _plateaus(context: Context) -> Iterator[tuple[Edge, tuple[CompiledStage, ...], Plateau]]:
    for edge, stages in context.guarded:
        for node in leaves(edge.guard):
            if isinstance(node, Plateau) and node.metric in context.graph.metrics:
                yield edge, stages, node


def _every(context: Context, metric: str) -> Duration | None:
    declared = context.graph.metrics.get(metric)
    return None if declared is None else declared.every


@rule("plateau-too-late", "warning", needs_names=False)
def plateau_too_late(context: Context) -> Iterator[Found]:
    """A plateau that its stage is too short for.

    A plateau's memory starts when the stage is entered. With `worth` it needs eight values in
    its window and `confirm` tests, an eighth of the window apart; with `patience` one value and
    then the patience. While a ramp moves, it bends the curve, and nothing is looked at. A stage
    that is over before that never sees it.

    Example: `plateau(val_loss, worth=1%)` with `every: 200 steps` in a stage of 1k steps.
    """
    for edge, stages, plateau in _plateaus(context):
        needs = _needs(plateau, _every(context, plateau.metric))
        if needs is None or not stages or edge.kind == "interrupt":
            continue
        least, unit = needs
        stays = [context.truth.limits.stay(stage) for stage in stages]
        ramps = [_bends_for(stage, unit) for stage in stages]
        amount = least + min(ramps)
        if all(
            stay is not None and stay.unit is unit and stay.exact < least + ramp
            for stay, ramp in zip(stays, ramps, strict=True)
        ):
            yield Found(
                f"plateau({plateau.metric}) needs {float(amount):g} {unit} from the entry of "
                f"{context.name(stages[0].key)}, which is left after {stays[0]}",
                "lengthen the stage, evaluate more often, or take a shorter window",
                f"{edge.pointer}/when",
            )


def _bends_for(stage: CompiledStage, unit: Unit) -> Fraction:
    """How long after the entry of a stage a ramp of its own bends the curves."""
    ramps = [
        over.exact
        for held in stage.during
        if not held.named and (held.activity.disturbs or isinstance(held.activity, AlphaRamp))
        for over in overs(held.activity)
        if over.unit is unit
    ]
    return max(ramps, default=Fraction(0))


def _needs(plateau: Plateau, every: Duration | None) -> tuple[Fraction, Unit] | None:
    """The least time from the entry of a stage to the first possible plateau."""
    span = plateau.over or plateau.patience
    if span is None:
        return None
    first = every.exact if every is not None and every.unit is span.unit else Fraction(0)
    if plateau.patience is not None:
        return first + span.exact, span.unit
    eighth = max(span.exact / OBSERVATIONS, first)
    return first + eighth * (OBSERVATIONS - 1 + plateau.confirm - 1), span.unit


@rule("narrow-window", "note", needs_names=False)
def narrow_window(context: Context) -> Iterator[Found]:
    """A plateau whose window holds fewer than eight values.

    With `worth` the window must hold eight values, or the answer is "cannot tell". Where `over`
    holds fewer at the declared rate, the window that is looked at is widened to eight; `worth`
    still speaks of `over`.

    Example: `plateau(val_loss, worth=1%, over=1k steps)` with `every: 200 steps`.
    """
    for edge, _, plateau in _plateaus(context):
        every = _every(context, plateau.metric)
        over = plateau.over
        if over is None or every is None or over.unit is not every.unit:
            continue
        if over.exact < every.exact * OBSERVATIONS:
            least = Duration(float(every.exact * OBSERVATIONS), every.unit)
            yield Found(
                f"the window of plateau({plateau.metric}, over={over}) holds "
                f"{over.exact // every.exact} values at {every} each, and needs {OBSERVATIONS}; "
                f"the last {least} are looked at instead",
                f"evaluate every {float(over.exact / OBSERVATIONS):g} {over.unit} for an answer "
                f"within 'over', or write 'over={least}' and what is worth it over that long",
                f"{edge.pointer}/when",
            )


@rule("unstable-too-few", "warning", needs_names=False)
def unstable_too_few(context: Context) -> Iterator[Found]:
    """An `unstable` whose window holds fewer than three values.

    A reading is the median of the window's values, of three at the least, so that a single outlier
    is none. With fewer at the declared rate there never is one, and the guard stays unknown.

    Example: `unstable(val_loss, since=before, over=200 steps)` with `every: 100 steps`.
    """
    for edge, _ in context.guarded:
        for node in leaves(edge.guard):
            every = _every(context, node.metric) if isinstance(node, Unstable) else None
            if not isinstance(node, Unstable) or every is None or every.unit is not node.over.unit:
                continue
            if node.over.exact < every.exact * LEAST_IN_WINDOW - every.exact:
                least = Duration(float(every.exact * (LEAST_IN_WINDOW - 1)), every.unit)
                yield Found(
                    f"the window of unstable({node.metric}, over={node.over}) never holds "
                    f"{LEAST_IN_WINDOW} values at {every} each",
                    f"evaluate more often, or write 'over={least}' or more",
                    f"{edge.pointer}/when",
                )


@rule("reference-too-early", "warning")
def reference_too_early(context: Context) -> Iterator[Found]:
    """A comparison with a time before which too few values can have come.

    `unstable` needs eight values of its metric before the snapshot or baseline, all of them since
    the last growth, which begins the memory of trends anew; `regressed`, `recovered` and `improved`
    need one. Where the stages before are over sooner, the guard is unknown for ever: "cannot tell".

    Example: `unstable(val_loss, since=before, …)` with `every: 100 steps` and a snapshot `before`
    at 500 steps.
    """
    for edge, _ in context.guarded:
        for node in leaves(edge.guard):
            every = _every(context, node.metric) if isinstance(node, Since) else None
            if not isinstance(node, Since) or every is None:
                continue
            needs = OBSERVATIONS if isinstance(node, Unstable) else 1
            most = most_values(context, node, every)
            if most is not None and most < needs:
                yield Found(
                    f"{node.type}({node.metric}, since={node.since}) needs {needs} values of "
                    f"{node.metric!r} before {node.since!r} is taken"
                    f"{', since the last growth' if needs > 1 else ''}, and at {every} each there "
                    f"can be {most} at the most: it cannot tell",
                    "evaluate more often, or take it later",
                    f"{edge.pointer}/when",
                )


@rule("impatient-plateau", "warning", needs_names=False)
def impatient_plateau(context: Context) -> Iterator[Found]:
    """A patience shorter than the time between two values.

    A patience that is over before the next value comes calls the very next value that is no
    new best a plateau.

    Example: `plateau(val_acc, patience=100 steps)` with `every: 500 steps`.
    """
    for edge, _, plateau in _plateaus(context):
        every, patience = _every(context, plateau.metric), plateau.patience
        if patience is None or every is None or patience.unit is not every.unit:
            continue
        if patience.exact < every.exact:
            yield Found(
                f"the patience of {patience} is over before the next value of {plateau.metric!r}, "
                f"which comes every {every}",
                "take a patience of several evaluations",
                f"{edge.pointer}/when",
            )


@rule("metric-never-seen", "warning", needs_names=False)
def metric_never_seen(context: Context) -> Iterator[Found]:
    """A metric that may not come while its stage lasts.

    A metric is unknown until it was observed in the running stage. In a stage shorter than the
    time between two evaluations it may stay unknown, and its guard never opens.

    Example: `val_loss < 1` in a stage of 500 steps with `every: 2k steps`.
    """
    for edge, stages in context.guarded:
        names = {node.name for node in leaves(edge.guard) if isinstance(node, NameExpr)}
        for name in sorted(names):
            every = _every(context, name)
            stays = [context.truth.limits.stay(stage) for stage in stages]
            if every is None or edge.kind == "interrupt":
                continue
            if all(s is not None and s.unit is every.unit and s.exact < every.exact for s in stays):
                yield Found(
                    f"{name!r} is evaluated every {every}, but {context.name(stages[0].key)} is "
                    f"left after {stays[0]}",
                    f"evaluate more often, lengthen the stage, or ask last({name})",
                    f"{edge.pointer}/when",
                )


@rule("metric-without-every", "note", needs_names=False)
def metric_without_every(context: Context) -> Iterator[Found]:
    """A metric whose rate of evaluation is not declared.

    Without `every` it cannot be checked that a plateau or a trial gets enough values, and
    nothing asks the training loop to evaluate.

    Example: `metrics: {val_loss: {goal: minimize}}` with `plateau(val_loss, worth=1%, over=2k st)`.
    """
    asked = [(plateau.metric, "a plateau") for _, _, plateau in _plateaus(context)]
    asked += [
        (str(stage.spec.metric), "a trial")  # type: ignore[attr-defined]
        for stage in context.stages.values()
        if stage.kind == "trial"
    ]
    for name, who in dict(reversed(asked)).items():
        if name in context.graph.metrics and _every(context, name) is None:
            yield Found(
                f"{who} reads {name!r}, which does not say how often it is evaluated",
                "add 'every', such as every: 200 steps",
                f"/metrics/{name}",
            )


@rule("reads-seconds", "note", needs_names=False)
def reads_seconds(context: Context) -> Iterator[Found]:
    """Decisions that depend on wall time.

    A resumed run equals the uninterrupted one bit for bit, but no two runs take the same time:
    whatever is decided by seconds may be decided otherwise.

    Example: `elapsed(2 h)`, or `duration: 90 min`.
    """
    places: dict[str, None] = {}
    for edge, _ in context.guarded:
        if any(_in_seconds(node) for node in leaves(edge.guard)):
            places[f"{edge.pointer}/when"] = None
    for stage in context.stages.values():
        for field in ("duration", "min_duration", "over"):
            length = getattr(stage.spec, field, None)
            if length is not None and length.unit is Unit.SECONDS:
                places[f"{stage.pointer}/{field}"] = None
        for held in stage.during:
            over = getattr(held.activity, "over", None)
            if over is not None and over.unit is Unit.SECONDS:
                places[held.pointer] = None
    if places:
        more = f" (and {len(places) - 1} more places)" if len(places) > 1 else ""
        yield Found(
            f"this depends on wall time{more}, so a resumed run may decide otherwise than an "
            "uninterrupted one",
            "count in steps, epochs or tokens where a bit-exact resume matters",
            next(iter(places)),
        )


def _in_seconds(node: object) -> bool:
    if isinstance(node, NameExpr):
        return node.name == "seconds"
    if isinstance(node, Spent) or getattr(node, "type", "") == "left":
        return getattr(node, "amount", "") == "seconds"
    if not isinstance(node, Elapsed | Plateau | Gain | Since):
        return False
    lengths = [getattr(node, field, None) for field in ("duration", "over", "patience", "lasting")]
    return any(length is not None and length.unit is Unit.SECONDS for length in lengths)
