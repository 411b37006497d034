"""Attaching a graph to a model: what it asks for, and whether it can be had here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from stagegraph.actions.actor import TorchActor
from stagegraph.actions.companions import Companions
from stagegraph.actions.optimizers import innermost
from stagegraph.actions.support import inspect, unsupported
from stagegraph.errors import UnsupportedError
from stagegraph.graph.compiled import CompiledGraph, PlacedAction
from stagegraph.schema.activities import Activity

__all__ = ["all_actions", "all_activities", "inspect_model", "torch_actor", "watch_first_step"]


def torch_actor(
    graph: CompiledGraph,
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    **companions: Any,
) -> TorchActor:
    """An actor for a model, after refusing what the graph asks for and cannot have here.

    Raises:
        UnsupportedError: All that cannot be had, each with its place.
    """
    trials = [key for key, stage in graph.stages.items() if stage.kind == "trial"]
    if trials:
        raise UnsupportedError(
            f"{', '.join(trials)}: this version checks and draws trial stages, and cannot run them"
        )
    growths = {key: stage.growths for key, stage in graph.stages.items() if stage.growths}
    actor = TorchActor(model, optimizer, growths, **companions)
    actor.require(
        [(placed.place, placed.action) for placed in all_actions(graph)],
        list(all_activities(graph)),
    )
    return actor


def all_actions(graph: CompiledGraph) -> Iterator[PlacedAction]:
    """Every action of a graph, once."""
    for stage in graph.stages.values():
        yield from stage.actions
    for edge in graph.edges.values():
        yield from edge.actions


def all_activities(graph: CompiledGraph) -> Iterator[tuple[str, Activity]]:
    """Every activity of a graph with its place; a named one once."""
    seen: set[str] = set()
    for stage in graph.stages.values():
        for held in stage.during:
            if held.place not in seen:
                seen.add(held.place)
                yield held.place, held.activity


def inspect_model(
    graph: CompiledGraph,
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    probe: Any,
) -> Iterator[tuple[str, str, str]]:
    """What of a graph does not fit a model: (place, JSON pointer, what is wrong)."""
    several = [innermost(one) for one in _several(optimizer)]
    actions = [(placed.place, placed.action) for placed in all_actions(graph)]
    activities = list(all_activities(graph))
    pointers = {placed.place: placed.pointer for placed in all_actions(graph)}
    pointers |= {h.place: h.pointer for stage in graph.stages.values() for h in stage.during}
    problems = inspect(model, actions=actions, activities=activities, optimizers=several)
    problems += unsupported(
        actions,
        activities,
        model=model,
        optimizers=several,
        companions=Companions.of(None, None, None, None),
        probe=probe,
    )
    for problem in dict.fromkeys(problems):
        place, _, message = problem.partition(": ")
        known = place in pointers
        yield (place, pointers[place], message) if known else ("", "", problem)


def _several(optimizer: Optimizer | Sequence[Optimizer]) -> list[Optimizer]:
    return list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]


def watch_first_step(optimizer: Optimizer | Sequence[Optimizer], begin: Callable[[], None]) -> None:
    """Call ``begin`` before each optimizer's first step."""
    for one in _several(optimizer):
        _watch(innermost(one), begin)


def _watch(optimizer: Optimizer, begin: Callable[[], None]) -> None:
    begun = False

    def before_step(*_: Any) -> None:
        nonlocal begun
        if not begun:
            begin()
            begun = True

    # The hook stays: taking it off while hooks run would break the others registered after it.
    optimizer.register_step_pre_hook(before_step)
