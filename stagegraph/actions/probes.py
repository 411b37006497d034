"""The probe: one batch on which growth is measured, and how to run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from stagegraph.errors import UnsupportedError

__all__ = ["Probe", "call", "main_tensor", "run_probe"]

Probe = Tensor | Sequence[Any] | Mapping[str, Any] | Callable[[nn.Module], Any]
"""A batch (a tensor, ``model(*sequence)``, ``model(**mapping)``), or a function of the model."""


@runtime_checkable
class _HasLogits(Protocol):
    logits: Any


def call(model: nn.Module, probe: Probe) -> Any:
    """Run the model on a batch; what it puts out."""
    if isinstance(probe, Tensor):
        return model(probe)
    if isinstance(probe, Mapping):
        return model(**probe)
    if isinstance(probe, Sequence):
        return model(*probe)
    return probe(model)


def run_probe(model: nn.Module, probe: Probe) -> Tensor:
    """Run the model on its probe.

    Returns:
        The floating tensor that stands for the output: ``logits`` where there is one, else the
        first of them.

    Raises:
        UnsupportedError: There is no floating tensor in the output.
    """
    output = call(model, probe)
    tensor = main_tensor(output)
    if tensor is None:
        raise UnsupportedError(
            f"the model's output on the probe is a {type(output).__name__} without a floating "
            "tensor; give probe= as a function of the model that returns one"
        )
    return tensor


def main_tensor(output: Any) -> Tensor | None:
    """The floating tensor that stands for an output, if there is one: its logits first."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    if isinstance(output, Mapping):
        values = [output.get("logits"), *output.values()]
    elif isinstance(output, _HasLogits):
        values = [output.logits]
    elif isinstance(output, tuple | list):
        values = list(output)
    else:
        return None
    for value in values:
        found = main_tensor(value)
        if found is not None:
            return found
    return None
