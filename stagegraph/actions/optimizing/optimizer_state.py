"""Optimizer state through a growth: what a parameter's state must be once it has grown.

All of it follows from the same pair of maps as the weights
(:mod:`stagegraph.actions.growth.width.maps`, :mod:`~.state_maps`); what is one number per tensor is
copied. The maps say nothing of units that come from no old one; for these there is a policy
(:data:`FreshState`), and there is one for the copies (:data:`CopiedState`).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Adagrad, Optimizer

from stagegraph.actions.growth.width.maps import Binding
from stagegraph.actions.optimizing.factored import grown_factor
from stagegraph.actions.optimizing.state_maps import mapped_state, multiplied
from stagegraph.actions.optimizing.state_rules import StateUse, partner, rules_for
from stagegraph.actions.sharding.tensors import whole
from stagegraph.errors import UnsupportedError

__all__ = ["CopiedState", "CopyPolicy", "FreshState", "grown_state", "state_for_copy"]

FreshState = Literal["fill_v", "old_step", "fresh_step"]
"""The state of entries in units that come from no old one, and so have no history.

``fill_v``: first moments 0, second moments the mean of the old entries'; the first update is small
and it grows by itself. ``old_step``: both 0 and the step kept; Adam then overshoots, 6.57 times the
learning rate at betas (0.9, 0.999) (MSG, 2305.02869). ``fresh_step``: as at step 0; the step is one
number for the whole tensor, so the whole tensor's state begins anew, old entries included.
"""

CopiedState = Literal["mapped", "asymmetric"]
"""The state of entries in copied units.

``mapped``: the law; copies then stay alike for ever unless something else sets them apart.
``asymmetric``: all moments of the added copies are 0, those of the first are kept, which sets them
apart (SPARKLING, 2602.02472).
"""

CopyPolicy = Literal["fresh", "copy", "fill_v", "old_step"]
"""The state of a parameter that was copied whole, as in an inserted block.

``fresh``: none, as at step 0. ``copy``: its template's. ``fill_v`` and ``old_step`` as for
:data:`FreshState`, with the template's step.
"""

_ZERO_AT_FIRST = ("gradient", "update")


def grown_state(
    optimizer: Optimizer,
    parameter: Tensor,
    binding: Binding,
    *,
    policy: FreshState,
    copies: CopiedState = "mapped",
    times: float = 1.0,
    weight: Tensor | None = None,
) -> dict[str, Any] | None:
    """The state that a parameter must have once it has been widened; nothing is changed.

    Args:
        optimizer: The optimizer that trains it.
        parameter: The parameter, still of shape ``binding.shape``.
        binding: How its axes grow.
        policy: For entries in fresh units; without any it has no effect.
        copies: For entries in copied units.
        times: What the grown weight is multiplied by beside its map, as a norm's gain whose
            statistics are spread over more units; its gradients are divided by it.
        weight: What the parameter is going to be, of shape ``binding.grown``: an average of
            weights (ASGD's) begins with it in fresh units.

    Returns:
        A new entry with new tensors; empty where it begins anew; ``None`` where it has none yet.

    Raises:
        UnsupportedError: There is no rule for the optimizer or one of its keys, or a state does
            not have the shape that its rule says.
    """
    entry = optimizer.state.get(parameter)
    if not entry:
        return None
    assert binding.shape == tuple(parameter.shape), (binding.shape, parameter.shape)
    uses = rules_for(optimizer, entry, tuple(parameter.shape))
    fresh = binding.marks("fresh").to(parameter.device)
    if policy == "fresh_step" and bool(fresh.any()):
        return _start(optimizer, parameter, binding.grown) or {}

    def grown(key: str, value: Any) -> Any:
        use = uses.get(key)
        if use is None or value is None:
            return _copied(value)
        if use in ("row", "column"):
            out = grown_factor(
                value,
                partner(entry, uses, key),
                binding,
                "row" if use == "row" else "column",
                fill=policy == "fill_v",
                keep=copies == "mapped",
            )
            return multiplied(out, use, times)
        out = mapped_state(value, binding, use, times=times)
        if bool(fresh.any()):
            out = _begun(out, fresh, use, policy, weight, history=out[~fresh.expand(out.shape)])
        if copies == "asymmetric" and use not in ("weight", "size"):
            out = out.masked_fill(binding.marks("added").to(out.device) & ~fresh, 0.0)
        return out

    return {key: grown(key, value) for key, value in entry.items()}


def state_for_copy(
    optimizer: Optimizer,
    template: Tensor,
    *,
    policy: CopyPolicy = "fresh",
    weight: Tensor | None = None,
) -> dict[str, Any] | None:
    """The state of a new parameter that was copied whole from a template; nothing is changed.

    Args:
        optimizer: The optimizer that trains the template.
        template: The parameter it was copied from.
        policy: What it begins with.
        weight: The new parameter's value: an average of weights (ASGD's) begins with it.

    Returns:
        A new entry with new tensors, or ``None`` where it is to have none. Adagrad, which in older
        torch cannot step without one, gets the entry that it begins with.

    Raises:
        UnsupportedError: There is no rule for the optimizer or one of its keys.
    """
    if policy == "fresh":
        return _start(optimizer, template, tuple(template.shape))
    entry = optimizer.state.get(template)
    if not entry:
        return None
    uses = rules_for(optimizer, entry, tuple(template.shape))

    def copied(key: str, value: Any) -> Any:
        if key not in uses or value is None:
            return _copied(value)
        if policy == "copy" and uses[key] != "weight":
            return value.detach().clone()
        return _begun(value.detach(), None, uses[key], policy, weight, history=value)

    return {key: copied(key, value) for key, value in entry.items()}


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _begun(
    state: Tensor,
    fresh: Tensor | None,
    use: StateUse,
    policy: FreshState | CopyPolicy,
    weight: Tensor | None,
    *,
    history: Tensor,
) -> Tensor:
    """The state with entries in fresh units as they begin.

    Args:
        state: The state; it stays as it is.
        fresh: Which entries are fresh; broadcasts to it. ``None``: all of them.
        use: What it holds.
        policy: What they begin with.
        weight: The grown weight.
        history: The entries that have a history, for their mean.
    """
    if use == "weight":
        begun = _weight(weight).detach().to(state.dtype)
        return begun.clone() if fresh is None else torch.where(fresh, begun, state)
    at_first = use in _ZERO_AT_FIRST or (policy == "old_step" and use != "size")
    value = 0.0 if at_first else float(whole(history.double().mean()))
    return torch.full_like(state, value) if fresh is None else state.masked_fill(fresh, value)


def _weight(weight: Tensor | None) -> Tensor:
    if weight is None:
        raise UnsupportedError(
            "an average of weights is among the optimizer's state, and it begins with the new "
            "weights themselves; pass weight=..."
        )
    return weight


def _start(
    optimizer: Optimizer, parameter: Tensor, shape: tuple[int, ...]
) -> dict[str, Any] | None:
    """The entry at step 0 of an optimizer that does not make one when it first steps."""
    if not isinstance(optimizer, Adagrad):
        return None
    group = next(
        (g for g in optimizer.param_groups if any(p is parameter for p in g["params"])),
        optimizer.defaults,
    )
    step = optimizer.state.get(parameter, {}).get("step", torch.tensor(0.0))
    like, value = parameter.detach(), group["initial_accumulator_value"]
    alike = shape == tuple(parameter.shape)
    return {
        "step": torch.zeros_like(step),
        "sum": torch.full_like(like, value) if alike else like.new_full(shape, value),
    }
