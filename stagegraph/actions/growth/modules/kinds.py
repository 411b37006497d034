"""Modules: the new modules that a growth can attach, made from a few fields.

``adapter``, ``linear`` and ``mlp`` work on the last axis; ``copy`` is the host once more. Whatever
is made here adds nothing at first where its last layer is zero (:func:`silence`): that layer has a
gradient, and so the module learns. What else there is the user gives by name, as a builder.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from stagegraph.actions.growth.depth.stacks import copy_block
from stagegraph.actions.growth.modules.branches import attachments
from stagegraph.actions.growth.modules.experts import Experts
from stagegraph.errors import UnsupportedError, did_you_mean
from stagegraph.schema.actions import ATTACHABLE

__all__ = ["MLP", "Adapter", "Maker", "make", "place_like", "silence"]

Maker = Callable[[nn.Module], nn.Module]
"""Makes a module for a host; what it draws belongs in parameters or in persistent buffers."""

_ACTS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
_NORMS: dict[str, type[nn.Module]] = {
    "layer": nn.LayerNorm,
    "rms": nn.RMSNorm,
    "none": nn.Identity,
}


class Adapter(nn.Sequential):
    """A bottleneck: norm, down, activation, up (Houlsby et al., 1902.00751).

    Its residual connection is that it is added to what its host makes.
    """


class MLP(nn.Sequential):
    """A feed-forward network: norm, up, activation, down."""


def make(
    kind: str,
    fields: Mapping[str, Any],
    *,
    model: nn.Module,
    path: str,
    parts: Mapping[str, Any],
    place: str,
    moved: bool = True,
) -> nn.Module:
    """Make one module.

    Args:
        kind: One of ours, or a name among the parts.
        fields: What the kind takes; the widths among them.
        model: The model.
        path: Today's path of the host.
        parts: What the user gave by name.
        place: Where it is written, for the message.
        moved: Whether a module of ours goes to its host's device and type.

    Raises:
        UnsupportedError: There is no such part, or it makes no module.
    """
    host = model.get_submodule(path)
    match kind:
        case "adapter" | "mlp" | "linear":
            new = _of_ours(kind, fields)
            return place_like(new, host, model) if moved else new
        case "copy":
            copied = copy_block(model, host, path=path)
            for parameter in copied.parameters():
                if parameter.is_floating_point():
                    parameter.requires_grad_(True)
            return copied
    return _from_part(kind, host, parts, place)


def _of_ours(kind: str, fields: Mapping[str, Any]) -> nn.Module:
    read, written = fields["in_features"], fields["out_features"]
    match kind:
        case "adapter":
            return Adapter(_layers(fields, "bottleneck", "down", "up"))
        case "mlp":
            return MLP(_layers(fields, "hidden", "up", "down"))
    return nn.Linear(read, written, bias=fields.get("bias", True))


def _layers(
    fields: Mapping[str, Any], middle: str, first: str, last: str
) -> OrderedDict[str, nn.Module]:
    read, written, width = fields["in_features"], fields["out_features"], fields[middle]
    bias = fields.get("bias", True)
    return OrderedDict(
        norm=_NORMS[fields.get("norm", "none")](read),
        **{first: nn.Linear(read, width, bias=bias)},
        act=_ACTS[fields.get("act", "gelu")](),
        **{last: nn.Linear(width, written, bias=bias)},
    )


def place_like(module: nn.Module, host: nn.Module, model: nn.Module) -> nn.Module:
    """Put a module where its host is, with numbers of the host's type."""
    for parameter in (*host.parameters(), *model.parameters()):
        if parameter.is_floating_point():
            return module.to(device=parameter.device, dtype=parameter.dtype)
    return module


def _from_part(kind: str, host: nn.Module, parts: Mapping[str, Any], place: str) -> nn.Module:
    maker = parts.get(kind)
    if maker is None:
        raise UnsupportedError(
            f"{place}: there is no module {kind!r}; ours are {', '.join(ATTACHABLE)}, and yours "
            f"are given as parts={{{kind!r}: builder}}{did_you_mean(kind, [*ATTACHABLE, *parts])}"
        )
    if not callable(maker) or isinstance(maker, nn.Module):
        raise UnsupportedError(
            f"{place}: part {kind!r} is a {type(maker).__name__}; give a function of the host that "
            "returns a new module, as each host gets one of its own"
        )
    try:
        made = maker(host)
    except Exception as error:
        raise UnsupportedError(
            f"{place}: part {kind!r} failed on a {type(host).__name__}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, nn.Module):
        raise UnsupportedError(
            f"{place}: part {kind!r} returned a {type(made).__name__}, not an nn.Module"
        )
    first = next(host.parameters(), None)
    return made if first is None else made.to(device=first.device)


def silence(module: nn.Module) -> list[str]:
    """Fill a module's last linear layer with zeros, so that it begins by adding nothing.

    In a copy of a module that runs branches, what they add to that layer's output is silent too.

    Returns:
        The names of the layers; empty if there is no linear layer.
    """
    named = dict(module.named_modules())
    branches = [(at, hook.branch) for at, part in named.items() for hook in attachments(part)]
    inside = {id(part) for _, branch in branches for part in branch.modules()}
    linear = [at for at, part in named.items() if id(part) not in inside and _is_linear(part)]
    if not linear:
        return []
    last, names = linear[-1], [linear[-1]]
    with torch.no_grad():
        for parameter in named[last].parameters(recurse=False):
            parameter.zero_()
    paths = {id(part): at for at, part in named.items()}
    for host, branch in branches:
        if host in ("", last) or last.startswith(f"{host}."):
            speaking = branch.all_experts() if isinstance(branch, Experts) else [branch]
            names += [f"{paths[id(s)]}.{name}".rstrip(".") for s in speaking for name in silence(s)]
    return names


def _is_linear(layer: nn.Module) -> bool:
    weight = vars(layer)["_parameters"].get("weight")
    return weight is not None and weight.dim() >= 2 and not isinstance(layer, nn.Embedding)
