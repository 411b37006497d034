"""Copying a whole model: one that computes the same in eval mode, and that nobody trains."""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from stagegraph.actions.growth.modules.branches import Attachment, attachments
from stagegraph.actions.sharding.plain import copied_as_plain
from stagegraph.errors import UnsupportedError

__all__ = ["copy_model", "duplicate", "why_no_copy"]

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
)
_WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel", "DataParallel")


def duplicate(
    module: nn.Module, memo: dict[int, Any], *, own: Iterable[nn.Module] | None = None
) -> nn.Module:
    """A deep copy without hooks, but for those that run a module's branches.

    Of what is sharded over ranks it is a plain copy, with whole tensors.

    The others belong to somebody: those of ours to the stages of the model, the user's to the user,
    and they would see, and may keep, what the copy computes.

    Args:
        module: The module.
        memo: What stands in the copy for which object, by id; what is copied is added.
        own: The modules that are copied; default: all of them.
    """
    copied = list(module.modules() if own is None else own)
    for part in copied:
        for key in _HOOKS:
            if key in vars(part):
                memo[id(vars(part)[key])] = OrderedDict()
    with copied_as_plain(copied, memo):
        new: nn.Module = copy.deepcopy(module, memo)
    for part in copied:
        for hook in attachments(part):
            again = Attachment(memo[id(hook.branch)], hook.reads)
            memo[id(part)].register_forward_hook(again, with_kwargs=True)
    return new


def why_no_copy(model: nn.Module) -> list[str]:
    """Why no copy of a model can be made, if none can."""
    reasons = [
        f"{name or 'the model'} is wrapped in {type(module).__name__}, of which no copy can be "
        "made; give the model inside"
        for name, module in model.named_modules()
        if type(module).__name__ in _WRAPPERS
    ]
    if "torch.distributed.tensor" in sys.modules:
        sharded = [n for n, p in model.named_parameters() if type(p.data).__name__ == "DTensor"]
        reasons += [f"{name} is sharded over ranks, and cannot be copied" for name in sharded[:1]]
    return reasons


def copy_model(model: nn.Module) -> nn.Module:
    """A copy in the host's memory, in eval mode, without gradients and without hooks.

    What is shared inside the model is shared inside the copy; nothing is shared between the two.
    No random number is drawn, and nothing more is held on the model's device.

    Raises:
        UnsupportedError: It cannot be copied.
    """
    named: list[tuple[str, Tensor]] = list(model.named_parameters())
    lazy = [name for name, parameter in named if is_lazy(parameter)]
    if lazy:
        raise UnsupportedError(
            f"{lazy[0]} has no shape yet (a lazy module); run the model once before it is copied"
        )
    try:
        new = duplicate(model, _made_already(model))
    except (TypeError, RuntimeError, ValueError) as error:
        raise UnsupportedError(
            f"the model cannot be copied ({type(error).__name__}: {error}); if it computes a "
            "weight in a hook, use torch.nn.utils.parametrizations instead"
        ) from error
    for parameter in new.parameters():
        parameter.requires_grad_(False)
    return new.to("cpu").eval()


def _made_already(model: nn.Module) -> dict[int, Any]:
    """What stands for the model's tensors in its copy, by id, straight in the host's memory."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if type(parameter) is nn.Parameter and id(parameter) not in made:
                made[id(parameter)] = nn.Parameter(_on_host(parameter), requires_grad=False)
        for buffer in module._buffers.values():
            if type(buffer) is Tensor and id(buffer) not in made:
                made[id(buffer)] = _on_host(buffer)
    return made


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
