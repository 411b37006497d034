"""Guards of the reference model: what they answer, and what they remember (S4, S6, S7, S8).

``None`` is unknown. Every question is answered by walking the tree that the author wrote.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stagegraph.engine.unstable import UnstableMemory
from stagegraph.progress import Duration, Progress, Unit
from tests.reference.document import Stage, Way
from tests.reference.state import Metric

if TYPE_CHECKING:
    from tests.reference.model import Model

NOTHING = Metric()
COMPARISONS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
CALCULATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
SINCE = ("regressed", "recovered", "improved", "unstable")
TRENDS = ("plateau", "gain")


def answer(  # noqa: C901, PLR0911, PLR0912 - one case for each guard
    model: Model, guard: Any, way: Way
) -> bool | None:
    """True, false or unknown, for a way's region, at this boundary."""
    match guard.type:
        case "all":
            return both([answer(model, part, way) for part in guard.of])
        case "any":
            parts = [answer(model, part, way) for part in guard.of]
            return opposite(both([opposite(part) for part in parts]))
        case "not":
            return opposite(answer(model, guard.of, way))
        case "compare":
            left, right = number(model, guard.left, way), number(model, guard.right, way)
            if left is None or right is None:
                return None
            return bool(COMPARISONS[guard.op](left, right))
        case "elapsed":
            return passed(model.branch.clock, guard.duration, model.place(way.region).entered)
        case "completed":
            return completed(model, model.stage_of(way.region))
        case "in":
            asked = model.document.stage(way.region, way.prefix, guard.stage)
            return model.place(asked.region).stage == asked.key
        case "done":
            return model.stage_of(guard.region).kind == "final"
        case "event":
            return any(name == guard.event for name, _ in model.events)
        case "affordable":
            if model.budget("params") is None:
                return None
            return model.fits(model.document.stage(way.region, way.prefix, guard.stage))
        case "exhausted":
            return opposite(model.fits(model.document.stage(way.region, way.prefix, guard.stage)))
    if guard.type in ("plateau", *SINCE):
        memory = model.branch.memories.get((way.scope, guard))
        return None if memory is None else memory.truth
    raise AssertionError(guard)


def both(parts: list[bool | None]) -> bool | None:
    if False in parts:
        return False
    return None if None in parts else True


def opposite(value: bool | None) -> bool | None:
    return None if value is None else not value


def number(  # noqa: C901 - one case for each expression
    model: Model, expr: Any, way: Way
) -> float | None:
    """A number, or ``None`` where it is missing, not finite, or divided by zero."""
    if not hasattr(expr, "type"):
        return float(expr)
    value: Any
    match expr.type:
        case "name":
            value = named(model, expr.name, way)
        case "arithmetic":
            left, right = number(model, expr.left, way), number(model, expr.right, way)
            if left is None or right is None or (expr.op == "/" and right == 0):
                return None
            value = CALCULATIONS[expr.op](left, right)
        case "negative":
            inner = number(model, expr.of, way)
            value = None if inner is None else -inner
        case "last" | "best":
            metric = model.branch.metrics.get(expr.metric)
            value = None if metric is None else getattr(metric, expr.type)
        case "nonfinite":
            metric = model.branch.metrics.get(expr.metric)
            value = 0 if metric is None else metric.nonfinite
        case "gain":
            value = model.gain(model.branch.memories.get((way.scope, expr)), expr)
        case "spent":
            value = model.spent.of(Unit(expr.amount))
        case "left":
            limit = model.budget(expr.amount)
            gone = (
                model.branch.params
                if expr.amount == "params"
                else model.spent.of(Unit(expr.amount))
            )
            value = None if limit is None or gone is None else float(limit) - float(gone)
        case "visits":
            stage = model.document.stage(way.region, way.prefix, expr.stage)
            value = model.visits.get(stage.key, 0)
        case _:
            raise AssertionError(expr)
    return None if value is None or not math.isfinite(value) else float(value)


def named(model: Model, name: str, way: Way) -> Any:
    clock = model.branch.clock
    match name:
        case "step":
            return clock.step
        case "epoch":
            return clock.epoch
        case "samples":
            return clock.samples
        case "params":
            return model.branch.params
    metric = model.branch.metrics.get(name)
    since = max(model.place(way.region).entered_at, model.branch.disturbed)
    return metric.value if metric is not None and metric.number > since else None


def passed(clock: Progress, duration: Duration, since: Progress) -> bool:
    """A duration is due when the difference reaches it, for every unit alike (S1)."""
    return clock.of(duration.unit) - since.of(duration.unit) >= duration.exact


