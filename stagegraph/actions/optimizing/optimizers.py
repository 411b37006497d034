"""Optimizers: where new parameters join, and which optimizers can be steered at all."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from stagegraph.actions.optimizing.state_rules import fitting_shape, state_uses
from stagegraph.errors import UnsupportedError

__all__ = [
    "check_state_shapes",
    "foreign_parameters",
    "innermost",
    "join_groups",
    "leave_groups",
    "refuse_growth",
    "refuse_lr_factors",
    "rewrite_names",
    "state_shapes",
    "written_names",
]

_NOT_AN_UPDATE_FACTOR = {
    "Adafactor": "it scales its steps itself",
    "Rprop": "its step sizes adapt themselves",
    "ASGD": "it keeps step sizes of its own",
    "LBFGS": "its steps are searched along one line for all parameters",
}


def innermost(optimizer: object) -> Optimizer:
    """The optimizer that really steps; wrappers such as Accelerate's hold it as ``.optimizer``.

    Raises:
        UnsupportedError: This is no torch optimizer.
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    if not isinstance(optimizer, Optimizer):
        raise UnsupportedError(
            f"optimizer= takes a torch.optim.Optimizer or several, got {type(optimizer).__name__}"
        )
    return optimizer


def refuse_lr_factors(optimizer: Optimizer) -> str | None:
    """Why an LR factor would not be an update factor for this optimizer, if so."""
    for kind in type(optimizer).__mro__:
        if kind.__name__ in _NOT_AN_UPDATE_FACTOR:
            return (
                f"{type(optimizer).__name__} is no optimizer for learning-rate factors: "
                f"{_NOT_AN_UPDATE_FACTOR[kind.__name__]}, so that a factor on its learning rate is "
                "not a factor on its updates; use SGD, Adam(W), Muon or the like, or leave "
                "lr_factor, lr_ramp and settle out"
            )
    if any(group.get("relative_step") or group.get("lr") is None for group in _groups(optimizer)):
        return (
            f"{type(optimizer).__name__} sets its learning rate itself (relative_step); give it "
            "lr=... and relative_step=False"
        )
    return None


def refuse_growth(optimizer: Optimizer) -> str | None:
    """Why new parameters cannot join this optimizer, if so."""
    if any(kind.__name__ == "LBFGS" for kind in type(optimizer).__mro__):
        return (
            "LBFGS keeps one flat history over all parameters; a growth or a freeze would make it "
            "wrong without an error; use another optimizer"
        )
    return None


def _groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    return optimizer.param_groups


def foreign_parameters(model: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    """The parameters that an optimizer trains and that are not the model's, in order."""
    own = {id(parameter) for parameter in model.parameters()}
    return [p for group in _groups(optimizer) for p in group["params"] if id(p) not in own]


def join_groups(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    templates: Mapping[nn.Parameter, nn.Parameter],
) -> list[nn.Parameter]:
    """Put each new parameter into the group of its template, in ``model.parameters()`` order.

    A group that is not in that order gets the new parameter right after its template.

    Args:
        model: The grown model.
        optimizers: Its optimizers.
        templates: New parameter to the one it was copied from.

    Returns:
        The new parameters whose template no optimizer trains; nor are they.
    """
    order = {id(parameter): place for place, parameter in enumerate(model.parameters())}
    waiting = dict(templates)
    names = written_names(optimizers)
    for optimizer in optimizers:
        for group in _groups(optimizer):
            members = group["params"]
            here = {id(member) for member in members}
            joining = [new for new, template in waiting.items() if id(template) in here]
            if not joining:
                continue
            _insert(members, joining, templates, order)
            for new in joining:
                del waiting[new]
    rewrite_names(model, optimizers, names)
    return list(waiting)


def _insert(
    members: list[Any],
    joining: Sequence[nn.Parameter],
    templates: Mapping[nn.Parameter, nn.Parameter],
    order: Mapping[int, int],
) -> None:
    places = [order.get(id(member)) for member in members]
    known = [place for place in places if place is not None]
    if len(known) == len(places) and known == sorted(known):
        members.extend(joining)
        members.sort(key=lambda member: order[id(member)])
        return
    for new in reversed(joining):
        at = next(i for i, member in enumerate(members) if member is templates[new])
        members.insert(at + 1, new)


def leave_groups(optimizers: Sequence[Optimizer], gone: Container[int]) -> None:
    """Take parameters, by ``id``, out of all groups and state."""
    for optimizer in optimizers:
        for group in _groups(optimizer):
            keep = [index for index, p in enumerate(group["params"]) if id(p) not in gone]
            for key in ("params", "param_names"):
                if key in group:
                    group[key][:] = [group[key][index] for index in keep]
        for parameter in [p for p in optimizer.state if id(p) in gone]:
            del optimizer.state[parameter]


def written_names(optimizers: Sequence[Optimizer]) -> dict[int, str]:
    """The ``param_names`` of optimizers that keep them, by ``id`` of the parameter."""
    return {
        id(parameter): name
        for optimizer in optimizers
        for group in _groups(optimizer)
        for parameter, name in zip(group["params"], group.get("param_names", ()), strict=False)
    }


def rewrite_names(
    model: nn.Module, optimizers: Sequence[Optimizer], written: Mapping[int, str]
) -> None:
    """Make ``param_names`` say today's names; what is not the model's keeps its ``written`` one."""
    names = {**written, **{id(p): name for name, p in model.named_parameters()}}
    for optimizer in optimizers:
        for group in _groups(optimizer):
            if "param_names" in group:
                group["param_names"][:] = [names.get(id(p), "") for p in group["params"]]


def state_shapes(optimizers: Sequence[Optimizer]) -> dict[tuple[int, str], tuple[Any, ...]]:
    """Per parameter and key: the shapes of all non-scalar state, and of the parameter."""
    return {
        (id(parameter), key): (tuple(value.shape), tuple(parameter.shape))
        for optimizer in optimizers
        for parameter, entry in optimizer.state.items()
        if isinstance(entry, Mapping)
        for key, value in entry.items()
        if isinstance(value, Tensor) and value.dim()
    }


def check_state_shapes(
    optimizers: Sequence[Optimizer], before: Mapping[tuple[int, str], tuple[Any, ...]]
) -> None:
    """Refuse optimizer state that no longer fits its parameter.

    A fused step does not check: it would write beyond the end of the tensor. What a factored state
    (Adafactor's row and column means) must look like beside its parameter, its rule says.

    Raises:
        UnsupportedError: A state's shape is not what it must be, and not what it was before.
    """
    for optimizer in optimizers:
        uses = state_uses(optimizer) or {}
        for (parameter, key), (state, shape) in state_shapes([optimizer]).items():
            wanted = fitting_shape(uses.get(key), len(state), shape)
            if state != wanted and before.get((parameter, key)) != (state, shape):
                fits = "" if wanted == shape else f", beside which it must have {wanted}"
                raise UnsupportedError(
                    f"optimizer state {key!r} has shape {state}, its parameter {shape}{fits}"
                )
