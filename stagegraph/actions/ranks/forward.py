"""Forward: a call before the next training forward, which all ranks make together.

A rank that does not make an evaluation which others make would go on to its next forward and wait
there for ranks that wait for it. What all must do first is therefore done before that forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

__all__ = ["BeforeForward"]


class BeforeForward:
    """A hook that is on the model only while it is wanted.

    Args:
        model: The model as the loop calls it.
        call: What to do before a forward in training mode with gradients.
    """

    def __init__(self, model: nn.Module, call: Callable[[], None]) -> None:
        self._model = model
        self._call = call
        self._handle: RemovableHandle | None = None

    def arm(self, wanted: bool) -> None:  # noqa: FBT001 - its only argument
        """Wait for the next training forward, or do so no more."""
        if wanted and self._handle is None:
            self._handle = self._model.register_forward_pre_hook(self._before)
        elif not wanted and self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _before(self, module: nn.Module, _inputs: Any) -> None:
        if module.training and torch.is_grad_enabled():
            self._call()
