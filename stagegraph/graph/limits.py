"""How far quantities can go: budgets, the longest stay in a stage, how often one is entered."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from stagegraph.graph.compiled import BACK, CompiledGraph, CompiledStage, Edge
from stagegraph.graph.linear import Form, budget_of
from stagegraph.progress import Duration, Unit
from stagegraph.schema.activities import Ramp

__all__ = ["Limits"]

Range = tuple[Fraction | None, Fraction | None]

_AMOUNTS = {
    "step": "steps",
    "epoch": "epochs",
    "samples": "samples",
    "tokens": "tokens",
    "seconds": "seconds",
    "flops": "flops",
    "params": "params",
}
_OVERSHOOT = Fraction(11, 10)
"""A batch may run past a budget that is not counted in steps; so much is still believed."""


class Limits:
    """What quantities of a graph can become, with and without trust in budgets and durations.

    Args:
        compiled: The graph.
    """

    def __init__(self, compiled: CompiledGraph) -> None:
        self.compiled = compiled
        self._entries: dict[str, Fraction | None] | None = None

    def completion(self, stage: CompiledStage) -> Duration | None:
        """The duration after which a stage is completed, if one says it all."""
        if stage.kind != "warmup":
            return stage.duration
        ramps = [h.activity for h in stage.during if isinstance(h.activity, Ramp)]
        if len({ramp.over.unit for ramp in ramps}) != 1:
            return None
        return max((ramp.over for ramp in ramps), key=lambda over: over.exact)

    def stay(self, stage: CompiledStage) -> Duration | None:
        """The longest a region stays in a stage; ``None`` if that is open.

        It is open where nothing follows by itself, or where what follows is a growth, which has
        to wait for its locks.
        """
        after, ends = stage.next, self.completion(stage)
        if after is None or ends is None:
            return None
        target = self.compiled.stages.get(after.target)
        if target is None or target.structural:
            return None
        least = stage.min_duration
        if least is None:
            return ends
        if least.unit is not ends.unit:
            return None
        return max(least, ends, key=lambda duration: duration.exact)

    def range(self, form: Form, edge: Edge, stage: CompiledStage, *, limited: bool) -> Range:
        """The least and the greatest a sum of quantities can be when a guard is asked."""
        low: Fraction | None = Fraction(0)
        high: Fraction | None = Fraction(0)
        for name, factor in form:
            least, most = self._one(name, edge, stage, limited=limited)
            if factor < 0:
                least, most = most, least
            low = None if low is None or least is None else low + factor * least
            high = None if high is None or most is None else high + factor * most
        return low, high

    def _one(self, name: str, edge: Edge, stage: CompiledStage, *, limited: bool) -> Range:
        if name.startswith("visits("):
            key = name[len("visits(") : -1]
            return Fraction(int(key == stage.key)), self.entries.get(key)
        if name.startswith("elapsed("):
            return self._elapsed(Unit(name[len("elapsed(") : -1]), edge, stage, limited=limited)
        if name.startswith("nonfinite("):
            return Fraction(0), None
        amount = name[len("spent(") : -1] if name.startswith("spent(") else _AMOUNTS.get(name)
        if amount is None:
            return None, None
        most = budget_of(self.compiled.graph.budget, amount) if limited else None
        if most is not None and (amount not in ("steps", "params") or self._tries):
            most *= _OVERSHOOT
        return Fraction(0), most

    @property
    def _tries(self) -> bool:
        return any(stage.kind == "trial" for stage in self.compiled.stages.values())

    def _elapsed(self, unit: Unit, edge: Edge, stage: CompiledStage, *, limited: bool) -> Range:
        low = Fraction(1 if unit is Unit.STEPS else 0)
        least = stage.min_duration
        if edge.kind != "interrupt" and least is not None and least.unit is unit:
            low = max(low, least.exact)
        stay = self.stay(stage) if limited else None
        return low, stay.exact if stay is not None and stay.unit is unit else None

    @property
    def entries(self) -> Mapping[str, Fraction | None]:
        """How often each stage can be entered at most, where ``at_most`` bounds all its ways in."""
        if self._entries is None:
            self._entries = {
                key: Fraction(sum(region.initial == key for region in self.compiled.regions))
                for key in self.compiled.stages
            }
            for edge in self.compiled.edges.values():
                self._count(edge, self._entries)
        return self._entries

    @staticmethod
    def _count(edge: Edge, entries: dict[str, Fraction | None]) -> None:
        if edge.fallback is not None and edge.fallback.then in entries:
            entries[edge.fallback.then] = None
        if edge.target == BACK or edge.target not in entries:
            return
        so_far = entries[edge.target]
        if so_far is None or edge.at_most is None:
            entries[edge.target] = None
        else:
            entries[edge.target] = so_far + edge.at_most
