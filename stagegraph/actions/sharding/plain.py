"""Plain copies: a module as it was before ``fully_shard``, with whole tensors of its own.

FSDP refuses to be copied. The copy is made of the module's own class and of gathered tensors, and
has nothing of FSDP's about it: no state, no hooks. All ranks must ask for it.
"""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from stagegraph.actions.sharding.tensors import is_shard, whole

__all__ = ["copied_as_plain", "shallow_copy"]

_HOOKS = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


@contextmanager
def copied_as_plain(modules: Iterable[nn.Module], memo: dict[int, Any]) -> Iterator[None]:
    """Within, a deep copy of these modules is a plain one.

    Args:
        modules: The modules that are copied.
        memo: What stands in the copy for which object, by id; what stands for parameters is added,
            where nothing does yet.
    """
    if "torch.distributed.fsdp._fully_shard" not in sys.modules:
        yield
        return
    from torch.distributed._composable.contract import REGISTRY_KEY, STATE_KEY
    from torch.distributed.fsdp import FSDPModule

    sharded: list[tuple[nn.Module, type[nn.Module]]] = []
    for module in modules:
        _plain_hooks(module, memo)
        for parameter in module._parameters.values():
            if parameter is not None and id(parameter) not in memo and is_shard(parameter):
                content = whole(parameter).clone()
                memo[id(parameter)] = nn.Parameter(content, parameter.requires_grad)
        for key in (STATE_KEY, REGISTRY_KEY):
            if key in vars(module):
                memo[id(vars(module)[key])] = OrderedDict()
        if isinstance(module, FSDPModule):
            sharded.append((module, type(module)))
    try:
        for module, kind in sharded:
            module.__class__ = kind.__mro__[_place(kind)]
        yield
    finally:
        for module, kind in sharded:
            module.__class__ = kind


def shallow_copy(owner: Any) -> Any:
    """As ``copy.copy``, of a sharded module too: that would make the whole module anew."""
    if "torch.distributed.fsdp._fully_shard" in sys.modules:
        from torch.distributed.fsdp import FSDPModule

        if isinstance(owner, FSDPModule):
            new = object.__new__(type(owner))
            vars(new).update(vars(owner))
            return new
    return copy.copy(owner)


def _place(kind: Any) -> int:
    """Where in its order of bases a class that ``fully_shard`` made has the module's own one."""
    return int(kind._orig_cls_mro_index)


def _plain_hooks(module: nn.Module, memo: dict[int, Any]) -> None:
    for name in _HOOKS:
        held = vars(module).get(name)
        if held and any(_is_fsdp(hook) for hook in held.values()):
            kept = ((key, hook) for key, hook in held.items() if not _is_fsdp(hook))
            memo[id(held)] = OrderedDict(kept)


def _is_fsdp(hook: Any) -> bool:
    function = getattr(hook, "hook", hook)
    return str(getattr(function, "__module__", "")).startswith("torch.distributed.fsdp.")
