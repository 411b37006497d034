"""Initial weights: what a new block begins with where it is no plain copy.

Begun anew as its kind begins: each module's own ``reset_parameters``, then the model's
``_init_weights`` where it has one, as `transformers` models and many others do. Or a copy with
noise. The random numbers come from the growth's seed; nobody else's move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from stagegraph.actions.growth.depth.stacks import own_modules, own_parameters
from stagegraph.actions.randomness import preserved_randomness, seed_all
from stagegraph.errors import UnsupportedError

__all__ = ["add_noise", "initialise"]

_RESETS = ("reset_parameters", "_reset_parameters")
"""What torch's modules call their own initialisation (the second: ``nn.MultiheadAttention``)."""


def initialise(
    model: nn.Module, block: nn.Module, *, seed: int, stack: str, place: str, kind: str
) -> None:
    """Give a new block, which is not in the model yet, the weights that its kind begins with.

    Args:
        model: The model.
        block: The block; its own parameters are written.
        seed: For the random numbers.
        stack: Path of the stack, whose models know how to initialise.
        place: Where the growth is written, for the message.
        kind: Name of the block, for the message.

    Raises:
        UnsupportedError: A parameter has no way to be initialised.
    """
    own = own_parameters(model, block)
    modules = own_modules(model, block)
    _refuse_sharing(own, modules, place=place, kind=kind)
    with preserved_randomness(), torch.no_grad():
        seed_all(seed)
        for parameter in own.values():
            if parameter.is_floating_point():
                parameter.fill_(torch.nan)  # what nothing writes to is then seen
        for module in reversed(modules):
            _reset(module)
        initialise_module = _own_way(model, stack)
        if initialise_module is not None:
            for module in reversed(modules):
                initialise_module(module)
    left = [name for name, parameter in own.items() if bool(parameter.isnan().any())]
    if left:
        owners = {name: type(block.get_submodule(name.rpartition(".")[0])) for name in left}
        raise UnsupportedError(
            f"{place}: nothing says how {kind}'s "
            + ", ".join(f"{name!r} (of {owner.__name__})" for name, owner in owners.items())
            + " begin: give the module a reset_parameters(), or the model an _init_weights(module)"
            "; or copy (init: copy, or another how)"
        )


def _refuse_sharing(
    own: dict[str, nn.Parameter], modules: Iterable[nn.Module], *, place: str, kind: str
) -> None:
    mine = set(map(id, own.values()))
    for module in modules:
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in mine:
                raise UnsupportedError(
                    f"{place}: {kind} shares the {name!r} of a {type(module).__name__} with the "
                    "rest of the model, and beginning anew would overwrite it; copy instead"
                )


def _reset(module: nn.Module) -> None:
    for name in _RESETS:
        reset = getattr(module, name, None)
        if callable(reset):
            reset()
            return


def _own_way(model: nn.Module, stack: str) -> Callable[[nn.Module], Any] | None:
    """The ``_init_weights`` of the innermost module around a stack that has one."""
    parts = stack.split(".")[:-1]
    for end in range(len(parts), -1, -1):
        module = model.get_submodule(".".join(parts[:end]))
        own_way = getattr(module, "_init_weights", None)
        if callable(own_way):
            way: Callable[[nn.Module], Any] = own_way
            return way
    return None


def add_noise(parameters: Iterable[nn.Parameter], share: float, *, seed: int) -> None:
    """Add normal noise, a share of each tensor's root mean square.

    The numbers are drawn on the CPU, so that they are the same wherever the model is.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            noise = torch.randn(parameter.shape, generator=generator)
            scale = share * float(parameter.double().square().mean().sqrt())
            parameter.add_((noise * scale).to(parameter.device, parameter.dtype))
