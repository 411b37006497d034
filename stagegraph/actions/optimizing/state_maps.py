"""State maps: what a state tensor becomes when its parameter is widened, by what it holds.

With a the coefficient by which an entry of the grown gradient is a multiple of an old one,
gradients are multiplied by a, their squares by a², absolute values by |a|, updates that were
divided by their own size by the sign of a, and weights by the weights' coefficient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from stagegraph.actions.growth.width.maps import Binding, Factor, mapped
from stagegraph.actions.optimizing.state_rules import StateUse

__all__ = ["mapped_state", "multiplied"]


def mapped_state(value: Tensor, binding: Binding, use: StateUse, *, times: float = 1.0) -> Tensor:
    """What a state of its parameter's own shape becomes; its entries in fresh units are zero.

    Args:
        value: The state, of shape ``binding.shape``.
        binding: How the parameter's axes grow.
        use: What it holds; not ``row`` or ``column``.
        times: What the grown weights are multiplied by beside their map.
    """
    return multiplied(_mapped(value, binding, use), use, times)


def _mapped(value: Tensor, binding: Binding, use: StateUse) -> Tensor:
    match use:
        case "gradient" | "square" | "weight":
            return mapped(value, binding, use)
        case "absolute":
            return mapped(value, _rescaled(binding, torch.abs), "gradient")
        case "update":
            return mapped(value, _rescaled(binding, torch.sign), "gradient")
    return mapped(value, _rescaled(binding, torch.sign), "square")


def multiplied(state: Tensor, use: StateUse, times: float) -> Tensor:
    """The state where the weights are multiplied by a number, and their gradients divided by it."""
    if times == 1.0:
        return state
    match use:
        case "weight":
            factor = times
        case "gradient":
            factor = 1 / times
        case "absolute":
            factor = 1 / abs(times)
        case "square" | "row" | "column":
            factor = 1 / times**2
        case _:
            factor = math.copysign(1.0, times) if use == "update" else 1.0
    return state * factor


def _rescaled(binding: Binding, of: Callable[[Tensor], Tensor]) -> Binding:
    """The same copies with other coefficients."""

    def factor(old: Factor) -> Factor:
        if old.map is None:
            return old
        space = replace(old.map, write=of(old.map.write), read=of(old.map.read))
        return replace(old, map=space)

    return Binding(tuple(tuple(tuple(map(factor, part)) for part in axis) for axis in binding.axes))
