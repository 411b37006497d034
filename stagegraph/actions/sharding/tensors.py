"""Tensors that are sharded over ranks, each looked at as one piece: this rank's, or the whole."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

__all__ = ["any_shard", "is_shard", "local", "shards_in", "whole"]


def is_shard(tensor: object) -> bool:
    """Whether a tensor is a DTensor: this rank holds a part of it, or a replica.

    torch's module for them is not imported for the question: without it there are none.
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, in the same memory; a plain tensor is it already."""
    held: Any = tensor
    return held.detach().to_local() if is_shard(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered from all ranks: where it is sharded, every rank must ask.

    Autograd does not see it.
    """
    held: Any = tensor
    return held.detach().full_tensor() if is_shard(tensor) else tensor


def shards_in(model: nn.Module) -> list[str]:
    """The names of a model's parameters that are sharded."""
    if "torch.distributed.tensor" not in sys.modules:
        return []
    return [name for name, parameter in model.named_parameters() if is_shard(parameter)]


def any_shard(tensors: Iterable[Tensor]) -> bool:
    """Whether one of them is sharded."""
    return "torch.distributed.tensor" in sys.modules and any(map(is_shard, tensors))
