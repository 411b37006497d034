"""Blending: which growths add blocks that an alpha ramp can blend in, and which only may."""

from __future__ import annotations

from collections.abc import Iterator

from stagegraph.graph.compiled import CompiledGraph, PlacedAction
from stagegraph.schema.actions import GrowthAction

__all__ = ["adds_no_block", "named_growths"]


def named_growths(graph: CompiledGraph, name: str) -> Iterator[GrowthAction]:
    """Every growth in a graph whose cohort is called so."""
    for stage in graph.stages.values():
        yield from (growth for growth in stage.possible_growths if growth.name == name)


def adds_no_block(graph: CompiledGraph, placed: PlacedAction) -> bool:
    """Whether a growth adds nothing to blend in where a ramp over the same growth may expect it.

    A growth in width beside options that add blocks, or beside one in the same stage: ``of: grown``
    means what the stage has grown, whichever that was. Where no option adds a block the ramp is a
    mistake, and stays one.
    """
    action = placed.action
    if not isinstance(action, GrowthAction) or action.blends:
        return False
    key = placed.place.partition(".actions[")[0]
    stage = graph.stages.get(key) or graph.stages.get(key.rpartition(".")[0])
    beside = () if stage is None else stage.possible_growths
    same = () if action.name is None else named_growths(graph, action.name)
    return any(growth.blends for growth in (*beside, *same))
