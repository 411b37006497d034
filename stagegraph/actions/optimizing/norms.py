"""Norms: how large the gradient is."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from stagegraph.actions.sharding.tensors import whole

__all__ = ["grad_norm"]


def grad_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    r"""The Euclidean norm of all gradients together, :math:`\sqrt{\sum_p \lVert g_p \rVert^2}`.

    On the device of the first gradient; nothing is waited for. Parameters without a gradient, such
    as frozen ones, add nothing. Of gradients that are sharded over ranks it is the norm of all
    parts; all ranks must ask.

    Args:
        parameters: The parameters, of any shapes and devices.

    Returns:
        A scalar; 0 without any gradient, NaN or infinite if a gradient is.
    """
    gradients = [p.grad.detach() for p in parameters if p.grad is not None]
    return whole(get_total_norm(gradients)) if gradients else torch.zeros(())
