"""Twins: a model's structure without memory for its tensors, to try a change on."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

from torch import nn

__all__ = ["twin_of"]


def twin_of(model: nn.Module) -> nn.Module:
    """The model's structure with tensors on the meta device, and no hooks."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and id(tensor) not in memo:
                meta = tensor.detach().to("meta")
                as_parameter = isinstance(tensor, nn.Parameter)
                memo[id(tensor)] = (
                    nn.Parameter(meta, tensor.requires_grad) if as_parameter else meta
                )
        for key, value in vars(module).items():
            if key.endswith("_hooks"):
                memo[id(value)] = OrderedDict()
    return copy.deepcopy(model, memo)
