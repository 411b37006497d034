"""Blending: which growths add blocks that an alpha ramp can blend in, and which only may."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stagegraph.graph.compiled import CompiledGraph, PlacedAction
from stagegraph.schema.actions import GrowthAction

__all__ = ["added_at", "adds_no_block", "may_name", "named_growths"]


def named_growths(graph: CompiledGraph, name: str) -> Iterator[GrowthAction]:
    """Every growth in a graph whose cohort is called so."""
    for stage in graph.stages.values():
        yield from (growth for growth in stage.possible_growths if growth.name == name)


def added_at(growth: GrowthAction) -> tuple[str, ...] | None:
    """Paths of the modules in which a growth puts its blocks; ``None`` if it does not say."""
    for field in ("stack", "host", "moe", "heads"):
        told = getattr(growth, field, None)
        if told is not None:
            return (told,) if isinstance(told, str) else tuple(told)
    return None


def may_name(pattern: str, path: str) -> bool:
    """Whether a pattern may name something at, inside of or around a module's path.

    Both may have wildcards; what comes before the first of them tells. A pattern takes the subtree
    of each module that it matches.

    >>> may_name("head.*", "blocks"), may_name("blocks.*.up", "blocks"), may_name("*.up", "blocks")
    (False, True, True)
    """
    ours, theirs = (re.split(r"[*?\\[]", text, maxsplit=1) for text in (pattern, path))
    if len(ours) == 1 and len(theirs) == 1:
        return f"{pattern}.".startswith(f"{path}.") or f"{path}.".startswith(f"{pattern}.")
    one = ours[0] + ("." if len(ours) == 1 else "")
    other = theirs[0] + ("." if len(theirs) == 1 else "")
    return one.startswith(other) or other.startswith(one)


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
