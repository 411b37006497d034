"""Updates: whether an optimizer has really stepped, where a gradient scaler may skip."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer

__all__ = ["Updates"]


class Updates:
    """Watches optimizers for real steps.

    A scaler that met an infinite gradient does not call ``step``; a fused optimizer it calls, with
    ``found_inf`` set, and the step does nothing.

    Args:
        optimizers: The innermost optimizers.

    Attributes:
        idle: Whether a fused one was called since :meth:`take`, and did nothing.
    """

    def __init__(self, optimizers: Iterable[Optimizer]) -> None:
        self.made = self.idle = False
        self._handles = [one.register_step_post_hook(self._after) for one in optimizers]

    def take(self) -> bool:
        """Whether one of them has stepped since this was last asked."""
        made, self.made, self.idle = self.made, False, False
        return made

    def close(self) -> None:
        """Watch no more."""
        for handle in self._handles:
            handle.remove()

    def _after(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        found = optimizer.__dict__.get("found_inf")
        # Reading it waits for the device, as the scaler itself does for every other optimizer.
        if found is None or not bool(found):
            self.made = True
        else:
            self.idle = True
