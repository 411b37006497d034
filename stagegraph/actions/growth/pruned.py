"""Pruned: take modules out that a growth had put in, and put the very same ones back.

What goes is told as the growth that would put it in again (:class:`~.Pruned`); taking out is that
growth's way back. The modules, and what belongs to them beside the stack, are held on to, so that
a return to before the prune puts the same objects into the same places and groups.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from stagegraph.actions.changes import Attached, Deepened, Pruned
from stagegraph.actions.copying import duplicate
from stagegraph.actions.growth.depth import deepened
from stagegraph.actions.growth.depth.counts import find_count, first_number, number
from stagegraph.actions.growth.depth.layout import Place, grown_order
from stagegraph.actions.growth.depth.stacks import Stack, find_entries, find_stack, insert
from stagegraph.actions.growth.modules import attaching
from stagegraph.actions.growth.modules.branches import attach_branch, attachments, in_order
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.optimizing.optimizers import rewrite_names, written_names
from stagegraph.errors import SnapshotError

__all__ = ["rebuild", "take_out", "unwind"]

_Groups = tuple[tuple[tuple[Any, ...], ...], ...]
"""Per optimizer and group: its parameters in order."""


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Blocks that were taken out of a stack.

    Attributes:
        blocks: By the place that they had.
        entries: Per list beside the stack, by its stable id, what belonged to them there.
        counts: Per attribute that counts blocks, by path, what it held.
        groups: The optimizers' groups as they were.
    """

    blocks: Mapping[int, nn.Module]
    entries: Mapping[str, Mapping[int, Any]]
    counts: Mapping[str, Any]
    groups: _Groups


@dataclass(frozen=True, slots=True)
class _Branches:
    """Branches that were taken away from their hosts.

    Attributes:
        branches: As they were recorded.
        children: Per branch, the names of its owner's children in order.
        running: Per branch, the branches that its host ran, in order.
        groups: The optimizers' groups as they were.
    """

    branches: tuple[nn.Module, ...]
    children: tuple[tuple[str, ...], ...]
    running: tuple[tuple[nn.Module, ...], ...]
    groups: _Groups


def take_out(
    model: nn.Module, change: Pruned, *, optimizers: Sequence[Optimizer], lineage: Lineage
) -> None:
    """Take modules out; parameters that go leave their groups and state.

    Args:
        model: The model, or its averaged copy.
        change: What goes.
        optimizers: Its optimizers.
        lineage: The changes before this one.

    Raises:
        SelectorError: The model has not what is to go.
        UnsupportedError: It is there, but is not what it was.
    """
    taken = change.taken
    if isinstance(taken, Deepened):
        change.aside.keep(model, _kept_blocks(model, taken, optimizers, lineage))
        deepened.unwind(model, taken, optimizers=optimizers, lineage=lineage)
    else:
        change.aside.keep(model, _kept_branches(model, taken, optimizers, lineage))
        attaching.unwind(model, taken, optimizers=optimizers, lineage=lineage)


def rebuild(
    model: nn.Module,
    change: Pruned,
    *,
    optimizers: Sequence[Optimizer],
    lineage: Lineage,
    parts: Mapping[str, Any] | None = None,
) -> None:
    """Make a recorded prune again.

    Raises:
        SelectorError: The model is not what it was.
        UnsupportedError: The model is not what it was.
    """
    take_out(model, change, optimizers=optimizers, lineage=lineage)


def unwind(
    model: nn.Module, change: Pruned, *, optimizers: Sequence[Optimizer], lineage: Lineage
) -> None:
    """Put the same modules back where they were; contents are loaded afterwards.

    Raises:
        SnapshotError: They are not held any more.
    """
    kept = change.aside.of(model)
    if kept is None:
        kept = _copied(change, model)
    names = written_names(optimizers)
    if isinstance(kept, _Blocks):
        assert isinstance(change.taken, Deepened)
        back = _put_blocks_back(model, change.taken, kept, optimizers, lineage)
    else:
        assert isinstance(change.taken, Attached)
        back = _put_branches_back(model, change.taken, kept, lineage)
    _join(optimizers, kept.groups, {id(tensor) for tensor in back})
    rewrite_names(model, optimizers, names)


# Holding on


def _groups(optimizers: Sequence[Optimizer]) -> _Groups:
    return tuple(
        tuple(tuple(group["params"]) for group in optimizer.param_groups)
        for optimizer in optimizers
    )


def _kept_blocks(
    model: nn.Module, taken: Deepened, optimizers: Sequence[Optimizer], lineage: Lineage
) -> _Blocks:
    place = f"prune {', '.join(taken.modules)}"
    _, stack = find_stack(model, lineage.today(taken.stack), place=place)
    at = [block.at for block in taken.blocks]
    size = taken.before + len(at)
    lists, _ = deepened.beside(model, taken, stack, lineage, size=size, place=place)
    entries = {
        lineage.stable(one.path): find_entries(one.owner, path=one.path, place=place)
        for one in lists
    }
    counts = [find_count(model, count.path, size=None, place=place) for count in taken.counts]
    return _Blocks(
        blocks={index: stack[index] for index in at},
        entries={path: {i: held[i] for i in at} for path, held in entries.items()},
        counts={count.path: copy.copy(count.value) for count in counts},
        groups=_groups(optimizers),
    )


