"""Units: what ``fully_shard`` was called on, each gathered and released as one.

A unit's parameters are whole only while it runs. Between updates they must be shards again before
anybody looks at ``model.parameters()``: after a forward pass without a backward pass those of the
root are not, and the optimizer holds others. And a root looks for its units once, when it first
runs; one that comes later would be a root of its own, and one that went would still be waited for.
:func:`settle` sees to both.

torch has no public way to most of this, so all that is read or set of its inner parts stands in
this package, and :func:`why_unknown` says where a torch is another one than those that were tried.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = [
    "groups_of",
    "is_sharded",
    "owner_of",
    "reducing",
    "reshard",
    "settle",
    "units",
    "why_unknown",
]

_MODULE = "torch.distributed.fsdp._fully_shard"

_STATE = ("_lazy_init", "_get_state_for_module", "init")
_GROUP = ("lazy_init", "reshard", "_init_mp_dtypes", "_to_sharded")
_RESET = "_reset_iter_state"


def units(module: nn.Module) -> list[Any]:
    """The FSDP states in a module, its own first, in the order of ``named_modules()``.

    ``fully_shard([a, b])`` makes one state for several modules; it is listed once.
    """
    if _MODULE not in sys.modules:
        return []
    from torch.distributed.fsdp import FSDPModule

    found: dict[int, Any] = {}
    for part in module.modules():
        if isinstance(part, FSDPModule):
            state = part._get_fsdp_state()
            found.setdefault(id(state), state)
    return list(found.values())


def groups_of(state: Any) -> list[Any]:
    """A unit's parameters, in groups that are each gathered at once; older torch has one at most.

    Args:
        state: The unit's FSDP state.
    """
    several = vars(state).get("_fsdp_param_groups")
    if several is not None:
        return list(several)
    one = state._fsdp_param_group
    return [] if one is None else [one]


def is_sharded(module: nn.Module) -> bool:
    """Whether ``fully_shard`` was called on a module, or on something in it."""
    return bool(units(module))


def owner_of(parameter: Tensor, states: Iterable[Any]) -> Any:
    """The state that shards a parameter; ``None`` if none of these does."""
    for state in states:
        for group in groups_of(state):
            if any(one.sharded_param is parameter for one in group.fsdp_params):
                return state
    return None


def why_unknown() -> str | None:
    """Why the inner parts of this torch's ``fully_shard`` are not those that are known, if so."""
    from torch.distributed.fsdp._fully_shard import _fsdp_param_group, _fsdp_state

    missing = [f"FSDPState.{name}" for name in _STATE if name not in vars(_fsdp_state.FSDPState)]
    missing += [
        f"FSDPParamGroup.{name}"
        for name in _GROUP
        if name not in vars(_fsdp_param_group.FSDPParamGroup)
    ]
    return ", ".join(missing) or None


def reshard(models: Iterable[nn.Module]) -> None:
    """Let every parameter be a shard again, as after an update."""
    for model in models:
        for state in units(model):
            for group in groups_of(state):
                group.reshard()


@contextmanager
def reducing(model: nn.Module) -> Iterator[None]:
    """Gradients are summed over ranks within, though a script that accumulates may be against it.

    What it has set (``set_requires_gradient_sync`` and its like) is in force again afterwards.
    """
    groups = [group for state in units(model) for group in groups_of(state)]
    before = [(group, group.reduce_grads, group.all_reduce_grads) for group in groups]
    try:
        for group in groups:
            group.reduce_grads = group.all_reduce_grads = True
        yield
    finally:
        for group, scatters, sums in before:
            group.reduce_grads, group.all_reduce_grads = scatters, sums


def settle(models: Sequence[nn.Module], *, interrupted: bool = False) -> None:
    """Let every parameter be a shard again, and every root know the units that it has now.

    Args:
        models: The models; those that are not sharded are left alone.
        interrupted: Whether a pass may have ended in its middle, or without its backward pass. What
            is still on its way is then waited for and given up.
    """
    for model in models:
        states = units(model)
        if not states:
            continue
        _begin(model, states)
        if interrupted:
            for state in states:
                if state._is_root:
                    _give_up(state)
        reshard([model])
        _link(states)
        for state in states:
            for group in groups_of(state):
                group._init_mp_dtypes()  # torch asks only once which parameters are trained


def _give_up(root: Any) -> None:
    """Wait for what is still on its way of a pass, and forget the pass."""
    if _RESET in vars(type(root)):
        root._reset_iter_state()
        return
    from torch.distributed.fsdp._fully_shard._fsdp_common import TrainingState

    inside = [(state, groups_of(state)) for state in root._state_ctx.all_states]
    for group in (one for _, several in inside for one in several):
        gathered = group._all_gather_result
        work = None if gathered is None else gathered.all_gather_work
        if work is not None:
            work.wait()
    root._device_handle.synchronize()  # whatever events there are, they have come
    root._comm_ctx.all_gather_state = root._comm_ctx.reduce_scatter_state = None
    root._comm_ctx.post_forward_order.clear()
    for state, several in inside:
        state._modules_to_run_forward.clear()
        state._training_state = TrainingState.IDLE
        for group in several:
            group._all_gather_result = group._post_reduce_event = None
            group._all_reduce_state = group._reshard_after_forward_event = None
            group._partial_reduce_output = None
            group._post_forward_indices.clear()
            group._training_state = TrainingState.IDLE
            group._to_sharded()
    root._state_ctx.iter_forward_root = None
    root._state_ctx.post_backward_final_callback_queued = False


def _begin(model: nn.Module, states: Sequence[Any]) -> None:
    """Make the outermost units roots before anything runs in a measurement.

    What a first run registers on modules would be taken back with the measurement's other traces.
    """
    held = {id(module): state for state in states for module in state._modules}
    for state in _outermost(model, held):
        if state._is_root is None and len(state._modules) == 1:
            state._lazy_init()


def _outermost(module: nn.Module, held: Mapping[int, Any]) -> list[Any]:
    state = held.get(id(module))
    if state is not None:
        return [state]
    return [one for child in module.children() for one in _outermost(child, held)]


def _link(states: Sequence[Any]) -> None:
    """Let roots find their units anew where they know others than there are."""
    for root in [state for state in states if state._is_root]:
        inside = units(root._modules[0])
        known = root._state_ctx.all_states
        if len(known) != len(inside) or any(a is not b for a, b in zip(known, inside, strict=True)):
            _begin_anew(root, {id(state): state for state in (*known, *inside)}.values())


def _begin_anew(root: Any, states: Iterable[Any]) -> None:
    from torch.distributed.fsdp._fully_shard import _fsdp_param_group, _fsdp_state

    for state in states:
        state._is_root = None
        state._state_ctx = _fsdp_state.FSDPStateContext()
        state._comm_ctx = _fsdp_param_group.FSDPCommContext()
        for group in groups_of(state):
            group.comm_ctx = state._comm_ctx
            group._module_fqn = None
            group._post_forward_indices.clear()
    root._lazy_init()
