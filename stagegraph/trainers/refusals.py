"""Refusals that hosts share: optimizers and models that no graph can have its way with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stagegraph.graph.compiled import CompiledGraph

__all__ = ["of_model", "of_optimizer", "why_not"]

_OPTIMIZERS = {
    "8bit": "keeps its moments in eight bits, in blocks that do not follow a growth",
    "4bit": "keeps its moments in four bits, in blocks that do not follow a growth",
    "galore": "keeps moments of a projection whose shape does not follow a growth",
    "apollo": "keeps moments of a projection whose shape does not follow a growth",
    "lomo": "steps inside of backward, where no boundary is",
}


def why_not(name: str) -> str | None:
    """Why an optimizer of this name, of a class or a setting, cannot be had, if so."""
    return next((why for mark, why in _OPTIMIZERS.items() if mark in name.lower()), None)


def of_optimizer(optimizer: object) -> Iterator[str]:
    """Why an optimizer cannot be had, if so."""
    for kind in type(optimizer).__mro__:
        why = why_not(kind.__name__)
        if why is not None:
            name = type(optimizer).__name__
            yield f"the optimizer {name} {why}; use torch.optim.AdamW or the like"
            return


def of_model(model: Any, graph: CompiledGraph) -> Iterator[str]:
    """Why a graph cannot grow a model, if so."""
    structural = [key for key, stage in graph.stages.items() if stage.possible_growths]
    if not structural:
        return
    if getattr(model, "is_quantized", False):
        yield (
            f"the model is quantized, and {structural[0]} grows it: packed weights cannot be "
            "copied into new shapes; load it without quantization_config"
        )
    if any(kind.__name__ == "PeftModel" for kind in type(model).__mro__):
        yield (
            f"the model is a PeftModel, whose checkpoints hold adapters alone, and {structural[0]} "
            "grows what is below them, which would be lost; grow first, and add adapters in a "
            "second run"
        )
