"""Figures: what a run under a stage graph can be shown by, in numbers, for any logger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stagegraph.graph.compiled import CompiledGraph
from stagegraph.session.engine import Engine

__all__ = ["figures"]


def figures(
    engine: Engine, graph: CompiledGraph, groups: Iterable[Mapping[str, Any]]
) -> dict[str, float]:
    """What to log of an engine: stages by number, alphas, LR factors, parameters.

    Args:
        engine: The engine.
        graph: Its graph, compiled.
        groups: The parameter groups of all its optimizers, in order, with the host's own rates.

    Returns:
        ``stagegraph/stage/REGION`` (the stage's number in the document, from 0),
        ``stagegraph/params``, ``stagegraph/alpha/COHORT`` (0 to 1) and
        ``stagegraph/lr_factor/GROUP``.
    """
    shown: dict[str, float] = {}
    for region, name in engine.stages.items():
        stages = graph.by_name[region].stages.values()
        number = next((n for n, stage in enumerate(stages) if stage.name == name), -1)
        shown[f"stagegraph/stage/{region}"] = number
    if engine.params is not None:
        shown["stagegraph/params"] = engine.params
    shown |= {f"stagegraph/alpha/{cohort}": alpha for cohort, alpha in engine.alphas.items()}
    for index, (rate, group) in enumerate(zip(engine.learning_rates, groups, strict=True)):
        own = float(group["lr"])
        shown[f"stagegraph/lr_factor/{index}"] = rate / own if own else 1.0
    return shown
