"""What a run came to, in numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stagegraph.drawing.clean import shown
from stagegraph.drawing.history import History, mapping
from stagegraph.schema.stagegraph import StageGraph

__all__ = ["FINISHED", "Outcome", "outcome_of"]

FINISHED = frozenset({"final", "stop"})
"""Reasons for an end that the graph asked for."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run in numbers.

    Attributes:
        state: How it ended, or that it goes on, in words.
        running: Whether it goes on, as far as the journal tells.
        finished: Whether it ended as the graph wanted.
        steps: The clock at the end.
        wasted: Updates that roll-backs undid.
        params: Parameters at first and at last.
        values: Of every metric, its finite values on the branch that was kept.
        moves: Moves, the first entries not among them.
        growths: Growths that hold.
        undone: Growths that were rolled back.
        returns: Roll-backs, those between the options of a trial not among them.
        errors: Failed actions.
        stages: Where every region is.
    """

    state: str
    running: bool
    finished: bool
    steps: int
    wasted: int
    params: tuple[float | None, float | None]
    values: dict[str, list[float]]
    moves: int
    growths: int
    undone: int
    returns: int
    errors: int
    stages: str

    def metrics(self, graph: StageGraph | None = None) -> Iterator[tuple[str, float, float]]:
        """Name, last and best value of every metric; without a goal the least is best."""
        for name, values in self.values.items():
            metric = graph.metrics.get(name) if graph is not None else None
            best = max if metric is not None and metric.goal == "maximize" else min
            if values:
                yield name, values[-1], best(values)


def outcome_of(history: History) -> Outcome:
    """Sum a run up."""
    end = history.end
    reason = shown(end.get("reason")) if end is not None else ""
    finished = end is not None and reason in FINISHED
    state = f"ended: {reason}" if end is not None else "unfinished"
    if not history.records:
        state = "not started"
    params = [point.value for point in history.kept(history.params)]
    undone = sum(history.abandoned(point) for _, point in history.growths)
    stages = mapping(end.get("stages")) if end is not None else {}
    return Outcome(
        state=state,
        running=end is None,
        finished=finished,
        steps=history.last_step,
        wasted=sum(back.start - back.to for back in history.returns),
        params=(params[0], params[-1]) if params else (None, None),
        values={
            name: [p.value for p in history.kept(points) if p.value is not None]
            for name, points in history.metrics.items()
        },
        moves=sum(move.kind != "initial" for move in history.moves),
        growths=len(history.growths) - undone,
        undone=undone,
        returns=sum("trial" not in back.record for back in history.returns),
        errors=sum(record.get("type") == "error" for record in history.records),
        stages=", ".join(shown(key) for key in (stages or history.current).values()),
    )
