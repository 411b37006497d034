"""Precision: running a plain copy of a sharded block in the types that the block runs in.

Under a ``MixedPrecisionPolicy`` a unit's parameters are cast when they are gathered, and so is what
goes in. What a block was called with is then of the low type, and a plain copy in full precision
could not be called so.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from stagegraph.actions.sharding.alike import plan_of
from stagegraph.actions.sharding.units import is_sharded

__all__ = ["runs_as", "stand_in"]


def runs_as(model: nn.Module, template: nn.Module) -> bool:
    """Whether a plain copy of a block runs in the types that the block runs in."""
    return not is_sharded(model) or not any(_casts(unit.state) for unit in plan_of(model, template))


def stand_in(model: nn.Module, copied: nn.Module, template: nn.Module) -> nn.Module:
    """What runs as a sharded block runs, for trials.

    Args:
        model: The model that the block is in.
        copied: A plain copy of the block; it is left alone.
        template: The block.

    Returns:
        A copy of the copy, its parameters and what goes in and out cast; or the copy itself, where
        nothing is.
    """
    if runs_as(model, template):
        return copied
    kept = set(map(id, template.parameters()))  # what the copy shares with the model
    memo: dict[int, Any] = {id(p): p for p in copied.parameters() if id(p) in kept}
    new, done = copy.deepcopy(copied, memo), set[int]() | kept
    for unit in plan_of(model, template):
        for path in unit.paths:
            _cast(new.get_submodule(path), unit.state, done)
    return new


def _casts(state: Any) -> bool:
    policy = state._mp_policy
    return policy.param_dtype is not None or policy.output_dtype is not None


def _cast(module: nn.Module, state: Any, done: set[int]) -> None:
    policy = state._mp_policy
    for parameter in module.parameters():
        if id(parameter) not in done:  # an outer unit's type is not for inner ones' parameters
            done.add(id(parameter))
            if policy.param_dtype is not None and parameter.is_floating_point():
                parameter.data = parameter.data.to(policy.param_dtype)
    if policy.param_dtype is not None and policy.cast_forward_inputs:
        in_type = policy.param_dtype

        def enter(_: nn.Module, args: Any, kwargs: Any) -> Any:
            return _to(in_type, args), _to(in_type, kwargs)

        module.register_forward_pre_hook(enter, with_kwargs=True)
    if policy.output_dtype is not None:
        out_type = policy.output_dtype
        module.register_forward_hook(lambda _module, _args, out: _to(out_type, out))


def _to(dtype: torch.dtype, value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if type(value) in (tuple, list):
        return type(value)(_to(dtype, one) for one in value)
    if isinstance(value, dict):
        return {key: _to(dtype, one) for key, one in value.items()}
    return value