def _kept_branches(
    model: nn.Module, taken: Attached, optimizers: Sequence[Optimizer], lineage: Lineage
) -> _Branches:
    hosts = [model.get_submodule(lineage.today(one.host)) for one in taken.branches]
    owners = [
        model.get_submodule(lineage.today(one.owner) if one.owner else "") for one in taken.branches
    ]
    return _Branches(
        branches=tuple(
            owner.get_submodule(one.child)
            for owner, one in zip(owners, taken.branches, strict=True)
        ),
        children=tuple(tuple(owner._modules) for owner in owners),
        running=tuple(tuple(hook.branch for hook in attachments(host)) for host in hosts),
        groups=_groups(optimizers),
    )


def _copied(change: Pruned, model: nn.Module) -> _Blocks | _Branches:
    """Copies of what was taken out of another model of the same structure."""
    first = change.aside.first
    if first is None:
        raise SnapshotError(
            f"what was pruned at step {change.step} is not held any more, since no snapshot goes "
            "back behind it; make the model and the engine anew, and load this state into them"
        )
    original, kept = first
    memo = _counterparts(original, model)
    if isinstance(kept, _Branches):
        branches = {id(one): duplicate(one, memo) for one in kept.branches}
        running = tuple(
            tuple(branches.get(id(one), memo.get(id(one), one)) for one in order)
            for order in kept.running
        )
        return replace(kept, branches=tuple(branches.values()), running=running, groups=())
    assert isinstance(kept, _Blocks)
    return replace(
        kept,
        blocks={at: duplicate(block, memo) for at, block in kept.blocks.items()},
        entries={
            path: {at: _duplicated(one, memo) for at, one in held.items()}
            for path, held in kept.entries.items()
        },
        groups=(),
    )


def _duplicated(entry: Any, memo: dict[int, Any]) -> Any:
    if isinstance(entry, nn.Module):
        return duplicate(entry, memo)
    return copy.deepcopy(entry, memo)


def _counterparts(original: nn.Module, model: nn.Module) -> dict[int, Any]:
    """What stands in one model for the modules and tensors of another, by id."""
    found: dict[int, Any] = {}
    for named in ("named_modules", "named_parameters", "named_buffers"):
        there = dict(getattr(model, named)())
        found |= {id(one): there[name] for name, one in getattr(original, named)() if name in there}
    return found


# Putting back


def _put_blocks_back(
    model: nn.Module,
    taken: Deepened,
    kept: _Blocks,
    optimizers: Sequence[Optimizer],
    lineage: Lineage,
) -> list[Tensor]:
    place = f"return to before the prune of {', '.join(taken.modules)}"
    _, stack = find_stack(model, lineage.today(taken.stack), place=place)
    lists, rows = deepened.beside(model, taken, stack, lineage, size=taken.before, place=place)
    first = {name: first_number(list(stack), name) for name in taken.numbered}
    inserted = [Place(at, 0) for at in kept.blocks]
    _match_mode(stack, kept.blocks.values())
    insert(stack, kept.blocks)
    back: list[Tensor] = [p for block in kept.blocks.values() for p in block.parameters()]
    for one in lists:
        entries = kept.entries[lineage.stable(one.path)]
        modules = [entry for entry in entries.values() if isinstance(entry, nn.Module)]
        _match_mode(one.owner, modules)
        one.insert(dict(entries))
        back += [parameter for module in modules for parameter in module.parameters()]
        back += [entry for entry in entries.values() if isinstance(entry, nn.Parameter)]
    for row in rows:
        row.take(grown_order(taken.before, inserted), optimizers)
    for name in taken.numbered:
        number(list(stack), name, first[name])
    for recorded in taken.counts:
        count = find_count(model, recorded.path, size=None, place=place)
        if count.size == recorded.before:
            count.write(copy.copy(kept.counts[recorded.path]))
    return back


def _match_mode(around: Stack | nn.Module, modules: Collection[nn.Module]) -> None:
    for module in modules:
        if module.training != around.training:
            module.train(around.training)


def _put_branches_back(
    model: nn.Module, taken: Attached, kept: _Branches, lineage: Lineage
) -> list[Tensor]:
    for index, one in enumerate(taken.branches):
        host = model.get_submodule(lineage.today(one.host))
        owner = model.get_submodule(lineage.today(one.owner) if one.owner else "")
        _match_mode(host, [kept.branches[index]])
        attach_branch(host, owner, one.child, kept.branches[index], reads=taken.reads)
    for index, one in enumerate(taken.branches):
        owner = model.get_submodule(lineage.today(one.owner) if one.owner else "")
        held = dict(owner._modules)
        ordered = [name for name in kept.children[index] if name in held]
        later = [name for name in held if name not in ordered]
        owner._modules.clear()
        owner._modules.update({name: held[name] for name in [*ordered, *later]})
        in_order(model.get_submodule(lineage.today(one.host)), kept.running[index])
    return [parameter for branch in kept.branches for parameter in branch.parameters()]


def _join(optimizers: Sequence[Optimizer], groups: _Groups, back: Collection[int]) -> None:
    """Let parameters return to the places in the groups that they had."""
    for optimizer, before in zip(optimizers, groups, strict=False):
        for group, members in zip(optimizer.param_groups, before, strict=False):
            now = group["params"]
            here = set(map(id, now))
            returning = [one for one in members if id(one) in back and id(one) not in here]
            stayed = [one for one in members if id(one) not in back or id(one) in here]
            if [id(one) for one in stayed] == [id(one) for one in now]:
                now[:] = members
            else:  # somebody has changed the group since
                now.extend(returning)
