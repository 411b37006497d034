"""Shapes: what the usual modules say of themselves beside their tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

__all__ = ["stated_sizes"]

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


def stated_sizes(module: nn.Module, shapes: Shapes, grown: Shapes) -> dict[str, Any]:
    """Attributes of a module that follow from its tensors, as they must be after a growth.

    Args:
        module: The module.
        shapes: The shapes of its own tensors now, by name.
        grown: Their shapes afterwards.

    Returns:
        The attributes whose value changes, with the new value.
    """
    for kind, rule in _RULES:
        if isinstance(module, kind) if isinstance(kind, type) else type(module).__name__ == kind:
            stated = rule(module, shapes, grown)
            return {k: v for k, v in stated.items() if getattr(module, k, v) != v}
    return {}


def _linear(_module: nn.Module, _shapes: Shapes, grown: Shapes) -> dict[str, Any]:
    out, in_ = grown["weight"]
    return {"in_features": in_, "out_features": out}


def _conv1d(_module: nn.Module, _shapes: Shapes, grown: Shapes) -> dict[str, Any]:
    in_, out = grown["weight"]
    return {"nx": in_, "nf": out}


def _embedding(_module: nn.Module, _shapes: Shapes, grown: Shapes) -> dict[str, Any]:
    rows, width = grown["weight"]
    return {"num_embeddings": rows, "embedding_dim": width}


def _conv(module: nn.Module, shapes: Shapes, grown: Shapes) -> dict[str, Any]:
    assert isinstance(module, _ConvNd)
    out, inner = (1, 0) if isinstance(module, _ConvTransposeNd) else (0, 1)
    new = grown["weight"]
    written, read = new[out], new[inner]
    if isinstance(module, _ConvTransposeNd):
        # axes (in, out / groups): groups multiply what is written
        groups = _groups(module, shapes["weight"][inner], new[inner])
        return {"in_channels": new[inner], "out_channels": new[out] * groups, "groups": groups}
    groups = _groups(module, shapes["weight"][out], written)
    return {"in_channels": read * groups, "out_channels": written, "groups": groups}


def _groups(module: _ConvNd, before: int, after: int) -> int:
    """A depthwise convolution has a group per channel; any other keeps its groups."""
    depthwise = module.groups == before and module.groups > 1
    return after if depthwise else module.groups


def _normalized(module: nn.Module, _shapes: Shapes, grown: Shapes) -> dict[str, Any]:
    return {"normalized_shape": tuple(grown["weight"])} if "weight" in grown else {}


def _per_channel(_module: nn.Module, _shapes: Shapes, grown: Shapes) -> dict[str, Any]:
    first = grown.get("weight") or grown.get("running_mean")
    return {} if first is None else {"num_features": first[0]}


def _grouped(_module: nn.Module, _shapes: Shapes, grown: Shapes) -> dict[str, Any]:
    return {"num_channels": grown["weight"][0]} if "weight" in grown else {}


def _attention(_module: nn.Module, _shapes: Shapes, grown: Shapes) -> dict[str, Any]:
    width = grown["out_proj.weight"][0] if "out_proj.weight" in grown else None
    packed = grown.get("in_proj_weight")
    if packed is None or width is None:
        return {}
    return {"embed_dim": width, "kdim": packed[1], "vdim": packed[1]}


def _bilinear(_module: nn.Module, _shapes: Shapes, grown: Shapes) -> dict[str, Any]:
    out, one, two = grown["weight"]
    return {"in1_features": one, "in2_features": two, "out_features": out}


_RULES: tuple[tuple[type[nn.Module] | str, Callable[..., dict[str, Any]]], ...] = (
    (nn.Linear, _linear),
    ("Conv1D", _conv1d),
    (nn.Embedding, _embedding),
    (nn.EmbeddingBag, _embedding),
    (_ConvNd, _conv),
    (nn.LayerNorm, _normalized),
    (nn.RMSNorm, _normalized),
    (nn.GroupNorm, _grouped),
    (_NormBase, _per_channel),
    (nn.MultiheadAttention, _attention),
    (nn.Bilinear, _bilinear),
)
