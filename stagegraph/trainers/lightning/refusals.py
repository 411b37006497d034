"""Refusals: what this host cannot do for a graph, named before the run with the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch import callbacks
from lightning.pytorch.strategies import SingleDeviceStrategy, Strategy

from stagegraph.errors import UnsupportedError
from stagegraph.graph.compiled import CompiledGraph
from stagegraph.session.capabilities import capabilities_of, lacks
from stagegraph.trainers.lightning.loops import missing

__all__ = ["averaging", "refuse", "refuse_made"]

_SHARDS = "shards parameters once, and ranks would differ after a change without an error"

_STRATEGIES = {
    "deepspeed": "partitions parameters and moments once, and does not see a change of structure "
    "or of what is trained",
    "fsdp": _SHARDS,
    "modelparallel": _SHARDS,
    "xla": "compiles the whole step for one structure",
}

_PRECISIONS = {
    "bitsandbytes": "packs weights into few bits, which cannot be copied into new shapes",
    "transformerengine": "replaces layers by its own, which cannot be copied",
}

_OPTIMIZERS = {
    "8bit": "keeps its moments in eight bits, in blocks that do not follow a growth",
    "4bit": "keeps its moments in four bits, in blocks that do not follow a growth",
    "galore": "keeps moments of a projection whose shape does not follow a growth",
    "apollo": "keeps moments of a projection whose shape does not follow a growth",
    "lomo": "steps inside of backward, where no boundary is",
}

_CALLBACKS: dict[str, str] = {
    "StochasticWeightAveraging": "swaps the LR scheduler and a copy of the model that does not "
    "grow; use WeightAveraging",
    "BaseFinetuning": "freezes layers and adds parameter groups behind the graph's back; write "
    "freeze activities in the graph instead",
    "ModelPruning": "replaces parameters; use the graph's prune",
    "LearningRateFinder": "trains for a while inside of fit() and goes back; find the rate before, "
    "with another Trainer",
    "BatchSizeFinder": "trains for a while inside of fit() and goes back; find the size before, "
    "with another Trainer",
}


def averaging(trainer: pl.Trainer) -> list[Any]:
    """The Trainer's callbacks that average weights."""
    kind = getattr(callbacks, "WeightAveraging", None)  # since Lightning 2.6
    return [] if kind is None else [one for one in trainer.callbacks if isinstance(one, kind)]  # type: ignore[attr-defined]


def refuse(trainer: Any, graph: CompiledGraph, *, monitored: bool) -> None:
    """Refuse the run if host, settings and graph do not go together.

    Args:
        trainer: The Trainer, before its model is set up.
        graph: The graph.
        monitored: Whether the engine has a monitor, which measures metrics without the Trainer.

    Raises:
        UnsupportedError: They do not; everything is named at once.
    """
    if not isinstance(trainer, pl.Trainer):
        raise UnsupportedError(
            f"this Trainer is {type(trainer).__module__.partition('.')[0]}'s, and the adapter is "
            "made for lightning's: import lightning.pytorch, for the Trainer and the module alike"
        )
    found = [str(lack) for lack in lacks(graph, capabilities_of("lightning"))]
    found += [f"Trainer: {reason}" for reason in _of_trainer(trainer)]
    asking = [name for name, one in graph.graph.metrics.items() if one.every is not None]
    if asking and not trainer.enable_validation and not monitored:
        found.append(
            f"Trainer: the graph has {', '.join(map(repr, asking))} evaluated, and there is no "
            "validation; give fit() val_dataloaders and the module a validation_step, or "
            "StagegraphCallback(monitor=...)"
        )
    if found:
        raise UnsupportedError("\n".join(found))


def _of_trainer(trainer: pl.Trainer) -> Iterator[str]:
    lacking = missing(trainer)
    if lacking:
        yield (
            f"this version of Lightning has no {', '.join(lacking)}, which the adapter leans on; "
            "it was made for 2.6"
        )
    yield from _of_strategy(trainer.strategy, trainer.world_size)
    precision = type(trainer.precision_plugin).__name__
    for mark, why in _PRECISIONS.items():
        if mark in precision.lower():
            yield f"{precision} {why}; train without it"
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for kind in type(callback).__mro__:
            if kind.__name__ in _CALLBACKS and kind.__module__.startswith("lightning."):
                yield f"{type(callback).__name__} {_CALLBACKS[kind.__name__]}"
                break
    averages = averaging(trainer)
    if len(averages) > 1:
        yield f"{len(averages)} callbacks average the weights, and one can be followed; keep one"
    for one in averages:
        device = getattr(one, "_device", None)
        if device is not None and str(device) != str(trainer.strategy.root_device):
            yield (
                f"{type(one).__name__} keeps its average on {device}, and growth is made where the "
                f"model is, on {trainer.strategy.root_device}; leave device= out"
            )


def _of_strategy(strategy: Strategy, world_size: int) -> Iterator[str]:
    """The one place that says on how many devices a graph can run here."""
    name = type(strategy).__name__
    for mark, why in _STRATEGIES.items():
        if mark in name.lower():
            yield f"{name} {why}; train with strategy='auto' on one device"
            return
    if world_size > 1 or not isinstance(strategy, SingleDeviceStrategy):
        yield (
            f"this version decides in one process alone, and under {name} ranks would part; set "
            "devices=1 and leave strategy= out"
        )


def refuse_made(trainer: pl.Trainer) -> None:
    """Refuse what ``configure_optimizers`` gave, if it cannot follow a growth.

    Raises:
        UnsupportedError: It cannot.
    """
    if not trainer.optimizers or type(trainer.optimizers[0]).__name__ == "_MockOptimizer":
        raise UnsupportedError(
            "Trainer: configure_optimizers returns no optimizer, and a boundary lies between two "
            "updates of one"
        )
    found = [
        f"Trainer: the optimizer {type(one).__name__} {why}; use torch.optim.AdamW or the like"
        for one in trainer.optimizers
        for mark, why in _OPTIMIZERS.items()
        if mark in type(one).__name__.lower()
    ]
    if found:
        raise UnsupportedError("\n".join(found))
