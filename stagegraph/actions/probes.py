"""The probe: one batch on which growth is measured, and how to run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from stagegraph.actions.contents import tensors_in
from stagegraph.actions.randomness import fixed_direction
from stagegraph.errors import UnsupportedError

__all__ = ["Batch", "Probe", "Within", "call", "main_tensor", "probe_loss", "run_probe"]

Batch = Tensor | Sequence[Any] | Mapping[str, Any] | Callable[[nn.Module], Any]
"""A batch (a tensor, ``model(*sequence)``, ``model(**mapping)``), or a function of the model."""


@dataclass(frozen=True, slots=True)
class Within:
    """A probe that the model is run on as its host does not run it in training.

    Attributes:
        batch: The batch.
        context: Of the model, or of a copy of it: what is so while it runs.
    """

    batch: Batch
    context: Callable[[nn.Module], AbstractContextManager[None]]


Probe = Batch | Within
"""What growth is measured on."""


@runtime_checkable
class _HasLogits(Protocol):
    logits: Any


@runtime_checkable
class _HasLoss(Protocol):
    loss: Any


def run_probe(model: nn.Module, probe: Probe) -> Tensor:
    """Run the model on its probe.

    Returns:
        The floating tensor that stands for the output: ``logits`` where there is one, else the
        first of them that is not the loss.

    Raises:
        UnsupportedError: There is no floating tensor in the output, or the batch lies elsewhere
            than the model.
    """
    return _output(call(model, probe))


def probe_loss(model: nn.Module, probe: Probe) -> Tensor:
    """Run the model on its probe for something to descend.

    Returns:
        The model's own loss where its output has one, else the output in one fixed direction. A
        scalar.

    Raises:
        UnsupportedError: There is no floating tensor in the output, or the batch lies elsewhere
            than the model.
    """
    answer = call(model, probe)
    loss = _own_loss(answer)
    if loss is not None:
        return loss
    output = _output(answer)
    return (output * fixed_direction(output)).sum()


def call(model: nn.Module, probe: Probe) -> Any:
    """Run the model on a batch; what it puts out.

    Raises:
        UnsupportedError: The batch lies elsewhere than the model.
    """
    if isinstance(probe, Within):
        with probe.context(model):
            return call(model, probe.batch)
    try:
        if isinstance(probe, Tensor):
            return model(probe)
        if isinstance(probe, Mapping):
            return model(**probe)
        if isinstance(probe, Sequence):
            return model(*probe)
    except (RuntimeError, NotImplementedError) as error:
        _refuse_elsewhere(model, probe, error)
        raise
    return probe(model)


def _refuse_elsewhere(model: nn.Module, probe: object, error: Exception) -> None:
    """Say it plainly where a failure is one of devices; many models move their inputs themselves.

    Raises:
        UnsupportedError: The model lies on one device, and the probe on another.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return
    there = {str(parameter.device) for parameter in model.parameters()}
    here = {str(tensor.device) for tensor in tensors_in(probe)}
    if len(there) == 1 and here - there:
        raise UnsupportedError(
            f"the probe is on {', '.join(sorted(here))} and the model on {there.pop()}; give "
            "probe= where the model is"
        ) from error


def _output(answer: Any) -> Tensor:
    tensor = main_tensor(answer)
    if tensor is None:
        raise UnsupportedError(
            f"the model's output on the probe is a {type(answer).__name__} without a floating "
            "tensor; give probe= as a function of the model that returns one"
        )
    return tensor


def main_tensor(output: Any) -> Tensor | None:
    """The floating tensor that stands for an output, if there is one: its logits first."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    if isinstance(output, Mapping):
        others = [value for key, value in output.items() if key != "loss"]
        values = [output.get("logits"), *others, output.get("loss")]
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


def _own_loss(answer: Any) -> Tensor | None:
    loss = answer.get("loss") if isinstance(answer, Mapping) else None
    if loss is None and isinstance(answer, _HasLoss):
        loss = answer.loss
    return loss if isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad else None
