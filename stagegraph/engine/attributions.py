"""Attributions: what each integrated module contributes to a metric, as data.

Measured by whoever has the model (by ablation: the metric without the module against the metric
with all of them), kept in the engine's state, read by ``harmful(...)`` and by ``prune``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

__all__ = ["Attribution", "Contribution"]


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one module contributes.

    Attributes:
        module: Its stable id.
        cohort: The growth that added it.
        value: How much worse the metric is without it, in the direction of its goal: positive where
            the module helps. ``None`` if one of the two values was not finite.
        alone: Whether it is all that its growth has in the model.
    """

    module: str
    cohort: str
    value: float | None
    alone: bool


@dataclass(frozen=True, slots=True)
class Attribution:
    """What every module that could be measured contributes to one metric.

    Attributes:
        metric: The metric.
        base: Its value with all modules in place; ``None`` if that was not finite.
        boundary: Updates ever made when it was measured.
        contributions: In the order in which the modules were added.
        region: Who asked, and alone goes by it; empty: all do.
    """

    metric: str
    base: float | None
    boundary: int
    contributions: tuple[Contribution, ...]
    region: str = ""

    def is_of(self, region: str) -> bool:
        """Whether a region goes by it."""
        return self.region in ("", region)

    @property
    def worst(self) -> Contribution | None:
        """The module that harms the most; ``None`` if none is known to harm.

        Of equals, the first by name.
        """
        known = [(one.value, one.module) for one in self.contributions if one.value is not None]
        least = min((one for one in known if one[0] < 0), default=None)
        return next((o for o in self.contributions if least == (o.value, o.module)), None)

    @property
    def ranked(self) -> tuple[Contribution, ...]:
        """The contributions, the largest first, those that are not known last."""
        known = [one for one in self.contributions if one.value is not None]
        unknown = [one for one in self.contributions if one.value is None]
        return (*sorted(known, key=lambda one: (-(one.value or 0.0), one.module)), *unknown)

    def harmful(self, by: float) -> bool | None:
        """Whether the metric would be better without some module, by a share of its value.

        ``None`` if that is not known: no module is known to harm so much, and one could not be
        measured.
        """
        if self.base is None:
            return None
        values = [one.value for one in self.contributions]
        if any(v is not None and v < 0 and -v >= by * abs(self.base) for v in values):
            return True
        return None if None in values else False

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """The attribution that a line of the journal tells of; what is none raises so."""
        return cls(
            metric=record["metric"],
            base=record["base"],
            boundary=record["boundary"],
            contributions=tuple(
                Contribution(one["module"], one["cohort"], one["contribution"], one["alone"])
                for one in record["contributions"]
            ),
            region=record.get("region", ""),
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "metric": self.metric,
            "base": self.base,
            "boundary": self.boundary,
            "contributions": [
                [one.module, one.cohort, one.value, one.alone] for one in self.contributions
            ],
            "region": self.region,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`; what is none raises what Python raises."""
        return cls(
            metric=data["metric"],
            base=data["base"],
            boundary=data["boundary"],
            contributions=tuple(Contribution(*one) for one in data["contributions"]),
            region=data.get("region", ""),
        )
