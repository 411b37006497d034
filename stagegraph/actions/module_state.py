"""Module state: what modules hold beside their parameters, under stable ids, and how it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stagegraph.actions.lineage import Lineage
from stagegraph.errors import SnapshotError

__all__ = [
    "buffers_of",
    "extra_states",
    "lasting",
    "passing_buffers",
    "put_buffers",
    "put_extra_states",
]


def buffers_of(model: nn.Module, lineage: Lineage) -> dict[str, Tensor]:
    """All buffers by stable id."""
    return {lineage.stable(name): buffer for name, buffer in model.named_buffers()}


def passing_buffers(model: nn.Module, lineage: Lineage) -> list[str]:
    """The ids of buffers that modules do not keep in their state dict.

    Such a buffer may be made or enlarged while the model runs, as a cache is.
    """
    return sorted(
        lineage.stable(f"{path}.{name}".lstrip("."))
        for path, module in model.named_modules()
        for name in module._non_persistent_buffers_set  # noqa: SLF001 - torch says it nowhere else
        if module._buffers.get(name) is not None
    )


def put_buffers(
    kept: Mapping[str, Tensor], passing: Iterable[str], model: nn.Module, lineage: Lineage
) -> None:
    """Put the contents of buffers back; those that come and go are made as they were.

    Args:
        kept: Contents by stable id.
        passing: The ids of those that come and go.
        model: The model, with the structure it had then.
        lineage: What the model has been through.
    """
    now, passing = buffers_of(model, lineage), set(passing)
    modules = dict(model.named_modules())
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    with torch.no_grad():
        for key, content in kept.items():
            held = now.get(key)
            if held is not None and _alike(held, content):
                held.copy_(content)
                continue
            path, _, own = lineage.today(key).rpartition(".")
            owner = modules.get(path)
            if key not in passing or owner is None:
                raise SnapshotError(f"the model has no place for buffer {key!r}")
            made = content.detach().to(device if held is None else held.device, copy=True)
            if own in owner._buffers:
                owner._buffers[own] = made
            else:
                owner.register_buffer(own, made, persistent=False)


def lasting(
    kept: Mapping[str, Tensor], passing: Iterable[str], model: nn.Module, lineage: Lineage
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The buffers that must be the same then and now: all but those that come and go."""
    now = buffers_of(model, lineage)
    apart = {*passing} | {*passing_buffers(model, lineage)}
    return _without(kept, apart), _without(now, apart)


def _without(tensors: Mapping[str, Tensor], ids: set[str]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in tensors.items() if key not in ids}


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype


def extra_states(
    model: nn.Module, lineage: Lineage, *, copied: Callable[[Any], Any]
) -> dict[str, Any]:
    """What modules say with ``get_extra_state``, by stable id."""
    return {
        lineage.stable(path): copied(module.get_extra_state())
        for path, module in _with_extra_state(model)
    }


def put_extra_states(kept: Mapping[str, Any], model: nn.Module, lineage: Lineage) -> None:
    """Give modules their extra states back.

    Raises:
        SnapshotError: A module that had one then has none now, or the other way round.
    """
    modules = {lineage.stable(path): module for path, module in _with_extra_state(model)}
    if set(modules) != set(kept):
        odd = ", ".join(repr(key) for key in sorted(set(modules) ^ set(kept)))
        raise SnapshotError(
            f"the snapshot and the model differ in which modules have an extra state "
            f"(get_extra_state): {odd}; the model is not the one of then"
        )
    for key, module in modules.items():
        module.set_extra_state(kept[key])


def _with_extra_state(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for path, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            yield path, module
