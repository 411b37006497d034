"""Under a schedule: what the host's learning rate does to plateaus and to late growth.

The schedule comes in as numbers: the rate at each update. Late growth under a cosine schedule
fails where under a warm-up, stable, decay schedule it works (2511.04981): what is added late gets
little learning rate, and little time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from stagegraph.graph.latest import latest_entries, latest_leave
from stagegraph.graph.rules.context import Context, leaves
from stagegraph.graph.rules.registry import Found
from stagegraph.progress import Duration, Unit
from stagegraph.schema.expressions import Gain
from stagegraph.schema.guards import Plateau

__all__ = ["Schedule", "late_growths", "plateaus_under_decay"]

FALLS = 0.02
"""A fall over one window from which a plateau may be the schedule's own."""

LITTLE = 0.5
"""The share of its peak from which down the rate left for a growth is called little."""

_WINDOWS = 50
"""The parts of a run that are windows where a plateau's own is not in steps."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A host's learning rate over the run.

    Attributes:
        name: What the scheduler is called.
        rates: The rate at update 0, 1, …, of the group where it is largest.
    """

    name: str
    rates: Sequence[float]

    @property
    def updates(self) -> int:
        """How many updates it covers."""
        return len(self.rates)

    def at(self, step: float) -> float:
        """The rate at an update; after the last, that of the last."""
        return self.rates[min(max(0, int(step)), len(self.rates) - 1)]

    def falls(self, span: int, last: float) -> tuple[int, int] | None:
        """The first and the last update, up to ``last``, over whose window the rate falls."""
        steps = range(span, min(int(last), self.updates - 1) + 1)
        falling = [s for s in steps if self.rates[s] < self.rates[s - span] * (1 - FALLS)]
        return (falling[0], falling[-1]) if falling else None

    def share_left(self, step: float) -> float:
        """The share of all learning rate, summed over the updates, that comes after one."""
        sums = list(accumulate(self.rates))
        return 1 - sums[min(max(0, int(step)), len(sums) - 1)] / sums[-1] if sums[-1] else 0.0


def plateaus_under_decay(context: Context, schedule: Schedule) -> Iterator[Found]:
    """Guards that take the flattening which a falling learning rate brings for a plateau."""
    horizon = schedule.updates
    entries = latest_entries(context, horizon)
    for edge, stages in context.guarded:
        for node in leaves(edge.guard):
            over = _window(node)
            if over is None:
                continue
            last = max(
                (latest_leave(context, edge, stage, entries, horizon) for stage in stages),
                default=float(horizon),
            )
            span = int(over.amount) if over.unit is Unit.STEPS else horizon // _WINDOWS
            falls = schedule.falls(max(1, span), last)
            if falls is None:
                continue
            first, until = falls
            before, after = schedule.at(first - max(1, span)), schedule.at(until)
            yield Found(
                f"{context.way(edge)} waits for {context.shown(node)}, and {schedule.name} takes "
                f"the learning rate from {before:.3g} to {after:.3g} between update "
                f"{first - max(1, span):,} and {until:,}: a curve flattens there because of the "
                "decay, not because the model is too small",
                "grow before the decay begins (a schedule that stays level, then falls), bound the "
                "guard to that time with step < …, or let the graph's own lr_ramp do the decay",
                f"{edge.pointer}/when",
            )


def _window(node: object) -> Duration | None:
    if isinstance(node, Plateau):
        return node.patience or node.over
    return node.over if isinstance(node, Gain) else None


def late_growths(context: Context, schedule: Schedule) -> Iterator[Found]:
    """Growths that may come when little learning rate is left for what they add."""
    peak, horizon = max(schedule.rates, default=0.0), schedule.updates
    if peak <= 0:
        return
    entries = latest_entries(context, horizon)
    for stages in context.growing.values():
        for stage in stages:
            at = entries.get(stage.key)
            if at is None:
                continue
            share = schedule.at(at) / peak
            if share <= LITTLE and schedule.at(at) < peak and _has_fallen(schedule, at):
                yield Found(
                    f"{context.name(stage.key)} may grow as late as update {at:,.0f} of "
                    f"{horizon:,}, when {schedule.name} has taken the learning rate to {share:.0%} "
                    f"of its peak; {schedule.share_left(at):.0%} of all learning rate is left for "
                    "what it adds",
                    "grow earlier (bound the guard with left(steps) > …), or let the host's rate "
                    "stay level until the last growth has been consolidated",
                    stage.pointer,
                )


def _has_fallen(schedule: Schedule, at: float) -> bool:
    """Whether the peak came before: a rate that still rises is a warm-up."""
    rates = schedule.rates
    return rates.index(max(rates)) < at
