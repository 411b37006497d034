"""Regrown states: the optimizers' state of parameters that take over other contents in place.

State follows content: what a content went through, by the maps of its spaces or into a corner, its
moments go through too; and where a block takes over the content of another one, it takes over that
one's state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stagegraph.actions.changes import Axes
from stagegraph.actions.growth.inherit.fits import Fit
from stagegraph.actions.growth.width.maps import NEW, Binding, Factor, SpaceMap
from stagegraph.actions.optimizing.entries import State
from stagegraph.actions.optimizing.optimizer_state import grown_state
from stagegraph.errors import UnsupportedError

__all__ = ["RegrownStates", "corner", "regrown_states"]


@dataclass(slots=True)
class RegrownStates:
    """What becomes of the optimizers' state.

    Attributes:
        entries: The entries that are to be.
        reset: Per parameter whose state begins anew by its name: the optimizer and the parameter.
        why: Why it does, by the same names.
    """

    entries: list[State] = field(default_factory=list)
    reset: dict[str, tuple[Optimizer, nn.Parameter]] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)

    def put(self) -> None:
        """Put the entries into the optimizers."""
        for state in self.entries:
            state.put()
        for optimizer, parameter in self.reset.values():
            optimizer.state.pop(parameter, None)

    def as_json(self) -> dict[str, object]:
        """For the certificate."""
        return {"new": "fill_v", "grown": len(self.entries), "reset": dict(self.why)}


def regrown_states(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    fits: Sequence[Fit],
    new: Mapping[str, Tensor],
) -> RegrownStates:
    """What becomes of the state of a model's own parameters; nothing is changed.

    Args:
        model: The model, as it still is.
        optimizers: Its optimizers.
        fits: What becomes of each tensor of the larger one.
        new: The contents that they will have, by name.
    """
    own = dict(model.named_parameters(remove_duplicate=False))
    there = {name: fit for fit in fits for name in fit.names}
    found = RegrownStates()
    for name, parameter in model.named_parameters():
        fit = there.get(name)
        origin = None if fit is None else own.get(fit.origin or "")
        for optimizer in optimizers:
            if not any(parameter is p for g in optimizer.param_groups for p in g["params"]):
                continue
            if fit is None or origin is None:
                if optimizer.state.get(parameter):
                    found.reset[name] = (optimizer, parameter)
                    found.why[name] = "it has another content"
            elif origin is not parameter or fit.status != "copied":
                _follow(found, optimizer, name, parameter, origin, fit, new[name])
    return found


def _follow(
    found: RegrownStates,
    optimizer: Optimizer,
    name: str,
    parameter: nn.Parameter,
    origin: nn.Parameter,
    fit: Fit,
    weight: Tensor,
) -> None:
    try:
        entry = grown_state(
            optimizer,
            origin,
            _binding(fit, origin),
            policy="fill_v",
            times=1.0 if fit.growth is None else fit.growth.factor,
            weight=weight,
        )
    except UnsupportedError as error:
        found.reset[name], found.why[name] = (optimizer, parameter), str(error)
        return
    if entry is not None:
        found.entries.append(State(optimizer, parameter, entry))
    elif optimizer.state.get(parameter):
        found.reset[name] = (optimizer, parameter)
        found.why[name] = f"{fit.origin}, whose content it has, has none"


def _binding(fit: Fit, origin: Tensor) -> Binding:
    if fit.growth is not None:
        return fit.growth.binding
    if fit.axes is not None:
        return corner(fit.axes)
    return Binding(tuple(((Factor(size),),) for size in origin.shape))


def corner(axes: Axes) -> Binding:
    """The binding of a tensor that goes into a corner: its units stay, and the others are new."""
    return Binding(
        tuple(
            tuple(tuple(_factor(before, after) for before, after in part) for part in axis)
            for axis in axes
        )
    )


def _factor(before: int, after: int) -> Factor:
    if before == after:
        return Factor(before)
    source = torch.full((after,), NEW)
    source[:before] = torch.arange(before)
    kept = (source != NEW).double()
    return Factor(before, SpaceMap(before, source, write=kept, read=kept))
