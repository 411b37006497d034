"""Norms: what a norm does to the space that it works on, so that a growth can allow for it.

LayerNorm and RMSNorm look at all units of a space at once: n old units among N grown ones have n/N
of the mean square, so that a gain times √(n/N) and an eps times n/N give the old units what they
had. (2308.06103 for RMSNorm; LEMON, 2310.07999, for LayerNorm.) BatchNorm and InstanceNorm look at
each unit by itself. GroupNorm looks at groups of neighbours.

torch's own norms are known by their class. A norm of another class (there is one in every language
model) is known by what it does: it is run on a few numbers and compared with the formula, so that
also a gain of 1 + weight is recognised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from stagegraph.actions.undo import untouched

__all__ = ["EPS", "Norm", "norm_of"]

Kind = Literal["layer", "rms", "unit", "group"]

EPS = (
    "eps",
    "variance_epsilon",
    "epsilon",
    "norm_eps",
    "norm_epsilon",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "rms_norm_eps",
)
"""What norms, and configs, call the number that is added to the mean square."""


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm over the units of a space.

    Attributes:
        kind: ``layer`` subtracts the mean of all units, ``rms`` does not, ``unit`` looks at each by
            itself, ``group`` at groups of them.
        gain: The name of its gain in the module, if it has one.
        bias: The name of its bias, if it has one.
        eps: The attribute that holds its eps, if there is one.
        offset: What its gain adds to the weight: 1 where it is 1 + weight.
    """

    kind: Kind
    gain: str | None
    bias: str | None
    eps: str | None
    offset: float = 0.0

    @property
    def sees_all(self) -> bool:
        """Whether it looks at all units at once."""
        return self.kind in ("layer", "rms")


def norm_of(module: nn.Module) -> Norm | None:
    """What kind of norm a module is; ``None`` if it is none."""
    gain = "weight" if module._parameters.get("weight") is not None else None
    bias = "bias" if module._parameters.get("bias") is not None else None
    eps = next((name for name in EPS if isinstance(getattr(module, name, None), float)), None)
    known: Mapping[type[nn.Module], Kind] = {
        nn.LayerNorm: "layer",
        nn.RMSNorm: "rms",
        nn.GroupNorm: "group",
        _NormBase: "unit",
    }
    for cls, kind in known.items():
        if isinstance(module, cls):
            return Norm(kind, gain, bias, eps)
    if any(module.children()) or gain is None:
        return None
    return _by_trial(module, bias, eps)


def _by_trial(module: nn.Module, bias: str | None, eps: str | None) -> Norm | None:
    weight = module.get_parameter("weight")
    if weight.dim() != 1 or len(module._parameters) > (1 if bias is None else 2):
        return None
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, len(weight), generator=generator).to(weight.device, weight.dtype) + 0.5
    with untouched(module), torch.no_grad():
        try:
            y = module(x)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
            return None  # it takes something else than a stream: no norm that we know
    if not isinstance(y, Tensor) or y.shape != x.shape:
        return None
    value = float(getattr(module, eps)) if eps is not None else 0.0
    shift = 0.0 if bias is None else module.get_parameter(bias).detach().double()
    for kind in ("rms", "layer"):
        for offset in (0.0, 1.0):
            formula = (weight.detach().double() + offset) * _normed(x.double(), kind, value)
            if torch.allclose(y.double(), formula + shift, rtol=_tolerance(y), atol=_tolerance(y)):
                return Norm(kind, "weight", bias, eps, offset)
    return None


def _tolerance(y: Tensor) -> float:
    eps = torch.finfo(y.dtype).eps
    return 64 * max(eps, torch.finfo(torch.float32).eps)  # many compute in float32 inside


def _normed(x: Tensor, kind: str, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True) if kind == "layer" else x
    return centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()
