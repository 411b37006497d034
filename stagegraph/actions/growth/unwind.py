"""Unwind: take a growth back, for a return to a time before it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from stagegraph.actions.growth.counts import find_count, first_number, number
from stagegraph.actions.growth.stacks import find_stack, remove
from stagegraph.actions.lineage import Change, Lineage
from stagegraph.actions.optimizers import rewrite_names, written_names

__all__ = ["unwind"]


def unwind(model: nn.Module, optimizers: Sequence[Optimizer], lineage: Lineage) -> Change:
    """Take the newest change of a lineage back; the blocks that were there before stay the same.

    Args:
        model: The grown model.
        optimizers: Its optimizers; the blocks' parameters leave their groups and state.
        lineage: Its lineage, the change included.

    Returns:
        The change that was taken back.
    """
    change = lineage.changes[-1]
    place = f"return to before {change.cohort!r}"
    path, stack = find_stack(model, lineage.today(change.stack), place=place)
    at = [block.at for block in change.blocks]
    names = written_names(optimizers)
    kept = {id(parameter) for parameter in _parameters_without(model, path, set(at))}
    gone = [p for index in at for p in stack[index].parameters() if id(p) not in kept]
    first = {name: first_number(list(stack), name) for name in change.numbered}
    remove(stack, at)
    for name in change.numbered:
        number(list(stack), name, first[name])
    for recorded in change.counts:
        count = find_count(model, recorded.path, size=None, place=place)
        if count.size == recorded.after:
            count.shrink(at)
    _leave_groups(optimizers, {id(parameter) for parameter in gone})
    rewrite_names(model, optimizers, names)
    return change


def _parameters_without(model: nn.Module, path: str, places: set[int]) -> list[nn.Parameter]:
    inside = tuple(f"{path}.{place}." for place in places)
    return [
        parameter
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if not name.startswith(inside)
    ]


def _leave_groups(optimizers: Sequence[Optimizer], gone: set[int]) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            keep = [index for index, p in enumerate(group["params"]) if id(p) not in gone]
            for key in ("params", "param_names"):
                if key in group:
                    group[key][:] = [group[key][index] for index in keep]
        for parameter in [p for p in optimizer.state if id(p) in gone]:
            del optimizer.state[parameter]
