"""Freezing: parameters that keep still, and norms whose running statistics keep still.

A frozen parameter has ``requires_grad=False`` and no gradient, and stays in its optimizer group:
with ``grad=None`` the optimizer passes it by, weight decay and momentum included. A frozen norm is
in eval mode during its own forward only, so that the user's ``model.train()`` and ``.training``
mean what they always meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.hooks import RemovableHandle

__all__ = ["Freezing", "running_norms"]


def running_norms(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """The norms among these modules that keep running statistics."""
    return [m for m in modules if isinstance(m, _NormBase) and m.running_mean is not None]


class _StillNorm:
    """Holds one norm in eval mode while it runs, whatever ``model.train()`` says."""

    def __init__(self, norm: nn.Module) -> None:
        self.norm = norm
        self._mode = norm.training
        self._handles: tuple[RemovableHandle, ...] = (
            norm.register_forward_pre_hook(self._enter),
            norm.register_forward_hook(self._leave, always_call=True),
        )

    def _enter(self, module: nn.Module, _args: tuple[Any, ...]) -> None:
        self._mode = module.training
        module.training = False

    def _leave(self, module: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
        module.training = self._mode

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


class Freezing:
    """What is frozen now, and what each of it was before."""

    def __init__(self) -> None:
        self._originals: dict[int, tuple[nn.Parameter, bool]] = {}
        self._norms: dict[int, _StillNorm] = {}

    def original(self, parameter: nn.Parameter) -> bool:
        """Whether the parameter would be trained if nothing here were frozen."""
        held = self._originals.get(id(parameter))
        return parameter.requires_grad if held is None else held[1]

    def be_originally(self, parameter: nn.Parameter, *, trained: bool) -> None:
        """Say whether the parameter would be trained if nothing here were frozen."""
        if id(parameter) in self._originals:
            self._originals[id(parameter)] = (parameter, trained)
        else:
            parameter.requires_grad_(trained)

    def originals(self) -> list[tuple[nn.Parameter, bool]]:
        """The frozen parameters, each with ``requires_grad`` as it was before."""
        return list(self._originals.values())

    def hold(self, parameters: Iterable[nn.Parameter], norms: Iterable[nn.Module]) -> None:
        """Freeze exactly these, and release what else was frozen to what it was before."""
        wanted = {id(parameter): parameter for parameter in parameters}
        for key in [key for key in self._originals if key not in wanted]:
            parameter, original = self._originals.pop(key)
            parameter.requires_grad_(original)
        for key, parameter in wanted.items():
            if key not in self._originals:
                self._originals[key] = (parameter, parameter.requires_grad)
            parameter.requires_grad_(False)
            parameter.grad = None
        still = {id(norm): norm for norm in norms}
        for key in [key for key in self._norms if key not in still]:
            self._norms.pop(key).remove()
        for key, norm in still.items():
            if key not in self._norms:
                self._norms[key] = _StillNorm(norm)

    def remember(self) -> Callable[[], None]:
        """A way back to what is frozen now; flags and hooks are undone by reference."""
        originals, norms = dict(self._originals), dict(self._norms)

        def way_back() -> None:
            self._originals, self._norms = originals, norms

        return way_back

    def close(self) -> None:
        """Release everything."""
        self.hold((), ())
