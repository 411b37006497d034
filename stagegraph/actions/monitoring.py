"""Monitoring: metrics that the engine measures itself, on a probe set that stays the same.

A monitor is the user's function of the model. It is called in eval mode and without gradients, and
leaves no trace: modes, buffers, hooks, ``.grad`` and random numbers are afterwards as they were.
The random numbers start from the same seed each time, so that what it draws (a subset, an order)
is the same each time too, and the same after a resume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any
from zlib import crc32

import torch
from torch import nn

from stagegraph.actions.compiling import as_written
from stagegraph.actions.randomness import seed_all
from stagegraph.actions.undo import untouched
from stagegraph.engine.metrics import MetricNames, as_number
from stagegraph.errors import MetricError, UnsupportedError, did_you_mean
from stagegraph.schema.stagegraph import Metric

__all__ = ["Measure", "Monitor"]

Measure = Callable[[nn.Module], Mapping[str, Any]]
"""A function of the model that returns numbers by the name of their metric."""

OverRanks = Callable[[Mapping[str, float], Exception | None], dict[str, float]]


class Monitor:
    """The metrics that a function of the model measures.

    It is tried once, to learn which metrics it measures and that it can: nothing of that counts.

    Args:
        measure: The function; what it returns are numbers, or tensors of one element, by name.
        model: The model.
        metrics: The metrics that the graph declares.
        seed: The run's seed.

    Raises:
        UnsupportedError: It is no function, fails, or measures what the graph does not declare.
    """

    def __init__(
        self, measure: Measure, model: nn.Module, metrics: Mapping[str, Metric], *, seed: int = 0
    ) -> None:
        if not callable(measure):
            raise UnsupportedError(
                f"monitor= is a {type(measure).__name__}; give a function of the model that "
                "returns numbers by the name of their metric, such as "
                "lambda model: {'probe_loss': evaluate(model, batches)}"
            )
        self._measure = measure
        self._model = model
        self._names = MetricNames(metrics)
        self._seed = crc32(f"{seed}|monitor".encode())
        self.over_ranks: OverRanks | None = None
        """Makes one of what all ranks have measured; told of what has failed on this one."""
        self.minimizes = {name: metric.goal == "minimize" for name, metric in metrics.items()}
        """Per metric of the graph, whether less is better."""
        self.names: frozenset[str] = frozenset()
        """The metrics that it measures, by the names of the graph."""
        try:
            self.names = frozenset(self.measure())
        except MetricError as error:
            raise UnsupportedError(str(error)) from error
        if not self.names:
            raise UnsupportedError("monitor= measures nothing: it returned an empty mapping")

    def measure(self, *, eager: bool = False) -> dict[str, float]:
        """The metrics of the model as it is now; a value may be NaN or infinite.

        Args:
            eager: Whether compiled parts run as they are written, because their code may not look
                at hooks that come and go.

        Raises:
            MetricError: The function fails, or returns something else than at first.
        """
        if self.over_ranks is None:
            return self._measured(eager=eager)
        try:
            found = self._measured(eager=eager)
        except MetricError as error:
            return self.over_ranks({}, error)
        return self.over_ranks(found, None)

    def _measured(self, *, eager: bool) -> dict[str, float]:
        """What this process measures."""
        with untouched(self._model), torch.no_grad(), as_written() if eager else nullcontext():
            self._model.eval()
            seed_all(self._seed)
            try:
                found = self._measure(self._model)
            except Exception as error:
                raise MetricError(
                    f"the function given as monitor= failed: {type(error).__name__}: {error}"
                ) from error
            return self._read(found)

    def _read(self, found: object) -> dict[str, float]:
        if not isinstance(found, Mapping):
            raise MetricError(
                f"the function given as monitor= returned a {type(found).__name__}; it is to "
                "return a mapping from the names of metrics to numbers"
            )
        known, values = self._names.by_source, dict[str, float]()
        for source, value in found.items():
            if source not in known:
                near = did_you_mean(source, known) if isinstance(source, str) else ""
                raise MetricError(
                    f"monitor= measures {source!r}, which is not declared in the graph's "
                    f"'metrics'{near}"
                )
            values[known[source]] = as_number(source, value)
        if self.names and self.names != set(values):
            raise MetricError(
                f"monitor= measured {_listed(self.names)} at first, and "
                f"{_listed(values) or 'nothing'} now; let it return the same metrics each time, "
                "with NaN for what is not known"
            )
        return values

    def gain(self, metric: str, without: float, present: float) -> float | None:
        """How much worse a metric is without something: positive where that something helps.

        ``None`` if one of the two values is not finite.
        """
        if not (math.isfinite(without) and math.isfinite(present)):
            return None
        gain = without - present if self.minimizes[metric] else present - without
        return gain if math.isfinite(gain) else None


def _listed(names: Mapping[str, Any] | frozenset[str]) -> str:
    return ", ".join(map(repr, sorted(names)))
