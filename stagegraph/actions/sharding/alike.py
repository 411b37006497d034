"""Sharding a new block as its template is: the same units, and the policy of each.

A plain module in a sharded model would be trained by each rank on its own, without an error. So a
new block is sharded before it is put in. Nothing is sent: each rank keeps its part of what all
have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from stagegraph.actions.sharding.tensors import is_shard
from stagegraph.actions.sharding.units import groups_of, is_sharded, owner_of, units
from stagegraph.errors import UnsupportedError

__all__ = ["plan_of", "shard_alike", "why_not_alike"]

_SETTINGS = (
    "_all_gather_comm",
    "_reduce_scatter_comm",
    "_all_reduce_hook",
    "_all_reduce_hook_stream",
    "reduce_grads",
    "all_reduce_grads",
    "reshard_after_backward",
    "reduce_scatter_max_input_buffers",
    "gradient_divide_factor",
    "reduce_scatter_unused_params",
    "force_sum_reduction_for_comms",
    "unshard_async_op",
    "unshard_in_backward",
)
"""What the methods of an ``FSDPModule`` set, per group of parameters; later torch may have more."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """One call of ``fully_shard``.

    Attributes:
        paths: The modules, by path in the block.
        state: The template's state, whose policy it is given.
    """

    paths: tuple[str, ...]
    state: Any


def why_not_alike(model: nn.Module, block: nn.Module) -> str | None:
    """Why a copy of a block could not be sharded as the block is, if so."""
    if not is_sharded(model):
        return None
    names = {id(module): name for name, module in block.named_modules()}
    for state in units(block):
        outside = [module for module in state._modules if id(module) not in names]
        if outside:
            return (
                f"{type(outside[0]).__name__} and a part of the block were sharded together, by "
                "one fully_shard([...]), and a copy of the block alone cannot be; shard blocks "
                "each by a call of its own"
            )
    around = {id(one): one for one in units(model)}
    for one in units(block):
        around.pop(id(one))
    owners = {
        id(owner): owner
        for parameter in block.parameters()
        if is_shard(parameter) and (owner := owner_of(parameter, around.values())) is not None
    }
    itself = any(module is block for state in units(block) for module in state._modules)
    if len(owners) > 1 or (owners and itself):
        return (
            "its parameters are sharded partly by itself and partly by modules around it, or by "
            "several of these; shard blocks each by a call of its own"
        )
    shared = [one for owner in owners.values() for one in _shared(owner, names)]
    if shared:
        return (
            f"its {shared[0]!r} is shared with the rest of the model, and sharded: a copy would "
            "not see it gathered"
        )
    return None


def _shared(state: Any, names: Mapping[int, str]) -> list[str]:
    """The parameters that a state shards and that modules inside and outside of a block hold."""
    found: list[str] = []
    for group in groups_of(state):
        for one in group.fsdp_params:
            info = one._module_info
            holders = [(info.module, info.param_name)]
            holders += zip(info.shared_modules, info.shared_param_names, strict=True)
            inside = [key for module, key in holders if id(module) in names]
            if inside and len(inside) != len(holders):
                found.append(inside[0])
    return found


def shard_alike(
    model: nn.Module, new: nn.Module, template: nn.Module
) -> dict[nn.Parameter, nn.Parameter]:
    """Shard a plain copy of a block as the block is.

    Args:
        model: The model that the template is in; the copy is not.
        new: The copy; every rank has the same.
        template: The block.

    Returns:
        Each plain parameter to the sharded one that has taken its place; empty where the model is
        not sharded.

    Raises:
        UnsupportedError: It cannot be sharded so.
    """
    if not is_sharded(model):
        return {}
    reason = why_not_alike(model, template)
    if reason is not None:
        raise UnsupportedError(f"a copy of the block cannot be sharded as the block is: {reason}")
    plain = dict(new.named_parameters(remove_duplicate=False))
    like = dict(template.named_parameters(remove_duplicate=False))
    for unit in plan_of(model, template):
        modules = [new.get_submodule(path) for path in unit.paths]
        inside = {
            f"{path}.{name}".lstrip("."): parameter
            for path, module in zip(unit.paths, modules, strict=True)
            for name, parameter in module.named_parameters(remove_duplicate=False)
        }
        left_out = {p for name, p in inside.items() if not is_shard(p) and not is_shard(like[name])}
        _shard(modules, unit.state, inside, like, left_out)
    now = dict(new.named_parameters(remove_duplicate=False))
    return {old: now[name] for name, old in plain.items() if now[name] is not old}


def plan_of(model: nn.Module, template: nn.Module) -> list[_Unit]:
    """The calls of ``fully_shard`` that make a copy what the template is, inner ones first."""
    names = {id(module): name for name, module in template.named_modules()}
    own = units(template)
    plan = [
        _Unit(tuple(names[id(module)] for module in state._modules), state)
        for state in reversed(own)
    ]
    around = [one for one in units(model) if all(one is not other for other in own)]
    owners = (owner_of(parameter, around) for parameter in template.parameters())
    outer = next((owner for owner in owners if owner is not None), None)
    return plan if outer is None else [*plan, _Unit(("",), outer)]


def _shard(
    modules: Sequence[nn.Module],
    state: Any,
    inside: Mapping[str, nn.Parameter],
    like: Mapping[str, nn.Parameter],
    left_out: set[nn.Parameter],
) -> None:
    """Call ``fully_shard`` with the policy of a state."""
    from torch.distributed.fsdp import fully_shard

    groups = groups_of(state)
    if not groups:  # nothing of its own to shard: it only casts what goes in and out
        raise UnsupportedError(
            f"{type(modules[0]).__name__} was given to fully_shard and has no parameters of its own"
        )
    holders = {id(one.sharded_param): (one, group) for group in groups for one in group.fsdp_params}
    places = {
        parameter: holders[id(like[name])]
        for name, parameter in inside.items()
        if id(like[name]) in holders
    }
    fully_shard(
        modules[0] if len(modules) == 1 else list(modules),
        mesh=groups[0].mesh_info.mesh,
        reshard_after_forward=_reshards(state, groups[0]),
        shard_placement_fn=_placement(groups, places),
        mp_policy=state._mp_policy,
        offload_policy=groups[0].offload_policy,
        ignored_params=left_out or None,
    )
    (made,) = {id(one): one for module in modules for one in units(module)[:1]}.values()
    new = groups_of(made)
    if len(new) != len(groups):
        raise UnsupportedError(
            f"{type(modules[0]).__name__} is sharded over {len(groups)} meshes, and a copy of a "
            f"part of it over {len(new)}"
        )
    for group, kept in zip(new, groups, strict=True):
        for name in _SETTINGS:
            if name in vars(kept):
                setattr(group, name, vars(kept)[name])
        group.mesh_info.reduce_scatter_process_group = getattr(
            kept.mesh_info, "reduce_scatter_process_group", None
        )


def _reshards(state: Any, group: Any) -> bool | int | None:
    """The ``reshard_after_forward`` that a state was made with, or has been given since."""
    if state._auto_reshard_after_forward:
        return None
    after = group.post_forward_mesh_info
    if after is None:
        return False
    return True if after == group.mesh_info else int(after.shard_mesh_size)


def _placement(groups: Sequence[Any], places: Mapping[nn.Parameter, tuple[Any, Any]]) -> Any:
    """The ``shard_placement_fn`` that puts each new parameter where its template is."""
    from torch.distributed.tensor import Shard

    if len(groups) == 1:
        if all(one.fsdp_placement == Shard(0) for one, _ in places.values()):
            return None
        return lambda parameter: places[parameter][0].fsdp_placement
    from torch.distributed.fsdp._fully_shard._fsdp_common import ShardPlacementResult

    return lambda parameter: ShardPlacementResult(
        places[parameter][0].fsdp_placement, places[parameter][1].mesh_info
    )
