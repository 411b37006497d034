"""Refusals: what cannot be done to a model that is spread over ranks, said before the run.

Each is known by its name: FSDP2 grows in depth; FSDP1, DeepSpeed, tensor and pipeline parallelism
spread a model in ways of their own, in which a growth would make ranks differ without an error.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from stagegraph.actions.sharding.tensors import shards_in
from stagegraph.actions.sharding.units import (
    groups_of,
    is_sharded,
    owner_of,
    units,
    why_unknown,
)
from stagegraph.schema.actions import Action, Deepen

__all__ = ["why_not_frozen", "why_not_here"]

_FOREIGN = {
    "deepspeed.": (
        "DeepSpeed, whose engine keeps the weights and their optimizer in pieces of its own",
        "train with fully_shard (FSDP2) instead, or grow before deepspeed.initialize",
    ),
    "fairscale.": (
        "fairscale, which keeps the weights in pieces of its own",
        "train with fully_shard (FSDP2) instead",
    ),
    "torch.distributed.pipelining.": (
        "pipeline parallelism, where no rank has the whole model",
        "grow before the model is split into stages",
    ),
    "torch.distributed.fsdp.fully_sharded_data_parallel": (
        "FullyShardedDataParallel (FSDP1), which flattens the weights of a block into one tensor",
        "use torch.distributed.fsdp.fully_shard (FSDP2) instead",
    ),
}
_OPTIMIZERS = {
    "deepspeed.": "train with fully_shard (FSDP2) and a torch optimizer instead",
    "torch.distributed.optim.zero_redundancy_optimizer": (
        "use fully_shard (FSDP2), which shards the optimizer's state too"
    ),
}
_SMALL = ("8bit", "4bit", "fp8")


def why_not_here(
    model: nn.Module, optimizers: Sequence[Optimizer], ema: object, action: Action
) -> list[str]:
    """Why a growth or a prune cannot be done to this model on several ranks, if so."""
    reasons = _spread_otherwise(model) + _kept_otherwise(optimizers)
    sharded = shards_in(model)
    if not sharded or reasons:
        return reasons
    if not isinstance(action, Deepen):
        return [
            f"{sharded[0]} and {len(sharded) - 1} more are sharded over ranks (fully_shard), where "
            f"a model can be deepened and its parameters frozen, but not {_word(action)}; do it "
            "before fully_shard is called, in a run of its own, or grow in depth (deepen)"
        ]
    if isinstance(ema, AveragedModel) and not is_sharded(ema.module):
        reasons.append(
            "ema= is not sharded over ranks and the model is, so that new blocks could not be "
            "copied into it; shard both alike, or leave ema out"
        )
    return reasons


def why_not_frozen(model: nn.Module) -> list[str]:
    """Why parameters of this model cannot be frozen, if so."""
    return _spread_otherwise(model)


def _word(action: Action) -> str:
    return {"prune": "pruned", "widen": "widened"}.get(action.type, f"changed by {action.type}")


def _spread_otherwise(model: nn.Module) -> list[str]:
    """In which way a model is spread over ranks that is not FSDP2's, if it is in one."""
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        for origin, (what, remedy) in _FOREIGN.items():
            if any(kind.__module__.startswith(origin) for kind in type(module).__mro__):
                who = f"{name or 'the model'} ({type(module).__name__})"
                found.setdefault(origin, f"{who} is under {what}; {remedy}")
    reasons = list(found.values())
    sharded = shards_in(model)
    if sharded and not reasons:
        reasons += _not_fsdp2(model, sharded)
    return reasons


def _not_fsdp2(model: nn.Module, sharded: Sequence[str]) -> list[str]:
    states = units(model)
    named = dict(model.named_parameters())
    held = [name for name in sharded if owner_of(named[name], states) is None]
    if held:
        return [
            f"{held[0]} and {len(held) - 1} more are spread over ranks by something else than "
            "fully_shard (tensor parallelism), of which stagegraph knows nothing; use fully_shard "
            "(FSDP2) alone"
        ]
    groups = [group for state in states for group in groups_of(state)]
    within = {
        id(one.sharded_param)
        for group in groups
        for one in group.fsdp_params
        if one.is_dtensor or getattr(group.mesh_info, "is_spmd_mesh", False)  # not in torch 2.11
    }
    also = [name for name in sharded if id(named[name]) in within]
    if also:
        return [
            f"{also[0]} is under tensor parallelism and fully_shard at once, of which stagegraph "
            "knows nothing; use fully_shard (FSDP2) alone"
        ]
    missing = why_unknown()
    if missing is not None:
        return [
            f"fully_shard of this torch has no {missing}; stagegraph was tried with torch 2.11 and "
            "2.13, install one of them"
        ]
    return []


def _kept_otherwise(optimizers: Sequence[Optimizer]) -> list[str]:
    """Why an optimizer's state cannot follow a growth, if so."""
    reasons: list[str] = []
    for optimizer in optimizers:
        for kind in type(optimizer).__mro__:
            remedy = next(
                (r for o, r in _OPTIMIZERS.items() if kind.__module__.startswith(o)), None
            )
            small = next((s for s in _SMALL if s in kind.__name__.lower()), None)
            if remedy is not None:
                reasons.append(
                    f"{type(optimizer).__name__} keeps its state in pieces of its own; {remedy}"
                )
            elif small is not None:
                reasons.append(
                    f"{type(optimizer).__name__} keeps its state in few bits and blocks of its "
                    "own, which stagegraph cannot give to a new parameter; use AdamW, or the like "
                    "of it in full precision"
                )
            else:
                continue
            break
    return reasons
