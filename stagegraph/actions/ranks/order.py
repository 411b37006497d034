"""The order in which a ``DistributedDataParallel`` adds gradients up, settled before it counts.

A new wrapper groups gradients by its parameters' order, and from its first backward on by the order
in which they came; among three ranks or more the last bits hang on the groups. A run that is gone
on with makes one backward for nothing, and so has the groups that it had.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stagegraph.actions.contents import tensors_in
from stagegraph.actions.probes import Probe, Within, call
from stagegraph.actions.undo import untouched

__all__ = ["settle_order"]


def settle_order(wrapper: DistributedDataParallel, probe: Probe) -> None:
    """Average gradients once for nothing; a collective, that leaves no trace but the order.

    Where a batch does not reach all that is trained, the wrapper would wait for the rest at the
    next one. So the model is tried without it first, and where it cannot be, on any rank, the order
    stays the new wrapper's, with a warning.

    Args:
        wrapper: The wrapper.
        probe: A batch.
    """
    module: nn.Module = wrapper.module
    training = wrapper.training
    with untouched(module), torch.enable_grad():
        wrapper.train()  # type: ignore[no-untyped-call]
        wrapper.zero_grad(set_to_none=True)
        reason = _why_not(wrapper, probe)
        agreed = torch.tensor(float(reason is None), device=next(module.parameters()).device)
        dist.all_reduce(agreed, dist.ReduceOp.MIN, group=wrapper.process_group)
        if agreed.item():
            _total(wrapper, module, probe).backward()  # type: ignore[no-untyped-call]
    wrapper.training = training
    if not agreed.item():
        warnings.warn(
            "gradients of three ranks or more may be added up in another order than before the "
            f"resume, and the last bits may differ: {reason or 'another rank cannot tell it'}; "
            "give probe= as a batch that the model is called with, and that reaches all that is "
            "trained",
            stacklevel=2,
        )


def _why_not(wrapper: DistributedDataParallel, probe: Probe) -> str | None:
    """Why a backward of the wrapper's on the probe would not be one as in training, if so."""
    module: nn.Module = wrapper.module
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    try:
        total = _total(module, module, probe)
        found = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
    except Exception as error:  # noqa: BLE001 - told in a warning, whatever it is
        return f"on the probe there is {type(error).__name__}: {error}"
    reached: Iterator[tuple[str, Tensor | None]] = zip(trained, found, strict=True)
    missing = [name for name, gradient in reached if gradient is None]
    if missing and not wrapper.find_unused_parameters:
        return f"the probe does not reach {missing[0]}, which is trained"
    return None


def _total(called: nn.Module, model: nn.Module, probe: Probe) -> Tensor:
    """All that the model puts out on its probe, in one number.

    Args:
        called: What stands for the model's forward: it, or its wrapper.
        model: The model, for all else that a function of the model asks of it.
        probe: The probe.

    Raises:
        ValueError: The model is not called once, or nothing of what it puts out has a gradient.
    """
    seen = _Seen(called, model)
    if isinstance(probe, Within):
        with probe.context(called):
            call(seen, probe.batch)
    else:
        call(seen, probe)
    if len(seen.outputs) != 1:
        raise ValueError(f"probe= calls the model {len(seen.outputs)} times, and not once")
    floats = [t for t in _tensors(seen.outputs[0]) if t.requires_grad]
    if not floats:
        raise ValueError("nothing of what the model puts out has a gradient")
    return torch.stack([t.float().sum() for t in floats]).sum()


def _tensors(output: Any) -> list[Tensor]:
    if is_dataclass(output) and not isinstance(output, type):
        return list(tensors_in([getattr(output, one.name) for one in fields(output)]))
    return list(tensors_in(output))


class _Seen(nn.Module):
    """The model, with what it puts out remembered; everything but a call is the model's own."""

    def __init__(self, called: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.outputs: list[Any] = []
        vars(self)["_called"], vars(self)["_model"] = called, model  # no modules within this one

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_model"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        output = vars(self)["_called"](*args, **kwargs)
        self.outputs.append(output)
        return output
