"""The stream that runs through a block: which of its inputs and outputs is blended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

__all__ = ["is_felt", "main_input", "main_output", "with_main_output"]


def _first(values: Iterable[Any]) -> Tensor | None:
    for value in values:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    return None


def main_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """What the block adds to: its first floating tensor, positional ones before named ones.

    Among named ones ``hidden_states`` comes first, whatever its place.
    """
    named = kwargs.get("hidden_states")
    return _first([*args, named, *kwargs.values()])


def main_output(output: Any) -> Tensor | None:
    """What the block hands on: its output, or the first floating tensor in it."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    if isinstance(output, Mapping):
        return _first(output.values())
    if isinstance(output, tuple | list):
        return _first(output)
    return None


def with_main_output(output: Any, tensor: Tensor) -> Any:
    """The same output with :func:`main_output` replaced by ``tensor``."""
    if isinstance(output, Tensor):
        return tensor
    old = main_output(output)
    if isinstance(output, Mapping):
        replaced: Any = type(output)()
        for key, value in output.items():
            replaced[key] = tensor if value is old else value
        return replaced
    values = [tensor if value is old else value for value in output]
    if isinstance(output, tuple) and type(output) is not tuple:
        return type(output)(*values)  # a named tuple
    return type(output)(values)


def is_felt(grad: Tensor | None) -> bool:
    """Whether a gradient is there and not zero throughout."""
    if grad is None:
        return False
    if grad.dim() and bool(grad[:1].any()):
        return True  # most often, and the rest need not be read
    return bool(grad.any())
