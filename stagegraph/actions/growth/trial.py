"""Trial: run a copy of the model with grown tensors, before the model itself is touched.

The copy shares every tensor that does not grow. What a declaration misses shows here: a tensor that
is tied to the space and was not named, or an attribute that still states the old size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from stagegraph.actions.copying import duplicate
from stagegraph.actions.growth.attributes import named_owners
from stagegraph.actions.probes import Probe, run_probe
from stagegraph.actions.randomness import preserved_randomness
from stagegraph.actions.sharding.tensors import is_shard
from stagegraph.errors import UnsupportedError

__all__ = ["try_out", "twin"]


def twin(model: nn.Module, *, meta: bool) -> nn.Module:
    """The model's structure as another object.

    Args:
        model: The model.
        meta: Whether its tensors are on the meta device, without memory; if not, they are the
            model's own.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and id(tensor) not in memo:
                memo[id(tensor)] = _stand_in(tensor, meta=meta)
    return duplicate(model, memo)


def _stand_in(tensor: torch.Tensor, *, meta: bool) -> torch.Tensor:
    if meta and is_shard(tensor):
        data = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    else:
        data = tensor.detach().to("meta") if meta else tensor.detach()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(data, tensor.requires_grad)
    return data if meta else data.clone()


def try_out(
    model: nn.Module, probe: Probe, change: Callable[[nn.Module], None], *, place: str
) -> None:
    """Change a copy of the model and run it on the probe.

    Args:
        model: The model; it is left alone.
        probe: Its probe.
        change: Makes the copy what the model is to become.
        place: Where the growth is written, for the message.

    Raises:
        UnsupportedError: The changed copy does not run; the message names the module it failed in.
    """
    trial = twin(model, meta=False).eval()
    valid = [(path, owner) for path, owner in named_owners(trial) if _complaint(owner) is None]
    change(trial)
    for path, owner in valid:
        complaint = _complaint(owner)
        if complaint is not None:
            raise UnsupportedError(
                f"{place}: {path!r}, a {type(owner).__name__}, does not accept the new sizes, so "
                f"that the grown model could not be saved and made again: {complaint}; take sizes "
                "that it accepts"
            )
    entered: list[str] = []

    def leave(*_: Any) -> None:
        entered.pop()

    for name, module in trial.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: entered.append(name))
        module.register_forward_hook(leave)
    with preserved_randomness(), torch.no_grad():
        try:
            run_probe(trial, probe)
        except (RuntimeError, ValueError, IndexError, AssertionError, TypeError) as error:
            where = entered[-1] if entered and entered[-1] else "the model"
            raise UnsupportedError(
                f"{place}: the grown model would not run: in {where}: {_first_line(error)}; "
                "something there is tied to what grows and is not declared: name its axis under "
                "spaces: tensors:, or the attribute that states its size under spaces: sizes:"
            ) from error


_CONFIGS = frozenset({"PreTrainedConfig", "PretrainedConfig"})
"""transformers' configs, which check themselves before they are saved."""


def _complaint(owner: Any) -> str | None:
    """What a config has against its own attributes, if it is one that can tell."""
    if not any(cls.__name__ in _CONFIGS for cls in type(owner).__mro__):
        return None
    try:
        getattr(owner, "validate", lambda: None)()  # older ones do not check themselves
    except Exception as error:  # noqa: BLE001 - whatever it raises, it does not accept them
        return str(error.__cause__ or error).strip() or type(error).__name__
    return None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
