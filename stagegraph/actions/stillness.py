"""Stillness: modules that run as in evaluation while they are frozen, whatever ``train()`` says.

A still module is in eval mode during its own forward only, so that the user's ``model.train()`` and
``.training`` mean what they always meant, and nothing has to be put back. Whether a module is in
training is its own flag, so that what is inside of a still module, or around it, is not touched.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.hooks import RemovableHandle

from stagegraph.actions.parameters import Selection
from stagegraph.schema.activities import Freeze

__all__ = ["StillModule", "running_norms", "still_modules"]

_DROPPING = (
    _DropoutNd,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RReLU,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)
"""What of torch's own modules looks at ``training``, but for norms."""


def running_norms(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """The norms among these modules that keep running statistics."""
    return [m for m in modules if isinstance(m, _NormBase) and m.running_mean is not None]


def still_modules(freeze: Freeze, selection: Selection) -> list[nn.Module]:
    """The modules that keep still under a freeze.

    With ``norms: eval`` the norms with running statistics in the selection. With ``dropout: eval``
    every module that is frozen as a whole, all that is below it included, and may look at
    ``training``: so a dropout that a block calls as a function is seen too, and a model in which
    something is still trained goes on in training.
    """
    norms = running_norms(selection.modules)
    found = list(norms) if freeze.norms == "eval" else []
    if freeze.dropout == "eval":
        selected = {id(module) for module in selection.modules}
        frozen = {id(parameter) for parameter in selection.parameters}
        passed = {id(norm) for norm in norms}
        found += [
            module
            for module in selection.modules
            if id(module) not in passed
            and _may_look(module)
            and all(id(inner) in selected for inner in module.modules())
            and all(id(parameter) in frozen for parameter in module.parameters())
        ]
    return found


def _may_look(module: nn.Module) -> bool:
    """Whether a module's own forward may depend on ``training``."""
    own = type(module).__module__.startswith("torch.nn.")
    return isinstance(module, _DROPPING) or not own


class StillModule:
    """Holds one module in eval mode while it runs."""

    def __init__(self, module: nn.Module) -> None:
        self._modes: list[bool] = []
        self._handles: tuple[RemovableHandle, ...] = (
            module.register_forward_pre_hook(self._enter),
            module.register_forward_hook(self._leave, always_call=True),
        )

    def _enter(self, module: nn.Module, _args: tuple[Any, ...]) -> None:
        self._modes.append(module.training)
        module.training = False

    def _leave(self, module: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
        if self._modes:  # not if a hook before ours raised
            module.training = self._modes.pop()

    def remove(self) -> None:
        """Let the module run as it says."""
        for handle in self._handles:
            handle.remove()
