"""Replaying: a fresh model is given the structure of a grown one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from stagegraph.actions.growth.operations import rebuild
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.optimizing.optimizers import innermost
from stagegraph.actions.parameters import unwrapped

__all__ = ["replay"]


def replay(
    model: nn.Module,
    optimizers: Optimizer | Sequence[Optimizer],
    lineage: Iterable[Mapping[str, Any]],
    *,
    parts: Mapping[str, Any] | None = None,
) -> None:
    """Make recorded structural changes again, so that a grown checkpoint can be loaded.

    Blocks, counts and the order of the optimizers' groups become what they were; no random number
    is drawn. Load the weights and the optimizers' states afterwards.

    Args:
        model: The model as it was when the run began.
        optimizers: Its optimizers, made as they were then.
        lineage: The changes, as :meth:`TorchActor.state_dict` has them under ``"lineage"``.
        parts: What the graph names and only code can give; a builder is needed again.

    Raises:
        SelectorError: The model does not have what was grown.
        SnapshotError: The lineage cannot be read.
        UnsupportedError: The model is not what it was.
    """
    several = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
    innermost_ones = [innermost(one) for one in several]
    done, model = Lineage(), unwrapped(model)
    for change in Lineage.from_json(lineage).changes:
        rebuild(model, change, optimizers=innermost_ones, lineage=done, parts=parts)
        done.add(change)
