"""Scales: the learning rate, eps and weight decay at which a grown tensor trains as the old one.

Where a space is split equally, each entry of a grown weight is a times an old one and each entry
of its gradient g times an old one: a = 1 / c_in and g = 1 / c_out, with c_in copies along the axes
that read a split space and c_out along those that write one. For every further step to be a times
the old step, what the optimizer does with its gradient decides:

==============================  ================  ==========  =======================
update                          lr                eps         weight decay
==============================  ================  ==========  =======================
SGD: linear in the gradient     a / g                         g / a
Adam and kin: no size           a                 g           g / a; decoupled: 1 / a
Muon: orthogonal, see below     √(a / g)          √(g / a)    1 / its lr's
==============================  ================  ==========  =======================

Muon's orthogonal factor of a gradient repeated c_out by c_in times is the old one repeated and
divided by √(c_out c_in); what Muon itself makes of the tensor's shape is taken out again. It holds
up to the bfloat16 that Muon computes in. Kept for good, these scales make the grown model repeat
the small one: the added capacity is never used until something else sets the copies apart (µP,
2602.10545).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from stagegraph.actions.growth.width.maps import MEAN, Binding, Part, mapped
from stagegraph.errors import UnsupportedError

__all__ = ["Scale", "scales_of"]


@dataclass(frozen=True, slots=True)
class Scale:
    """What one parameter's hyper-parameters are multiplied by.

    Attributes:
        lr: On the learning rate.
        eps: On eps, where the optimizer has one.
        weight_decay: On the weight decay, where it has one.
    """

    lr: float = 1.0
    eps: float = 1.0
    weight_decay: float = 1.0


Group = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Coefficients:
    """What each entry of a grown weight, and of its gradient, is of an old one."""

    weight: float
    gradient: float


def scales_of(
    optimizer: Optimizer, binding: Binding, *, times: float = 1.0, group: Group | None = None
) -> Scale:
    """The scales at which a widened parameter's steps are those of the old one.

    Args:
        optimizer: The optimizer that trains it.
        binding: How it was widened. Units from no old one count as the others; with such, the
            grown model goes its own way as soon as they learn.
        times: What the grown weight is multiplied by beside its map, as for
            :func:`stagegraph.actions.optimizing.optimizer_state.grown_state`.
        group: The parameter's group, where it is not as the optimizer's defaults.

    Raises:
        UnsupportedError: The copies are read with different weights, or some units are copied more
            often than others, so that each entry would need scales of its own; or this optimizer
            has no such scales.
    """
    law = next((_LAWS[kind] for kind in type(optimizer).__mro__ if kind in _LAWS), None)
    if law is None:
        raise UnsupportedError(
            f"{type(optimizer).__name__} has no scales at which a grown model trains as the small "
            f"one: {_reason(optimizer)}; those that have are "
            f"{', '.join(sorted(kind.__name__ for kind in _LAWS))}"
        )
    mapped_by = _coefficients(binding)
    coefficients = _Coefficients(mapped_by.weight * abs(times), mapped_by.gradient / abs(times))
    return law(coefficients, group or optimizer.defaults, binding)


def _linear(c: _Coefficients, _group: Group, _binding: Binding) -> Scale:
    return Scale(lr=c.weight / c.gradient, weight_decay=c.gradient / c.weight)


def _sizeless(c: _Coefficients, group: Group, _binding: Binding) -> Scale:
    decoupled = bool(group.get("decoupled_weight_decay"))
    return Scale(
        lr=c.weight,
        eps=c.gradient,
        weight_decay=1 / c.weight if decoupled else c.gradient / c.weight,
    )


def _orthogonal(c: _Coefficients, group: Group, binding: Binding) -> Scale:
    adjust = group.get("adjust_lr_fn")
    shapes = _adjusted(adjust, binding.shape) / _adjusted(adjust, binding.grown)
    lr = math.sqrt(c.weight / c.gradient) * shapes
    return Scale(lr=lr, eps=math.sqrt(c.gradient / c.weight), weight_decay=1 / lr)


def _adjusted(how: str | None, shape: tuple[int, ...]) -> float:
    """What Muon multiplies the learning rate of a matrix of this shape by."""
    rows, columns = shape
    if how == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / columns))


_LAWS: dict[type[Optimizer], Callable[[_Coefficients, Group, Binding], Scale]] = {
    torch.optim.SGD: _linear,
    torch.optim.Adam: _sizeless,
    torch.optim.AdamW: _sizeless,
    torch.optim.NAdam: _sizeless,
    torch.optim.Adamax: _sizeless,
    torch.optim.Adagrad: _sizeless,
    torch.optim.RMSprop: _sizeless,
    torch.optim.Muon: _orthogonal,
}

_REASONS: dict[type[Optimizer], str] = {
    torch.optim.RAdam: "its first steps are linear in the gradient and the later ones are not",
    torch.optim.Adadelta: "it adds one eps to squares of gradients and to squares of updates",
    torch.optim.Adafactor: "it scales its steps by the size of the whole tensor",
    torch.optim.Rprop: "its step sizes adapt themselves",
    torch.optim.ASGD: "it keeps step sizes of its own",
    torch.optim.LBFGS: "its steps are searched along one line for all parameters",
}


def _reason(optimizer: Optimizer) -> str:
    known = (_REASONS[kind] for kind in type(optimizer).__mro__ if kind in _REASONS)
    return next(known, "it is not known how its steps follow its gradients")


def _coefficients(binding: Binding) -> _Coefficients:
    weight = gradient = 1.0
    for axis in binding.axes:
        found = {pair for part in axis for pair in _pairs(part)}
        if len({tuple(round(number, 12) for number in pair) for pair in found}) != 1:
            raise UnsupportedError(
                "an axis is split unevenly, so that each of its entries would need scales of its "
                f"own ({_listed(found)}); use an equal split ('split' to a multiple of the old "
                "size), or leave the scales out"
            )
        ((w, g),) = list(found)[:1]
        weight, gradient = weight * w, gradient * g
    return _Coefficients(weight, gradient)


def _listed(pairs: set[tuple[float, float]]) -> str:
    weights, gradients = (sorted({pair[i] for pair in pairs}) for i in (0, 1))
    several = weights if len(weights) > 1 else gradients
    return ", ".join(f"1/{1 / share:.3g}" for share in several[:4])


def _pairs(part: Part) -> set[tuple[float, float]]:
    """Per entry with a history, its coefficient as a weight and as a gradient; each pair once."""
    if any(f.map is not None and bool((f.map.source == MEAN).any()) for f in part):
        raise UnsupportedError(
            "an axis has units that hold the mean of all others, and no scale keeps them so; grow "
            "the space to a multiple of its size, or leave the scales out"
        )
    bound = Binding(((part,),))
    ones = torch.ones(bound.shape, dtype=torch.float64)
    there = ~bound.marks("fresh").expand(bound.grown)
    weight, gradient = (mapped(ones, bound, use)[there] for use in ("weight", "gradient"))
    return set(zip(weight.tolist(), gradient.tolist(), strict=True))
