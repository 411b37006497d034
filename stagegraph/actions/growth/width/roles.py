"""Roles: which axis of a module's tensor writes a space, and which reads one.

Known for torch's own modules and for those that transformers makes like them; for any other tensor
of several axes the layout says it. An entry per unit (a bias, a gain, a running mean) counts as
writing.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from stagegraph.actions.growth.width.maps import Role

__all__ = ["role_of"]

_OUT_IN: tuple[Role, ...] = ("out", "in")
_IN_OUT: tuple[Role, ...] = ("in", "out")

_WEIGHTS: Mapping[type[nn.Module], tuple[Role, ...]] = {
    nn.Linear: _OUT_IN,
    nn.Conv1d: _OUT_IN,
    nn.Conv2d: _OUT_IN,
    nn.Conv3d: _OUT_IN,
    nn.ConvTranspose1d: _IN_OUT,
    nn.ConvTranspose2d: _IN_OUT,
    nn.ConvTranspose3d: _IN_OUT,
    nn.Embedding: ("out", "out"),
    nn.EmbeddingBag: ("out", "out"),
    nn.Bilinear: ("out", "in", "in"),
    nn.MultiheadAttention: _OUT_IN,
}
"""Per kind of module: the roles of the first axes of its weights. The rows of an embedding are
looked up, not summed over: a grown vocabulary has an entry per unit."""

_BY_NAME: Mapping[str, tuple[Role, ...]] = {"Conv1D": _IN_OUT}
"""transformers' linear layer with its axes swapped."""


def role_of(module: nn.Module, name: str, dim: int, num_axes: int) -> Role | None:
    """What an axis of a module's tensor does; ``None`` if nobody knows.

    Args:
        module: The module that has the tensor.
        name: The tensor's name in the module.
        dim: The axis.
        num_axes: How many axes the tensor has.
    """
    if num_axes == 1:
        return "out"
    for kind, roles in _WEIGHTS.items():
        if isinstance(module, kind) and name.endswith("weight"):
            return roles[dim] if dim < len(roles) else None
    roles = _BY_NAME.get(type(module).__name__, ())
    return roles[dim] if name == "weight" and dim < len(roles) else None
