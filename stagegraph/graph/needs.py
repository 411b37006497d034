"""Needs: the facts that a graph reads, and that somebody must supply."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stagegraph.graph.compiled import CompiledGraph
from stagegraph.progress import Duration, Unit
from stagegraph.schema.actions import Attribute, Prune
from stagegraph.schema.base import Model
from stagegraph.schema.expressions import Left, NameExpr, Spent
from stagegraph.schema.guards import Affordable, Exhausted, Harmful
from stagegraph.schema.stages import Grow

__all__ = ["Needs", "needs"]

_FACTS = {
    "epoch": "epochs",
    "epochs": "epochs",
    "samples": "samples",
    "tokens": "tokens",
    "seconds": "seconds",
    "flops": "flops",
    "params": "params",
}


@dataclass(frozen=True, slots=True)
class Needs:
    """What a graph reads besides updates and metrics.

    Attributes:
        facts: Among ``epochs samples tokens seconds flops params``.
        costs: Of the growths whose cost in parameters must be known: the key of the stage, or the
            place of the option.
        metrics: Metrics that guards read.
    """

    facts: frozenset[str]
    costs: tuple[str, ...]
    metrics: frozenset[str]


def needs(graph: CompiledGraph) -> Needs:
    """What a graph reads: in guards, durations, evaluation intervals and budgets."""
    facts: set[str] = set()
    metrics: set[str] = set()
    for node in _nodes(graph):
        match node:
            case Duration():
                facts.add(node.unit)
            case NameExpr():
                facts.add(_FACTS.get(node.name, ""))
                if node.name in graph.graph.metrics:
                    metrics.add(node.name)
            case Left() | Spent():
                facts.add(_FACTS.get(node.amount, ""))
            case Affordable() | Exhausted() | Grow(policy="largest"):
                facts.add("params")
        metric = getattr(node, "metric", None)
        if isinstance(metric, str) and not isinstance(node, Attribute | Prune | Harmful):
            metrics.add(metric)
    budget = graph.graph.budget
    facts |= {
        _FACTS[name]
        for name in type(budget).model_fields
        if name in _FACTS and getattr(budget, name) is not None
    }
    for name in metrics:
        every = graph.graph.metrics[name].every if name in graph.graph.metrics else None
        if every is not None:
            facts.add(every.unit)
    facts |= {m.look_every.unit for m in graph.graph.metrics.values() if m.look_every is not None}
    facts -= {"", Unit.STEPS}
    growing = tuple(place for stage in graph.stages.values() for place in stage.priced)
    return Needs(frozenset(facts), growing if "params" in facts else (), frozenset(metrics))


def _nodes(graph: CompiledGraph) -> Iterator[Any]:
    """Every guard, expression and duration of a graph."""
    for stage in graph.stages.values():
        yield from _inside(stage.spec)
        for held in stage.during:
            yield from _inside(held.activity)
    for edge in graph.edges.values():
        yield from _inside(edge.guard)


def _inside(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, Model):
        for field in type(value).model_fields:
            yield from _inside(getattr(value, field))
    elif isinstance(value, tuple):
        for part in value:
            yield from _inside(part)