def completed(model: Model, stage: Stage) -> bool:
    """S6: a growth at once, a warm-up with its ramps, all else by its duration."""
    place, clock = model.place(stage.region), model.branch.clock
    if stage.kind == "warmup":
        return all(
            passed(clock, activity.over, place.held[where])
            for where, activity, _, _ in model.document.held(stage)
            if activity.type in ("alpha_ramp", "lr_ramp")
        )
    duration = stage.spec.over if stage.kind == "trial" else getattr(stage.spec, "duration", None)
    return duration is not None and passed(clock, duration, place.entered)


# Memory


@dataclass(frozen=True)
class Patience:
    """``plateau(m, patience=d)``: no new best for d."""

    best: float
    best_at: float
    at: float
    truth: bool


@dataclass(frozen=True)
class Compared:
    """``regressed`` and its kin: how many wanted values in a row, and since when."""

    wanted: int = 0
    since: float | None = None
    truth: bool | None = None
    reference: Any = None


@dataclass(frozen=True)
class Watched:
    """``unstable``: what the statistics remember."""

    statistics: Any = None
    reference: Any = None

    @property
    def truth(self) -> bool | None:
        return None if self.statistics is None else bool_of(self.statistics.truth)


def bool_of(value: Any) -> bool | None:
    return None if value is None else bool(value)


def remembering(guard: Any) -> Iterator[Any]:
    """The leaves of a guard that remember."""
    if guard is None:
        return
    if guard.type in ("all", "any"):
        for part in guard.of:
            yield from remembering(part)
    elif guard.type == "not":
        yield from remembering(guard.of)
    elif guard.type == "compare":
        yield from _gains(guard.left)
        yield from _gains(guard.right)
    elif guard.type in ("plateau", *SINCE):
        yield guard


def _gains(expr: Any) -> Iterator[Any]:
    kind = getattr(expr, "type", None)
    if kind == "gain":
        yield expr
    elif kind == "arithmetic":
        yield from _gains(expr.left)
        yield from _gains(expr.right)
    elif kind == "negative":
        yield from _gains(expr.of)


def disturbed(memory: Any, leaf: Any) -> Any:
    """S8: what is left of a memory when the curves are bent: trends begin anew.

    Of ``unstable`` the window begins anew, while it stays known that the metric had come back.
    """
    if leaf.type in TRENDS:
        return None
    if leaf.type == "unstable" and memory.statistics is not None:
        return replace(memory, statistics=UnstableMemory(back=memory.statistics.back))
    return memory


def listening(model: Model) -> set[tuple[str, Any]]:
    """Scope and leaf of every guard that the configuration can ask."""
    return {
        (way.scope, leaf)
        for place in model.branch.places.values()
        for way in model.document.stages[place.stage].ways
        for leaf in remembering(way.guard)
    }


def remember(model: Model, memory: Any, leaf: Any, prefix: str, value: float) -> Any:
    """The memory of a leaf after one more finite value of its metric."""
    metric = model.document.graph.metrics[leaf.metric]
    worse = 1 if metric.goal == "minimize" else -1
    clock = model.branch.clock
    if leaf.type == "unstable":
        return model.watch(memory or Watched(), leaf, prefix, value)
    if leaf.type in SINCE:
        kept = model.kept_as(prefix, leaf.since)
        reference = None if kept is None else kept.metrics.get(leaf.metric, NOTHING).last
        if reference is None:
            return memory
        excess = worse * (value - reference)
        wanted = {
            "regressed": lambda: excess > leaf.by * abs(reference),
            "recovered": lambda: excess <= leaf.within * abs(reference),
            "improved": lambda: -excess > leaf.by * abs(reference),
        }[leaf.type]()
        if not wanted:
            return Compared(0, None, truth=False, reference=kept)
        now = float(clock.of(leaf.lasting.unit if leaf.lasting is not None else Unit.STEPS))
        old = memory or Compared()
        count, since = old.wanted + 1, now if old.since is None else old.since
        enough = leaf.lasting is None or (count >= 2 and now - since >= leaf.lasting.amount)
        return Compared(count, since, truth=enough, reference=kept)
    if leaf.type == "gain" or leaf.patience is None:
        return model.worth(memory, leaf, value)
    now = float(clock.of(leaf.patience.unit))
    if memory is None:
        return Patience(value, now, now, truth=False)
    every = metric.every
    if every is not None and every.unit is leaf.patience.unit and now - memory.at < every.amount:
        return memory
    if worse * (memory.best - value) > leaf.delta * abs(memory.best):
        return Patience(value, now, now, truth=False)
    return Patience(
        memory.best, memory.best_at, now, truth=now - memory.best_at >= leaf.patience.amount
    )
