"""Asking: evaluations that were asked for, and metrics that do not come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from stagegraph.engine.due import evaluations
from stagegraph.engine.plans import Plans
from stagegraph.engine.ports import Record
from stagegraph.engine.records import missing_record
from stagegraph.engine.state import Asked, State

__all__ = ["PATIENCE", "answered"]

PATIENCE = 2
"""How many evaluations in a row may bring no value before the journal says so."""


def answered(plans: Plans, state: State) -> tuple[State, tuple[Record, ...]]:
    """The state once a boundary's evaluations are over, given or not; and what is to be told.

    A metric of which an evaluation was asked for :data:`PATIENCE` times in a row, and came in
    none, is told once if a guard of the present stages waits for it; and again only after it has
    come.
    """
    counts = evaluations(plans.graph, state)
    if counts == state.wanted:
        return state, ()
    asked = dict(state.asked)
    records: list[Record] = []
    for name, count in counts.items():
        if count <= state.wanted.get(name, 0):
            continue
        before = asked.get(name, Asked(0))
        metric = state.metrics.get(name)
        if metric is not None and metric.came > before.seen:
            asked[name] = Asked(state.observations)
            continue
        now = Asked(state.observations, before.missed + 1, before.told)
        edges = _readers(plans, state).get(name, ()) if now.missed >= PATIENCE else ()
        if edges and not now.told:
            now = replace(now, told=True)
            every = plans.graph.graph.metrics[name].every
            assert every is not None, "only what declares it is asked for"
            records.append(missing_record(state, name, now.missed, every, edges))
        asked[name] = now
    return replace(state, wanted=counts, asked=asked), tuple(records)


def _readers(plans: Plans, state: State) -> Mapping[str, tuple[str, ...]]:
    """Per metric, the ways out of the present stages that read it."""
    found: dict[str, tuple[str, ...]] = {}
    for region in state.regions.values():
        for name, edges in plans[region.stage].readers.items():
            found[name] = (*found.get(name, ()), *edges)
    return found
