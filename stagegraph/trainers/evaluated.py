"""Evaluated: whether a host's evaluation gives what the graph wants evaluated."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from stagegraph.errors import MetricError
from stagegraph.schema.stagegraph import StageGraph

__all__ = ["require_evaluated"]


def require_evaluated(
    graph: StageGraph,
    metrics: Mapping[str, Any],
    *,
    monitored: Collection[str],
    who: str,
    remedy: str,
) -> None:
    """Refuse an evaluation in which a metric is missing that the graph wants evaluated.

    Args:
        graph: The graph.
        metrics: What the evaluation gave, by names and sources of declared metrics.
        monitored: Metrics that the engine measures itself.
        who: Who has evaluated.
        remedy: What to do, with ``{name}`` for the metric.

    Raises:
        MetricError: A metric is missing.
    """
    for name, metric in graph.metrics.items():
        sources = (name, *metric.source)
        if metric.every is None or name in monitored or any(one in metrics for one in sources):
            continue
        raise MetricError(
            f"the graph wants {name!r} evaluated every {metric.every}, and the {who} gives none of "
            f"{', '.join(sources)}; {remedy.format(name=name)}"
        )
