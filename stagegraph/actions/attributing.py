"""Attributing: what each integrated module contributes to a metric, by ablation.

For each module the monitor measures once more, with that module's gate closed: an inserted block
is passed by, an attached branch adds nothing, experts get no token. A gate that was folded away at
alpha 1 is put on for the time of the measurement and taken off again. Contributions do not add up:
two modules that do the same work each contribute little, and one of them must stay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from stagegraph.actions.changes import Change, ListGrown
from stagegraph.actions.monitoring import Monitor
from stagegraph.actions.standing import Standing
from stagegraph.engine.attributions import Attribution, Contribution
from stagegraph.engine.ports import Deed
from stagegraph.errors import UnsupportedError
from stagegraph.schema.actions import Attribute

__all__ = ["attribute", "unmeasured"]


def attribute(
    standing: Standing, monitor: Monitor | None, deed: Deed, *, number: int
) -> tuple[dict[str, Any], Attribution]:
    """Measure the contributions of the modules that growths have added; nothing of it stays.

    Args:
        standing: The model and what is held of it.
        monitor: Measures the metric.
        deed: The attribution.
        number: Updates ever made.

    Returns:
        What was found, as JSON data, and as the engine keeps it.

    Raises:
        MetricError: The monitor fails.
        UnsupportedError: Nobody gave a monitor, or it does not measure the metric.
    """
    action = deed.action
    assert isinstance(action, Attribute) and deed.of is not None
    metric = action.metric
    if monitor is None or metric not in monitor.names:
        raise UnsupportedError(unmeasured(metric, monitor))
    measuring = _Measuring(standing, monitor, metric)
    base = measuring.value(())
    contributions: list[Contribution] = []
    cohorts: list[dict[str, Any]] = []
    not_separable: list[dict[str, str]] = []
    for cohort in deed.of.cohorts:
        changes = standing.lineage.cohort(cohort)
        not_separable += [
            {"cohort": cohort, "why": why} for change in changes if (why := _inseparable(change))
        ]
        modules = [
            module
            for change in changes
            if not _inseparable(change)
            for module in standing.lineage.alive(change)
        ]
        alone = len(modules) == 1 and not any(map(_inseparable, changes))
        for module in modules:
            gain = monitor.gain(metric, measuring.value((module,)), base)
            contributions.append(Contribution(module, cohort, gain, alone))
        if len(modules) > 1:
            without = measuring.value(modules)
            gain = monitor.gain(metric, without, base)
            cohorts.append(
                {"cohort": cohort, "without": _finite(without), "contribution": gain}
                | {"modules": len(modules)}
            )
    region = deed.place.partition(":")[0]
    found = Attribution(metric, _finite(base), number, tuple(contributions), region)
    worst = found.worst
    return {
        "kind": "attribute",
        "metric": metric,
        "goal": "minimize" if monitor.minimizes[metric] else "maximize",
        "base": found.base,
        "contributions": [
            {
                "module": one.module,
                "name": standing.lineage.today(one.module),
                "cohort": one.cohort,
                "without": _finite(measuring.value((one.module,))),
                "contribution": one.value,
                "alone": one.alone,
                "alpha": standing.gates.alphas().get(one.module, 1.0),
            }
            for one in found.ranked
        ],
        "cohorts": cohorts,
        "not_separable": not_separable,
        "worst": None if worst is None else worst.module,
        "evaluations": measuring.count,
    }, found


def unmeasured(metric: str, monitor: Monitor | None) -> str:
    """Why a metric cannot be attributed."""
    wanted = f"lambda model: {{{metric!r}: evaluate(model, batches)}}"
    if monitor is None:
        return (
            f"{metric!r} is to be measured with and without modules, and there is nothing to "
            f"measure it with; give monitor=..., such as {wanted}"
        )
    return (
        f"{metric!r} is to be measured with and without modules, and monitor= measures "
        f"{', '.join(map(repr, sorted(monitor.names)))} alone; let it measure {metric!r} too"
    )


def _inseparable(change: Change) -> str:
    """Why what a change added cannot be left out for a measurement; empty if it can."""
    if isinstance(change, ListGrown):
        return "a token that the router sends to an expert has nowhere else to go"
    if change.modules:
        return ""
    if change.tensors:
        return (
            "what it added lies inside of tensors: without it, norms and whatever else computes "
            "over the same axis would make something else of the rest"
        )
    return "it added no module that could be left out"


class _Measuring:
    """One metric, measured with some modules left out; each combination once."""

    def __init__(self, standing: Standing, monitor: Monitor, metric: str) -> None:
        self._standing, self._monitor, self._metric = standing, monitor, metric
        self._known: dict[tuple[str, ...], float] = {}

    @property
    def count(self) -> int:
        """How many evaluations there were."""
        return len(self._known)

    def value(self, without: Sequence[str]) -> float:
        """The metric with these modules left out."""
        key = tuple(without)
        if key not in self._known:
            with self._standing.gates.closed(key, self._standing.module):
                self._known[key] = self._monitor.measure(eager=True)[self._metric]
        return self._known[key]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
