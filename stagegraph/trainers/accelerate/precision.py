"""Precision: growth is measured without the accelerator's autocast.

``Accelerator(mixed_precision="bf16")`` puts a wrapper around the model's ``forward`` that rounds
inside and converts the output to float32. Two equal functions then differ by roundings that
nothing about the output tells of, and an exact growth would look like one that is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from stagegraph.actions.probes import Batch, Within

__all__ = ["in_full_precision", "measured_on"]

_FULL = (torch.float32, torch.float64)


def measured_on(batch: Batch | None) -> Within | None:
    """A probe on which a prepared model is run in the precision of its own weights."""
    return None if batch is None else Within(batch, in_full_precision)


@contextmanager
def in_full_precision(model: nn.Module) -> Iterator[None]:
    """Inside, a prepared model's forward is its own, without autocast.

    A model with weights in half precision is left alone: its inputs may need the autocast.
    """
    wrapped = _wrapped(model)
    if wrapped is None or any(
        tensor.is_floating_point() and tensor.dtype not in _FULL for tensor in wrapped.parameters()
    ):
        yield
        return
    own = vars(wrapped)
    forward: Any = own["forward"]
    own["forward"] = own["_original_forward"]
    try:
        yield
    finally:
        own["forward"] = forward


def _wrapped(model: nn.Module) -> nn.Module | None:
    """The module whose forward has a wrapper, if one has."""
    for module in (model, model._modules.get("_orig_mod")):
        if module is not None and {"forward", "_original_forward"} <= vars(module).keys():
            return module
    return None
