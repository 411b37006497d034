"""Redrawing: make copies differ, by noise, or by drawing some of their hidden units anew."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stagegraph.errors import UnsupportedError

__all__ = ["add_noise", "drops", "redraw_units"]


def add_noise(module: nn.Module, share: float) -> None:
    """Add Gaussian noise to each weight, relative to the weights' own spread."""
    if not share:
        return
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point() and parameter.numel() > 1:
                parameter.add_(torch.randn_like(parameter), alpha=share * float(parameter.std()))


def drops(module: nn.Module) -> bool:
    """Whether it draws dropout masks: a copy draws others, and so differs in train mode."""
    return any(
        isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0  # noqa: SLF001 - their common type
        for part in module.modules()
    )


def redraw_units(module: nn.Module, share: float, *, path: str, place: str) -> int:
    """Draw some hidden units of an MLP anew (Drop-Upcycling, 2502.19261).

    A hidden unit is a row of each layer that writes the hidden space and a column of each that
    reads it; they are drawn from a normal distribution with the mean and spread of their matrix.

    Args:
        module: The MLP.
        share: Which share of its hidden units.
        path: What it is a copy of, for the message.
        place: Where it is written, for the message.

    Returns:
        How many units.

    Raises:
        UnsupportedError: It has no hidden space that can be told.
    """
    if not share:
        return 0
    matrices = [view for layer in module.modules() if (view := _out_in(layer)) is not None]
    hidden = matrices[-1].shape[1] if matrices else 0
    writers = [matrix for matrix in matrices if matrix.shape[0] == hidden]
    if len(matrices) < 2 or not writers:
        raise UnsupportedError(
            f"{place}: {path!r} has no hidden units that can be told from its layers, so that "
            "none can be drawn anew; write noise: instead of reinit:"
        )
    units = torch.randperm(hidden)[: round(share * hidden)].to(matrices[0].device)
    with torch.no_grad():
        for matrix in writers:
            matrix[units] = _alike(matrix, len(units), matrix.shape[1])
        for matrix in matrices:
            if matrix.shape[1] == hidden and all(matrix is not writer for writer in writers):
                matrix[:, units] = _alike(matrix, matrix.shape[0], len(units))
    return len(units)


def _out_in(layer: nn.Module) -> Tensor | None:
    """A linear layer's weight as (written, read), a view of it."""
    weight = vars(layer)["_parameters"].get("weight")
    if weight is None or weight.dim() != 2 or isinstance(layer, nn.Embedding):
        return None
    detached: Tensor = weight.detach()
    return detached.t() if type(layer).__name__ == "Conv1D" else detached


def _alike(matrix: Tensor, rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, dtype=matrix.dtype, device=matrix.device) * float(
        matrix.double().std()
    ) + float(matrix.double().mean())
