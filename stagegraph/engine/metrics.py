"""Metric names and values as they come from hosts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat

from stagegraph.errors import MetricError, did_you_mean
from stagegraph.schema.stagegraph import Metric

__all__ = ["MetricNames", "as_number"]


class MetricNames:
    """What hosts call the metrics of a graph.

    Attributes:
        by_source: Each name a host may use, with the metric it means.
    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self.by_source: dict[str, str] = {
            source: name for name, metric in metrics.items() for source in (name, *metric.source)
        }

    def unknown(self, source: str) -> str:
        """The message for a name that is not declared."""
        known = did_you_mean(source, self.by_source)
        return f"metric {source!r} is not declared in the graph's 'metrics'{known}"

    def read(self, metrics: Mapping[str, Any]) -> list[tuple[str, float]]:
        """Declared names and numbers.

        Raises:
            MetricError: A name is not declared, or a value is no number.
        """
        found = []
        for source, value in metrics.items():
            name = self.by_source.get(source)
            if name is None:
                raise MetricError(self.unknown(source))
            found.append((name, as_number(source, value)))
        return found


def as_number(name: str, value: Any) -> float:
    """A metric's value as a float: numbers, booleans, and tensors of one element.

    Raises:
        MetricError: It is something else; the message names the metric, type and shape.
    """
    shape = tuple(getattr(value, "shape", ()))
    if isinstance(value, str | bytes | complex) or any(size != 1 for size in shape):
        raise MetricError(_no_number(name, value, shape))
    if not isinstance(value, SupportsFloat):
        raise MetricError(_no_number(name, value, shape))
    item = getattr(value, "item", None)
    try:
        return float(value if item is None else item())
    except (TypeError, ValueError, OverflowError) as error:
        raise MetricError(_no_number(name, value, shape)) from error


def _no_number(name: str, value: Any, shape: tuple[int, ...]) -> str:
    what = type(value).__name__ + (f" of shape {shape}" if shape else "")
    return f"metric {name!r} must be one number, got {what}; reduce it first, or convert it"
