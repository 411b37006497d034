"""Metric names and values as they come from hosts.

A value on a device is not read when it comes: it is kept as it is, and read when a guard needs
it, together with all others that wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsFloat

from stagegraph.errors import MetricError, did_you_mean
from stagegraph.schema.stagegraph import Metric

__all__ = ["MetricNames", "Unread", "as_number", "check_number", "read_one_by_one", "taken"]


_PLAIN = frozenset((float, int, bool))


@dataclass(slots=True)
class Unread:
    """A value that is still where it was computed.

    Attributes:
        source: What the host calls it.
        value: It, detached from its graph, and a copy: what the host writes over it later is
            another value.
    """

    source: str
    value: Any


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

    def take(self, metrics: Mapping[str, Any]) -> list[tuple[str, float | Unread]]:
        """Declared names with their values; nothing is read from a device.

        Raises:
            MetricError: A name is not declared, or a value is no number.
        """
        found: list[tuple[str, float | Unread]] = []
        for source, value in metrics.items():
            name = self.by_source.get(source)
            if name is None:
                raise MetricError(self.unknown(source))
            found.append((name, value if type(value) is float else taken(source, value)))
        return found


def taken(name: str, value: Any) -> float | Unread:
    """A metric's value as a number, or unread if it is a tensor.

    Raises:
        MetricError: As for :func:`check_number`.
    """
    if not _may_wait(value):
        return as_number(name, value)
    check_number(name, value)
    kept = value.detach()
    clone = getattr(kept, "clone", None)
    return Unread(name, kept if clone is None else clone())


def _may_wait(value: Any) -> bool:
    """Whether a value knows how to be kept and to be read later, as tensors do."""
    return getattr(value, "detach", None) is not None and getattr(value, "item", None) is not None


def check_number(name: str, value: Any) -> None:
    """Refuse what cannot be one number, as far as that can be told without reading it.

    Raises:
        MetricError: It is no number; the message names the metric, type and shape.
    """
    if type(value) in _PLAIN:
        return
    shape = _shape(value)
    dtype = getattr(value, "dtype", None)
    if (
        (shape and any(size != 1 for size in shape))
        or isinstance(value, str | bytes | complex)
        or not (_may_wait(value) or isinstance(value, SupportsFloat))
        or getattr(dtype, "is_complex", False) is True
        or getattr(value, "is_meta", False) is True
        or type(value).__name__ == "MaskedConstant"  # numpy's "missing" would be read as zero
    ):
        raise MetricError(_no_number(name, value, shape))


def as_number(name: str, value: Any) -> float:
    """A metric's value as a float: numbers, booleans, and tensors of one element.

    Raises:
        MetricError: It is something else; the message names the metric, type and shape.
    """
    if type(value) is float:
        return value
    check_number(name, value)
    item = getattr(value, "item", None)
    try:
        return float(value if item is None else item())
    except Exception as error:  # whatever a host's object does when it is asked for its number
        raise MetricError(_no_number(name, value, _shape(value))) from error


def read_one_by_one(values: Sequence[Any]) -> list[object]:
    """Numbers of values that nobody knows how to fetch together."""
    return [value.item() for value in values]


def _shape(value: Any) -> tuple[int, ...]:
    try:
        shape = getattr(value, "shape", ())
    except RuntimeError:  # of a nested tensor, which has none
        return (0,)
    if isinstance(shape, tuple):
        return shape
    return tuple(shape) if isinstance(shape, Sequence) else ()


def _no_number(name: str, value: Any, shape: tuple[int, ...]) -> str:
    what = type(value).__name__ + (f" of shape {tuple(shape)}" if shape else "")
    return f"metric {name!r} must be one number, got {what}; reduce it first, or convert it"
