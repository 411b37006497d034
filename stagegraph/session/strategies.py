"""Strategies: how a model is spread over ranks, and what of a graph cannot be done to it there.

As with trainers, a table without torch: a graph can be checked on a laptop for the cluster. The
engine, which sees the real model, refuses the same by the same names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from stagegraph.errors import StageGraphError, did_you_mean
from stagegraph.graph.compiled import CompiledGraph
from stagegraph.schema.activities import Freeze
from stagegraph.session.capabilities import Capabilities, actions_of

__all__ = ["STRATEGIES", "Strategy", "StrategyLack", "strategy_lacks", "strategy_of"]


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way to train on several ranks.

    Attributes:
        name: As ``check(graph, strategy=...)`` takes it.
        title: What people call it.
        why: Why a model under it cannot be changed at will; empty if it can.
        can: The types of the structural actions that are possible all the same.
        holds_still: Whether nothing of the model can be frozen, copied or brought back either.
        remedy: What to do.
    """

    name: str
    title: str
    why: str = ""
    can: frozenset[str] = field(default_factory=frozenset)
    holds_still: bool = False
    remedy: str = ""


_TO_FSDP2 = "train under fsdp2 (fully_shard), where a model can grow in depth, or under ddp"

_ALL = (
    Strategy("ddp", "DDP"),
    Strategy(
        "fsdp2",
        "FSDP2 (fully_shard)",
        "only whole new blocks can be sharded like those beside them",
        frozenset({"deepen"}),
        remedy="grow in depth (deepen), do it before the model is sharded, or train under ddp",
    ),
    Strategy(
        "fsdp",
        "FSDP1 (FullyShardedDataParallel)",
        "it flattens the weights of a block into one tensor, once",
        holds_still=True,
        remedy=_TO_FSDP2,
    ),
    Strategy(
        "deepspeed",
        "DeepSpeed",
        "its engine partitions weights and optimizer once, when it is made",
        holds_still=True,
        remedy=_TO_FSDP2,
    ),
    Strategy(
        "tensor_parallel",
        "tensor parallelism",
        "each rank holds a part of each tensor, and the parts are cut once",
        holds_still=True,
        remedy=_TO_FSDP2,
    ),
    Strategy(
        "pipeline_parallel",
        "pipeline parallelism",
        "no rank has the whole model, and the cut into parts is made once",
        holds_still=True,
        remedy=_TO_FSDP2,
    ),
)

STRATEGIES: Mapping[str, Strategy] = MappingProxyType({one.name: one for one in _ALL})
"""Every strategy that something is known of."""

_KEEPS = frozenset({"snapshot", "roll_back", "teacher", "save", "attribute"})
"""Actions that copy the model, or give it back what it was."""


@dataclass(frozen=True, slots=True)
class StrategyLack:
    """One thing that a graph asks for in vain.

    Attributes:
        place: Where it is written, as the journal names it.
        pointer: JSON pointer into the compiled graph's document.
        message: What is asked for, and why it cannot be had.
        remedy: What to do.
    """

    place: str
    pointer: str
    message: str
    remedy: str


def strategy_of(name: str) -> Strategy:
    """A strategy's row.

    Raises:
        StageGraphError: Nothing is known of such a strategy.
    """
    try:
        return STRATEGIES[name]
    except (KeyError, TypeError):
        known = did_you_mean(str(name), STRATEGIES)
        raise StageGraphError(
            f"there is no strategy {name!r}{known}; there are {', '.join(STRATEGIES)}"
        ) from None


def strategy_lacks(
    graph: CompiledGraph, strategy: Strategy, trainer: Capabilities | None = None
) -> list[StrategyLack]:
    """What a graph asks for that cannot be had under a strategy, in document order.

    Args:
        graph: The graph.
        strategy: How the model is spread.
        trainer: Who trains it, if that is known.
    """
    found = list(_asked(graph, strategy))
    under = None if trainer is None else trainer.strategies
    if trainer is None or under is None or strategy.name in under:
        return found
    others = ", ".join(sorted(under)) or "one process alone"
    message = f"the {trainer.title} runs no graph under {strategy.title}, but with {others}"
    remedy = f"train with {others}, or with another trainer"
    return [StrategyLack("the graph", "", message, remedy), *found]


def _asked(graph: CompiledGraph, strategy: Strategy) -> Iterator[StrategyLack]:
    if not strategy.why:
        return
    for placed in actions_of(graph):
        action: Any = placed.action
        if action.structural and action.type not in strategy.can:
            what = "changes the model's structure"
        elif strategy.holds_still and action.type in _KEEPS:
            what = "copies the model or brings it back"
        else:
            continue
        yield _lack(strategy, placed.place, placed.pointer, f"{action.type} {what}")
    if not strategy.holds_still:
        return
    seen: set[str] = set()
    for key, stage in graph.stages.items():
        if stage.kind == "trial":
            yield _lack(strategy, key, stage.pointer, "a trial brings the model back")
        for held in stage.during:
            if isinstance(held.activity, Freeze) and held.place not in seen:
                seen.add(held.place)
                what = "freeze stops parameters in mid-run"
                yield _lack(strategy, held.place, held.pointer, what)


def _lack(strategy: Strategy, place: str, pointer: str, what: str) -> StrategyLack:
    message = f"{what}, which cannot be done under {strategy.title}: {strategy.why}"
    return StrategyLack(place, pointer, message, strategy.remedy)
