"""Foretelling: whether an evaluation follows an update that is not counted yet."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

from stagegraph.engine.due import evaluations, next_evaluations
from stagegraph.engine.meter import Meter, Passes
from stagegraph.engine.state import State
from stagegraph.graph.compiled import CompiledGraph
from stagegraph.progress import Unit

__all__ = ["Foretelling"]


class Foretelling:
    """Knows when the next evaluation will be wanted.

    Args:
        graph: The graph.

    Attributes:
        unasked: As long as the state stays and fewer updates are unabsorbed, none follows for sure.
    """

    def __init__(self, graph: CompiledGraph) -> None:
        self.unasked: float = 0
        self._graph = graph
        self._asks = any(metric.every is not None for metric in graph.graph.metrics.values())
        self._of: Mapping[str, int] | None = None
        self._looks: dict[Unit, float] = {}
        self._at: float = 0

    def follows(
        self,
        state: State,
        meter: Meter,
        taken: tuple[int, int, Passes | None],
        *,
        after: Callable[[], State],
        monitored: Collection[str],
    ) -> bool:
        """Whether one more update wants an evaluation from outside.

        Args:
            state: The state at the last look.
            meter: What was counted since then.
            taken: Samples and tokens of the update, and the passes after it.
            after: The state after it.
            monitored: The metrics that nobody outside is asked for.
        """
        self.unasked = 0 if self._asks else math.inf
        if not self._asks or state.ended is not None:
            return False
        wanted, clock = state.wanted, state.clock
        if self._of is not wanted:
            self._looks = next_evaluations(self._graph, state, but=monitored)
            self._at, self._of = self._looks.pop(Unit.STEPS, math.inf), wanted
        if clock.step + meter.updates + 1 < self._at and not (
            self._looks and meter.reaches(self._looks, clock, *taken)
        ):
            if not self._looks:
                self.unasked = self._at - clock.step - 1
            return False
        counts = evaluations(self._graph, after()).items()
        return any(n > wanted.get(name, 0) and name not in monitored for name, n in counts)
