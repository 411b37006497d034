"""State rules: what each entry of an optimizer's state holds, by its class and key.

A shape does not say it: a (4,) beside a (4, 4) weight may be the means of its rows or of its
columns, and a buffer of the weight's own shape may hold gradients, their squares, updates or
weights, each of which grows in its own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from stagegraph.errors import UnsupportedError, did_you_mean

__all__ = [
    "StateUse",
    "fitting_shape",
    "partner",
    "register_state",
    "rules_for",
    "state_uses",
]

StateUse = Literal[
    "gradient",
    "square",
    "absolute",
    "weight",
    "update",
    "update_square",
    "size",
    "row",
    "column",
]
"""What a state tensor holds.

``gradient`` sums of gradients; ``square`` of their squares; ``absolute`` of their absolute values;
``weight`` of weights; ``update`` of gradients divided by their own size; ``update_square`` of the
squares of those; ``size`` a step size per entry, never zero; ``row`` and ``column`` the means of
squares over the last axis and over the last but one.
"""

_ADAM: dict[str, StateUse] = {
    "exp_avg": "gradient",
    "exp_avg_sq": "square",
    "max_exp_avg_sq": "square",
}

_RULES: dict[type[Optimizer], dict[str, StateUse]] = {
    torch.optim.SGD: {"momentum_buffer": "gradient"},
    torch.optim.Muon: {"momentum_buffer": "gradient"},
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
    torch.optim.NAdam: _ADAM,
    torch.optim.RAdam: _ADAM,
    torch.optim.SparseAdam: _ADAM,
    torch.optim.Adamax: {"exp_avg": "gradient", "exp_inf": "absolute"},
    torch.optim.Adagrad: {"sum": "square"},
    torch.optim.RMSprop: {
        "square_avg": "square",
        "grad_avg": "gradient",
        "momentum_buffer": "update",  # of gradients divided by their root mean square
    },
    torch.optim.Adadelta: {"square_avg": "square", "acc_delta": "update_square"},
    torch.optim.Rprop: {"prev": "gradient", "step_size": "size"},
    torch.optim.ASGD: {"ax": "weight"},
    torch.optim.Adafactor: {"row_var": "row", "col_var": "column", "variance": "square"},
}

_RULES_BY_NAME: dict[str, dict[str, StateUse]] = {
    "transformers.optimization.Adafactor": {
        "exp_avg": "update",  # its first moment is of updates, not of gradients
        "exp_avg_sq": "square",
        "exp_avg_sq_row": "row",
        "exp_avg_sq_col": "column",
    },
}
"""Optimizers of libraries that need not be there."""


def register_state(optimizer_class: type[Optimizer], uses: Mapping[str, StateUse]) -> None:
    """State what an optimizer keeps, so that it can go through a growth.

    What its base classes keep need not be said again; scalars (0-d tensors and plain numbers) are
    copied and need no rule.

    Args:
        optimizer_class: The optimizer's class.
        uses: Per key of its state: what the tensor holds.

    Raises:
        UnsupportedError: This is no optimizer class, or there is no such use.

    Example:
        >>> class Lion(torch.optim.Optimizer): ...
        >>> register_state(Lion, {"exp_avg": "gradient"})
    """
    if Optimizer not in getattr(optimizer_class, "__mro__", ()):
        raise UnsupportedError(
            f"register_state takes a class of torch optimizers, got {optimizer_class!r}"
        )
    known = get_args(StateUse)
    for key, use in uses.items():
        if use not in known:
            raise UnsupportedError(
                f"register_state: {key!r} of {optimizer_class.__name__} cannot be {use!r}; known "
                f"uses are {', '.join(known)}{did_you_mean(use, known)}"
            )
    _RULES[optimizer_class] = {**_RULES.get(optimizer_class, {}), **uses}


def state_uses(optimizer: Optimizer) -> dict[str, StateUse] | None:
    """What the state of an optimizer holds, by key; ``None`` if its class is not known."""
    found = [
        rules
        for kind in reversed(type(optimizer).__mro__)
        for rules in (
            _RULES_BY_NAME.get(f"{kind.__module__}.{kind.__qualname__}"),
            _RULES.get(kind),
        )
        if rules is not None
    ]
    if not found:
        return None
    uses: dict[str, StateUse] = {}
    for rules in found:
        uses |= rules
    return uses


def _is_scalar(value: Any) -> bool:
    """Whether an entry is one number (or none), for all of its parameter."""
    if isinstance(value, Tensor):
        return value.dim() == 0
    return value is None or isinstance(value, bool | int | float | str)


def fitting_shape(use: StateUse | None, num_axes: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a state must have beside a parameter.

    Args:
        use: What it holds.
        num_axes: How many axes it has; a factored one may keep the axis that it is the mean over.
        shape: The parameter's shape.
    """
    if use not in ("row", "column") or len(shape) < 2:
        return shape
    *lead, rows, columns = shape
    kept = num_axes == len(shape)
    if use == "row":
        return (*lead, rows, 1) if kept else (*lead, rows)
    return (*lead, 1, columns) if kept else (*lead, columns)


def rules_for(
    optimizer: Optimizer, entry: Mapping[str, Any], shape: tuple[int, ...]
) -> dict[str, StateUse]:
    """The rules of an optimizer, after a look that they cover an entry and its shapes.

    Raises:
        UnsupportedError: They do not.
    """
    uses, name = state_uses(optimizer), type(optimizer).__name__
    for key, value in entry.items():
        if uses is not None and (_is_scalar(value) or key in uses):
            continue
        what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise UnsupportedError(
            f"optimizer {name}: there is no rule how its state {key!r} ({what}, beside a parameter "
            f"of shape {shape}) grows; state it with register_state({name}, {{{key!r}: use}}), use "
            "being gradient, square, ..."
        )
    assert uses is not None
    for key, value in entry.items():
        if key not in uses or value is None:
            continue
        wanted = fitting_shape(uses[key], value.dim(), shape)
        if tuple(value.shape) != wanted:
            raise UnsupportedError(
                f"optimizer {name}: its state {key!r} has shape {tuple(value.shape)}; as "
                f"{uses[key]!r} of a parameter of shape {shape} it would have {wanted}"
            )
    return uses


def partner(entry: Mapping[str, Any], uses: Mapping[str, StateUse], key: str) -> Tensor:
    """The other half of a factored second moment.

    Raises:
        UnsupportedError: It is not there, or there are several.
    """
    wanted = "column" if uses[key] == "row" else "row"
    found = [value for other, value in entry.items() if uses.get(other) == wanted]
    if len(found) != 1:
        raise UnsupportedError(
            f"state {key!r} is {uses[key]!r} and needs one state that is {wanted!r} beside it, "
            f"found {len(found)}"
        )
    return found[0]  # type: ignore[no-any-return]
