"""Giving a tensor other contents of another shape, while everybody keeps holding the tensor.

Autograd remembers, per parameter, the node that gathers its gradient, and with it the parameter's
shape, for as long as any graph that used the parameter is alive: a loop's last ``loss`` is enough.
The next backward would then refuse the new shape. The node is forgotten when a tensor changes its
type, so the contents go in by way of an empty tensor of another one. Hooks on the tensor stay.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["give"]


def give(tensor: Tensor, content: Tensor) -> None:
    """Make a tensor hold other contents; its gradient goes.

    Args:
        tensor: A parameter or buffer.
        content: What it is to hold; its memory is taken over.
    """
    tensor.grad = None
    if tensor.shape != content.shape and tensor.requires_grad:
        other = torch.float32 if tensor.dtype == torch.float64 else torch.float64
        tensor.data = torch.empty(0, dtype=other, device=tensor.device)
    tensor.data = content
