"""Reading: numbers from tensors, with one transfer per device however many there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["read_together"]

_STACKED = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64}
"""Types that every device can stack and of which nothing is lost as a number of Python's."""


def read_together(values: Sequence[Any]) -> list[object]:
    """The numbers of values of one element each, in order.

    Reading a number makes the host wait for the device. All tensors of a device are put into one
    and read as that, so that it waits once.

    >>> read_together([torch.tensor(0.5), torch.tensor([3]), torch.tensor(True)])
    [0.5, 3.0, 1.0]
    """
    if len(values) == 1:
        return [values[0].item()]
    found: list[object] = [None] * len(values)
    devices: dict[torch.device, list[int]] = {}
    for index, value in enumerate(values):
        if isinstance(value, Tensor) and value.layout is torch.strided:
            devices.setdefault(value.device, []).append(index)
        else:
            found[index] = value.item()
    for device, indices in devices.items():
        numbers = _read(device, [_scalar(values[index]) for index in indices])
        for index, number in zip(indices, numbers, strict=True):
            found[index] = number
    return found


def _scalar(tensor: Tensor) -> Tensor:
    kept = tensor.detach() if tensor.requires_grad else tensor
    return kept.reshape(()) if kept.dim() else kept


def _read(device: torch.device, scalars: list[Tensor]) -> list[object]:
    """Scalars of one device."""
    if len(scalars) == 1:
        return [scalars[0].item()]
    dtypes = {scalar.dtype for scalar in scalars}
    if len(dtypes) == 1 and dtypes <= _STACKED:
        return list(torch.stack(scalars).tolist())
    if device.type != "mps":  # which has no doubles; all other numbers fit into them
        return list(torch.stack([scalar.to(torch.float64) for scalar in scalars]).tolist())
    if len(dtypes) == 1:
        return list(torch.stack(scalars).tolist())
    return [scalar.item() for scalar in scalars]
