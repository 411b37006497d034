"""Widths: how many features a module reads and writes, told from its layers without running it."""

from __future__ import annotations

from torch import nn

__all__ = ["features_are_last", "read_width", "written_width"]


def read_width(module: nn.Module) -> int | None:
    """How many features its first layer reads; ``None`` if no layer tells."""
    for layer in _layers(module):
        known = _widths(layer)
        if known is not None and known[0] is not None:
            return known[0]
    return None


def written_width(module: nn.Module) -> int | None:
    """How many features its last layer writes; ``None`` if no layer tells."""
    for layer in reversed(_layers(module)):
        known = _widths(layer)
        if known is not None:
            return known[1]
    return None


def features_are_last(module: nn.Module) -> bool:
    """Whether nothing in it has its features elsewhere, as convolutions do."""
    return not any(
        isinstance(part, nn.modules.conv._ConvNd | nn.BatchNorm2d | nn.BatchNorm3d)  # noqa: SLF001 - their common type
        for part in module.modules()
    )


def _layers(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if any(True for _ in part.parameters(recurse=False))]


def _widths(layer: nn.Module) -> tuple[int | None, int] | None:
    """What one layer reads and writes; an embedding reads numbers of another kind."""
    match layer:
        case nn.Linear():
            return layer.in_features, layer.out_features
        case nn.modules.conv._ConvNd():  # noqa: SLF001 - their common type
            return layer.in_channels, layer.out_channels
        case nn.Embedding():
            return None, layer.embedding_dim
        case nn.LayerNorm() | nn.RMSNorm():
            return layer.normalized_shape[-1], layer.normalized_shape[-1]
    first = next(layer.parameters(recurse=False))
    if type(layer).__name__ == "Conv1D" and first.dim() == 2:
        return first.shape[0], first.shape[1]  # GPT-2's linear layer, the other way round
    if first.dim() == 1 and not list(layer.children()):
        return len(first), len(first)  # a norm of somebody's own
    return None
