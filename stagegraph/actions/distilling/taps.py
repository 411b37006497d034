"""Taps: see what chosen modules of a model put out, while somebody needs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stagegraph.actions.parameters import shown_name
from stagegraph.actions.stream import main_output
from stagegraph.errors import SelectorError, did_you_mean

__all__ = ["Taps", "outermost"]


def outermost(model: nn.Module, glob: str, *, place: str) -> list[str]:
    """The names of the modules that a glob matches, without those inside another of them.

    So ``blocks.*`` is every block, and not every part of every block too.

    Raises:
        SelectorError: There is none.
    """
    names = [name for name, _ in model.named_modules() if name]
    hit = [n for n in names if fnmatchcase(n, glob) or fnmatchcase(shown_name(n), glob)]
    if not hit:
        near = did_you_mean(glob, [shown_name(name) for name in names])
        raise SelectorError(f"{place}: {glob!r} matches no module of the model{near}")
    return [name for name in hit if not any(name.startswith(f"{other}.") for other in hit)]


class Taps:
    """Forward hooks that keep the newest output of each tapped module, and nothing else.

    Args:
        model: The model; what was kept is forgotten when it begins a new forward.
        modules: The modules, by the name to keep their output under.
        training: Only forwards that gradients can flow through are seen: an evaluation between the
            forward and the loss changes nothing.
    """

    def __init__(
        self, model: nn.Module, modules: Mapping[str, nn.Module], *, training: bool
    ) -> None:
        self.seen: dict[str, Tensor | None] = {}
        """The newest output by name."""
        self._handles: list[RemovableHandle] = []
        if modules:
            self._handles.append(
                model.register_forward_pre_hook(_Forget(self.seen, training=training))
            )
        for name, module in modules.items():
            tap = _Tap(self.seen, name, training=training)
            self._handles.append(module.register_forward_hook(tap))

    def __bool__(self) -> bool:
        return bool(self._handles)

    def forget(self) -> None:
        """Let go of what was kept."""
        self.seen.clear()

    def close(self) -> None:
        """Remove the hooks."""
        self.forget()
        for handle in self._handles:
            handle.remove()


class _Hook:
    """What both hooks have: a copy of a module that carries one shares it, and copies no tensor."""

    def __init__(self, seen: dict[str, Tensor | None], *, training: bool) -> None:
        self._seen = seen
        self._training = training

    def _sees(self) -> bool:
        return torch.is_grad_enabled() or not self._training

    def __deepcopy__(self, _memo: dict[int, Any]) -> _Hook:
        return self


class _Forget(_Hook):
    def __call__(self, _module: nn.Module, _args: Iterable[Any]) -> None:
        if self._sees():
            self._seen.clear()


class _Tap(_Hook):
    def __init__(self, seen: dict[str, Tensor | None], name: str, *, training: bool) -> None:
        super().__init__(seen, training=training)
        self._name = name

    def __call__(self, _module: nn.Module, _args: Iterable[Any], output: Any) -> None:
        if self._sees():
            self._seen[self._name] = main_output(output)
