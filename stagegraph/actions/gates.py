"""Gates: blend a block in, out = lerp(in, block(in), alpha), without touching the model's names.

A gate is a forward hook on the block itself. At alpha 1 there is no hook at all: the gate is
folded. Alpha is a number that the engine sets between updates; nothing is counted in forwards, so
gradient accumulation, activation checkpointing and evaluation all see the same blend.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from stagegraph.actions.stream import main_input, main_output, with_main_output
from stagegraph.errors import UnsupportedError

__all__ = ["Gate", "Gates"]


def _as_float32(alpha: float) -> float:
    nearest: float = struct.unpack("f", struct.pack("f", alpha))[0]
    return nearest


class Gate:
    """The forward hook of one block.

    Alpha stays a float32 number and is applied as one: a bfloat16 stream is blended with 0.999,
    not with the 1.0 that 0.999 would be in bfloat16.
    """

    def __init__(self, block: str, alpha: float) -> None:
        self.block = block
        self.alpha = _as_float32(alpha)

    def __call__(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """The blended output; ``None`` leaves it as it is."""
        alpha = self.alpha
        if alpha == 1.0:
            return None
        x = main_input(args, kwargs)
        out = main_output(output)
        if x is None or out is None or x.shape != out.shape:
            raise UnsupportedError(
                f"the new block {self.block!r} cannot be blended in: its input "
                f"{'is no tensor' if x is None else tuple(x.shape)} and its output "
                f"{'is no tensor' if out is None else tuple(out.shape)} differ"
            )
        x = x.to(out.dtype)
        if alpha == 0.0:
            return with_main_output(output, x)  # lerp(x, inf, 0) would be NaN
        return with_main_output(output, torch.lerp(x, out, alpha))


class Gates:
    """The gates of one model, by the stable id of their block."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[Gate, RemovableHandle]] = {}

    def alphas(self) -> dict[str, float]:
        """Alpha of every block that has a gate; the others are at 1."""
        return {block: gate.alpha for block, (gate, _) in self._open.items()}

    def set(
        self,
        alphas: Mapping[str, float],
        module_of: Callable[[str], nn.Module],
        *,
        moving: Collection[str] = (),
    ) -> None:
        """Set alphas at a boundary: hooks appear where alpha leaves 1, and go where it is 1.

        Args:
            alphas: Alpha per block.
            module_of: The block of a stable id.
            moving: Blocks under a ramp; they keep their gate at 1 too.
        """
        for block, alpha in alphas.items():
            if alpha == 1.0 and block not in moving:
                self.drop([block])
            elif block in self._open:
                self._open[block][0].alpha = _as_float32(alpha)
            else:
                gate = Gate(block, alpha)
                handle = module_of(block).register_forward_hook(gate, with_kwargs=True)
                self._open[block] = (gate, handle)

    def tune(self, blocks: Iterable[str], alpha: float) -> None:
        """Move alpha of open gates between two boundaries."""
        nearest = _as_float32(alpha)
        for block in blocks:
            if block in self._open:
                self._open[block][0].alpha = nearest

    @contextmanager
    def held_at(self, alpha: float, blocks: Iterable[str]) -> Iterator[None]:
        """These gates at another alpha, for the time of a measurement."""
        gates = [self._open[block][0] for block in blocks if block in self._open]
        alphas = [gate.alpha for gate in gates]
        for gate in gates:
            gate.alpha = alpha
        try:
            yield
        finally:
            for gate, before in zip(gates, alphas, strict=True):
                gate.alpha = before

    @contextmanager
    def closed(
        self, blocks: Iterable[str], module_of: Callable[[str], nn.Module]
    ) -> Iterator[None]:
        """These blocks passed by, for the time of a measurement; those without a gate get one."""
        blocks = list(blocks)
        handles = [
            module_of(block).register_forward_hook(Gate(block, 0.0), with_kwargs=True)
            for block in blocks
            if block not in self._open
        ]
        try:
            with self.held_at(0.0, blocks):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def drop(self, blocks: Iterable[str]) -> None:
        """Remove the gates of these blocks."""
        for block in blocks:
            if block in self._open:
                self._open.pop(block)[1].remove()

    def remember(self) -> Callable[[], None]:
        """A way back to the gates as they are now; hooks themselves are undone by reference."""
        saved = dict(self._open)
        alphas = self.alphas()

        def way_back() -> None:
            self._open = saved
            for block, (gate, _) in saved.items():
                gate.alpha = alphas[block]

        return way_back

    def close(self) -> None:
        """Remove all hooks."""
        self.drop(list(self._open))
