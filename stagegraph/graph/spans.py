"""Spans: how much progress there can have been before a snapshot or baseline, at the most.

Where nothing bounds it for certain it is infinite. Growth starts the memory of trends anew, so the
span since the last growth is bounded apart from the span since the run began.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

from stagegraph.graph.compiled import CompiledStage, Edge
from stagegraph.graph.linear import Constraint
from stagegraph.graph.rules.context import Context
from stagegraph.graph.structure import Move, RegionView, rolls_back
from stagegraph.graph.truth import Condition
from stagegraph.progress import Duration, Unit
from stagegraph.schema.actions import Baseline, SnapshotAction
from stagegraph.schema.base import Model
from stagegraph.schema.guards import Completed
from stagegraph.schema.since_guards import Since, Unstable

__all__ = ["Spans", "most_values"]


@dataclass
class Spans:
    """The longest progress before each stage of a region is entered.

    Args:
        context: The graph.
        view: The region.
        unit: What progress is counted in.
        since_growth: Whether to count from the last growth or rollback, if there was one, instead
            of from the beginning of the run.
        asks: A leaf of a guard that is unknown until the span is over: no move is made that needs
            it.
    """

    context: Context
    view: RegionView
    unit: Unit
    since_growth: bool = False
    asks: Model | None = None
    arrivals: dict[str, float] = field(init=False, default_factory=dict)
    """Per stage, the span when a move arrives there; what the move does counts as before."""
    _entries: dict[str, float] = field(init=False, default_factory=dict)
    """Per stage, the span when it begins: 0 after a growth, if that is counted from."""

    def __post_init__(self) -> None:
        stages = self.view.region.stages
        if self.view.region.initial not in stages:
            return
        self.arrivals = {self.view.region.initial: 0.0}
        self._entries = dict(self.arrivals)
        rounds = len(stages) + 1
        for turn in range(2 * rounds):
            # What still grows when every simple path has been followed grows round a loop.
            if not self._relax(endless=turn >= rounds):
                break

    def _relax(self, *, endless: bool) -> bool:
        changed = False
        for move in self.view.live_moves:
            if move.source not in self._entries or move.target not in self.view.region.stages:
                continue
            if self._waits_for_itself(move):
                continue
            at = self.leaving(move.edge, self.view.region.stages[move.source])
            for found, value in ((self.arrivals, at), (self._entries, self._begins(move, at))):
                if value > found.get(move.target, -1.0):
                    found[move.target] = math.inf if endless else value
                    changed = True
        return changed

    def _waits_for_itself(self, move: Move) -> bool:
        if self.asks is None or move.how == "back":
            return False
        cases = self.context.truth.cases(move.edge, self.view.region.stages[move.source])
        return bool(cases) and all(
            any(isinstance(part, Condition) and part.node == self.asks for part in case)
            for case in cases or ()
        )

    def _begins(self, move: Move, at: float) -> float:
        source, target = (self.view.region.stages[key] for key in (move.source, move.target))
        if not self.since_growth or target.instant:
            return at
        if source.kind == "trial":
            return self._completed(source)
        anew = source.instant or (move.how == "way" and rolls_back(move.edge) is not None)
        return 0.0 if anew else at

    def leaving(self, edge: Edge, stage: CompiledStage) -> float:
        """The longest progress when an edge is taken out of a stage."""
        entered = self._entries.get(stage.key, math.inf)
        if stage.instant:
            return entered
        if stage.kind == "trial":
            return entered + self._completed(stage)
        return min(self._opens(way, stage, entered) for way in self._sure(stage, edge))

    def _sure(self, stage: CompiledStage, edge: Edge) -> list[Edge]:
        """The edge itself, and the others that nothing holds back once their guards are true."""
        growing = {s.key for s in self.view.region.stages.values() if s.structural}
        return [edge, *(w for w in stage.ways if w.at_most is None and w.target not in growing)]

    def _opens(self, edge: Edge, stage: CompiledStage, entered: float) -> float:
        """When an edge is taken at the latest, if progress alone opens its guard.

        A way into a growth waits for the growth of other regions. In a region alone it waits for
        room only, and if there is none, nothing is taken there at all.
        """
        target = self.view.region.stages.get(edge.target)
        alone = len(self.context.compiled.regions) == 1
        least = stage.min_duration if edge.kind != "interrupt" else None
        if (target is not None and target.structural and not alone) or (
            least is not None and least.unit is not self.unit
        ):
            return math.inf
        first = entered + (0.0 if least is None else float(least.exact))
        if self.unit is Unit.STEPS:
            first = max(first, entered + 1)
        cases = self.context.truth.cases(edge, stage) or ()
        parts = (max((self._part(p, stage, entered) for p in case), default=0.0) for case in cases)
        return max(first, min(parts, default=math.inf))

    def _part(self, part: object, stage: CompiledStage, entered: float) -> float:
        if isinstance(part, Condition) and isinstance(part.node, Completed) and part.positive:
            return entered + self._completed(stage)
        if not isinstance(part, Constraint) or part.doubtful or not part.grows_true:
            return math.inf
        if len(part.form) != 1:
            return math.inf
        name, factor = part.form[0]
        steps = self.unit is Unit.STEPS
        at = float(part.bound / factor) + (1 if part.op == ">" and steps else 0)
        if name == f"elapsed({self.unit})":
            return entered + at
        return at if name == "step" and steps and not self.since_growth else math.inf

    def _completed(self, stage: CompiledStage) -> float:
        ends = self.context.truth.limits.completion(stage)
        return float(ends.exact) if ends is not None and ends.unit is self.unit else math.inf


def most_values(context: Context, asks: Since, every: Duration) -> int | None:
    """How many values of a metric there can be before a snapshot or baseline is taken, at the most.

    What a guard brings about that compares with it does not come before it: a rollback that returns
    to before a snapshot leaves no more time to the first one.

    Args:
        context: The graph.
        asks: The leaf of a guard that compares with it. A trend counts values since the last growth
            only.
        every: How often the metric is evaluated.

    Returns:
        The largest number over all places that take it; ``None`` if it is not bounded for certain,
        or if it is only taken where no metric has any value yet, at boundary 0. Only intervals in
        steps are: an update may overshoot any other by more than an interval.
    """
    if every.unit is not Unit.STEPS:
        return None
    takes = [
        (edge, stage)
        for placed, edge, stage in context.actions()
        if isinstance(placed.action, SnapshotAction | Baseline) and placed.action.name == asks.since
    ]
    begun = _longest(context, takes, every.unit, asks, since_growth=False)
    if begun == 0 or not takes:
        return None
    tries = sum(stage.kind == "trial" for stage in context.stages.values())  # each asks once more
    most = math.floor(Fraction(begun) / every.exact) + tries if begun < math.inf else math.inf
    if isinstance(asks, Unstable):
        since = _longest(context, takes, every.unit, asks, since_growth=True)
        if since < math.inf:
            most = min(most, math.ceil(Fraction(since) / every.exact) + tries)
    return None if most == math.inf else int(most)


def _longest(
    context: Context,
    takes: list[tuple[Edge | None, CompiledStage | None]],
    unit: Unit,
    asks: Since,
    *,
    since_growth: bool,
) -> float:
    regions = {
        region: Spans(context, view, unit, since_growth, asks)
        for region, view in context.views.items()
    }
    found = [0.0]
    for edge, stage in takes:
        if stage is not None:
            found.append(regions[stage.region].arrivals.get(stage.key, 0.0))
        elif edge is not None:
            spans = regions[edge.region]
            leaves = (s for s in spans.view.region.stages.values() if edge in s.ways)
            found += [spans.leaving(edge, s) for s in leaves if s.key in spans.arrivals]
    return max(found)
