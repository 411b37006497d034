"""Deepened: make a recorded deepening again, for its structure, or take it back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from stagegraph.actions.changes import Deepened
from stagegraph.actions.growth.depth.beside import Entries, Rows, copied_entries, find_beside
from stagegraph.actions.growth.depth.counts import find_count, first_number, number
from stagegraph.actions.growth.depth.layout import Place, grown_order
from stagegraph.actions.growth.depth.stacks import (
    copy_block,
    find_entries,
    find_stack,
    insert,
    own_parameters,
    remove,
    remove_entries,
)
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.optimizing.optimizers import (
    join_groups,
    leave_groups,
    rewrite_names,
    written_names,
)
from stagegraph.actions.sharding.alike import shard_alike
from stagegraph.errors import SelectorError, UnsupportedError

__all__ = ["beside", "rebuild", "unwind"]


def rebuild(
    model: nn.Module,
    change: Deepened,
    *,
    optimizers: Sequence[Optimizer],
    lineage: Lineage,
    parts: Mapping[str, Any] | None = None,
) -> None:
    """Make a recorded change again, for its structure; the weights are loaded afterwards.

    Args:
        model: The model as it was before the change.
        change: The change.
        optimizers: The model's optimizers.
        lineage: The changes before this one.
        parts: What the user gave by name; none is needed.

    Raises:
        SelectorError: The model is not what it was: the stack is not there.
        UnsupportedError: It is there, but is not what it was.
    """
    place = f"lineage of {change.cohort!r}"
    path, stack = find_stack(model, lineage.today(change.stack), place=place)
    if len(stack) != change.before:
        raise UnsupportedError(
            f"{place}: stack {path!r} had {change.before} blocks when it grew, this model's has "
            f"{len(stack)}; give the model as it was when the run began"
        )
    order = lineage.order(change.stack, change.before)
    inserted = tuple(Place(block.at, order.index(block.copy_of)) for block in change.blocks)
    counts = [find_count(model, count.path, size=None, place=place) for count in change.counts]
    lists, rows = beside(model, change, stack, lineage, size=change.before, place=place)
    old = list(stack)
    blocks: dict[int, nn.Module] = {}
    templates: dict[nn.Parameter, nn.Parameter] = {}
    for at in inserted:
        template = old[at.copy_of]
        new = blocks[at.at] = copy_block(model, template, path=f"{path}.{at.copy_of}")
        shard_alike(model, new, template)
        for name, parameter in own_parameters(model, template).items():
            templates[new.get_parameter(name)] = parameter
    numbers = {name: first_number(old, name) for name in change.numbered}
    entries = [(one, *copied_entries(model, one, inserted)) for one in lists]
    insert(stack, blocks)
    for one, added, copies in entries:
        one.insert(added)
        templates |= copies
    for one_row in rows:
        one_row.take(grown_order(change.before, inserted), optimizers)
    for name, first in numbers.items():
        number(list(stack), name, first)
    for count, recorded in zip(counts, change.counts, strict=True):
        if count.size == recorded.before:  # a config that was saved grown tells it already
            count.grow(inserted)
    join_groups(model, optimizers, templates)


def unwind(
    model: nn.Module, change: Deepened, *, optimizers: Sequence[Optimizer], lineage: Lineage
) -> None:
    """Take the blocks out again; those that were there before stay the same."""
    place = f"return to before {change.cohort!r}"
    path, stack = find_stack(model, lineage.today(change.stack), place=place)
    at = [block.at for block in change.blocks]
    after = change.before + len(at)
    names = written_names(optimizers)
    lists, rows = beside(model, change, stack, lineage, size=after, place=place)
    gone = _gone(model, {path: stack} | {one.path: one.owner for one in lists}, set(at))
    first = {name: first_number(list(stack), name) for name in change.numbered}
    remove(stack, at)
    for one in lists:
        remove_entries(one.owner, at)
    for one_row in rows:
        one_row.take([index for index in range(after) if index not in set(at)], optimizers)
    for name in change.numbered:
        number(list(stack), name, first[name])
    for recorded in change.counts:
        count = find_count(model, recorded.path, size=None, place=place)
        if count.size == recorded.after:
            count.shrink(at)
    leave_groups(optimizers, gone)
    rewrite_names(model, optimizers, names)


def beside(
    model: nn.Module,
    change: Deepened,
    stack: nn.Module,
    lineage: Lineage,
    *,
    size: int,
    place: str,
) -> tuple[list[Entries], list[Rows]]:
    """What stands beside a stack and has an entry, or a row, per block.

    Raises:
        SelectorError: Something of it is not there.
        UnsupportedError: It has not as many entries as the stack has blocks.
    """
    lists: list[Entries] = []
    rows: list[Rows] = []
    for stable in (*change.beside, *change.rows):
        path = lineage.today(stable)
        found = find_beside(model, path, stack=stack, size=size, place=place)
        if isinstance(found, Entries):
            lists.append(found)
        elif isinstance(found, Rows):
            rows.append(found)
        else:
            raise SelectorError(f"{place}: there is no list and no parameter {path!r} in the model")
    return lists, rows


def _gone(model: nn.Module, lists: dict[str, nn.Module], at: Collection[int]) -> set[int]:
    """The parameters, by id, that are nowhere else than in the entries that go."""
    inside = tuple(f"{path}.{place}" for path in lists for place in at)
    kept = {
        id(parameter)
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if name not in inside and not name.startswith(tuple(f"{one}." for one in inside))
    }
    return {id(one) for path, owner in lists.items() for one in _held(owner, path, at)} - kept


def _held(owner: nn.Module, path: str, at: Collection[int]) -> list[Tensor]:
    found: list[Tensor] = []
    for place, entry in enumerate(find_entries(owner, path=path, place=path)):
        if place in at:
            found += list(entry.parameters()) if isinstance(entry, nn.Module) else [entry]
    return found
