"""Deepen: put copies of blocks into a stack, in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from stagegraph.actions.changes import CountChange, Deepened, NewBlock
from stagegraph.actions.growth.citizen import class_notes
from stagegraph.actions.growth.depth.beside import Entries, Rows, as_long_beside, find_beside
from stagegraph.actions.growth.depth.counts import (
    Count,
    around,
    find_count,
    known_beside,
    numbering,
    undeclared_counts,
)
from stagegraph.actions.growth.depth.deepened import rebuild
from stagegraph.actions.growth.depth.layout import Place, nearest, places
from stagegraph.actions.growth.depth.newblocks import NewBlocks, prepare
from stagegraph.actions.growth.depth.stacks import Stack, find_stack, own_parameters
from stagegraph.actions.growth.depth.templates import copyable
from stagegraph.actions.growth.operation import Planned, Site
from stagegraph.actions.growth.transformers import config_counts
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.sharding.alike import why_not_alike
from stagegraph.errors import SelectorError, UnsupportedError, did_you_mean
from stagegraph.schema.actions import Deepen

__all__ = ["DeepenPlan", "plan"]


@dataclass(frozen=True, slots=True)
class DeepenPlan(Planned):
    """What a growth of a stack will do.

    Attributes:
        place: Where it is written.
        action: The growth.
        path: Today's path of the stack.
        before: How many blocks it has.
        places: The new blocks.
        counts: The attributes that count blocks.
        lists: The lists beside the stack that have an entry per block.
        rows: The parameters and buffers beside it that have a row per block.
        numbers: The number of the lowest block under each name that blocks hold theirs by.
        left_alone: What is as long as the stack, and stays.
        added: How many parameters it adds.
    """

    place: str
    action: Deepen
    path: str
    before: int
    places: tuple[Place, ...]
    counts: tuple[Count, ...]
    lists: tuple[Entries, ...]
    rows: tuple[Rows, ...]
    numbers: Mapping[str, int]
    left_alone: tuple[str, ...]
    added: int

    @property
    def cost(self) -> int:
        """How many parameters it adds."""
        return self.added

    @property
    def after(self) -> int:
        """How many blocks the stack will have."""
        return self.before + len(self.places)

    def change(self, lineage: Lineage, *, cohort: str, step: int) -> Deepened:
        """What it does to the structure, as data."""
        stable = lineage.stable(self.path)
        order = lineage.order(stable, self.before)
        return Deepened(
            cohort=cohort,
            step=step,
            stack=stable,
            before=self.before,
            blocks=tuple(
                NewBlock(label=lineage.next_label(k), at=at.at, copy_of=order[at.copy_of])
                for k, at in enumerate(self.places)
            ),
            counts=tuple(
                CountChange(count.path, count.size, count.size + len(self.places))
                for count in self.counts
            ),
            numbered=tuple(self.numbers),
            beside=tuple(lineage.stable(one.path) for one in self.lists),
            rows=tuple(lineage.stable(one.path) for one in self.rows),
        )

    def notes(self, site: Site) -> tuple[str, ...]:
        """Why the grown model could not be read back by its own class, if it could not."""
        change = self.change(site.lineage, cohort=self.place, step=0)
        return class_notes(
            site, lambda twin: rebuild(twin, change, optimizers=(), lineage=site.lineage)
        )

    def prepare(self, site: Site, *, seed: int) -> NewBlocks:
        """Make the new blocks.

        Raises:
            UnsupportedError: A block cannot be copied or begun anew, or does not become the
                identity.
        """
        return prepare(site, self, seed)


def plan(site: Site, action: Deepen, *, place: str) -> DeepenPlan:
    """What a growth would do to this model; nothing is changed.

    Raises:
        SelectorError: The stack, or something else that is named, is not there.
        UnsupportedError: It is there, but cannot grow so.
    """
    model = site.model
    path, stack = find_stack(model, action.stack, place=place)
    blocks = list(stack)
    before = len(blocks)
    new = _places(action, before, place)
    new = nearest(new, copyable(blocks))
    for name, block in {f"{path}.{at.copy_of}": blocks[at.copy_of] for at in new}.items():
        reason = why_not_alike(model, block)
        if reason is not None:
            raise UnsupportedError(
                f"{place}: block {name!r}, which would be copied, is sharded over ranks and no "
                f"copy of it can be: {reason}"
            )
    counts, lists, rows = _declared(model, action, path, stack, place)
    others = _others(model, action, path, stack, counts=counts, place=place)
    per_block: tuple[Entries | Rows, ...] = (*lists, *rows)
    told = {one.path for one in per_block}
    others = [other for other in others if other not in told]
    _refuse_unknown(model, action, path, place)
    left = others if counts else _left(action, path, others, size=before, place=place)
    own = [sum(p.numel() for p in own_parameters(model, block).values()) for block in blocks]
    beside = [_per_entry(one) for one in per_block]
    return DeepenPlan(
        place=place,
        action=action,
        path=path,
        before=before,
        places=new,
        counts=counts,
        lists=lists,
        rows=rows,
        numbers=numbering(blocks, place=place, leave=action.leave),
        left_alone=tuple(left),
        added=sum(own[at.copy_of] + sum(one[at.copy_of] for one in beside) for at in new),
    )


def _places(action: Deepen, before: int, place: str) -> tuple[Place, ...]:
    try:
        after = action.size_after(before)
        return places(before, after, how=action.how, at=action.at or "end")
    except ValueError as error:
        raise UnsupportedError(f"{place}: stack {action.stack!r}: {error}") from error


def _declared(
    model: nn.Module, action: Deepen, path: str, stack: Stack, place: str
) -> tuple[tuple[Count, ...], tuple[Entries, ...], tuple[Rows, ...]]:
    """What holds the number of blocks or something per block: as declared, and as known."""
    counts: list[Count] = []
    lists: list[Entries] = []
    rows: list[Rows] = []
    size = len(stack)
    for at in action.count:
        beside = find_beside(model, at, stack=stack, size=size, place=place)
        if isinstance(beside, Entries):
            lists.append(beside)
        elif isinstance(beside, Rows):
            rows.append(beside)
        else:
            counts.append(find_count(model, at, size=size, place=place))
    known = [
        count
        for count in config_counts(model, path, size, place=place)
        if not _matches(count.path, action.leave)
    ]
    unique = {count.identity: count for count in (*known, *counts)}
    return tuple(unique.values()), tuple(lists), tuple(rows)


def _others(
    model: nn.Module,
    action: Deepen,
    path: str,
    stack: Stack,
    *,
    counts: Sequence[Count],
    place: str,
) -> list[str]:
    """What is as long as the stack besides; what plainly has an entry per block is refused."""
    size = len(stack)
    long = as_long_beside(around(model, path), path, size)
    unsaid = [one for one in long if not _matches(one, (*action.leave, *action.count))]
    if unsaid:
        listed = ", ".join(unsaid)
        raise UnsupportedError(
            f"{place}: {listed} beside stack {path!r} is as long as it ({size}). If it has "
            f"something for each block, it must grow too: write count: [{listed}]; if it is so by "
            f"chance, write leave: [{listed}]"
        )
    return [*undeclared_counts(model, path, size, declared=counts), *long]


def _refuse_unknown(model: nn.Module, action: Deepen, path: str, place: str) -> None:
    known: list[str] = []
    if action.leave:
        blocks = list(find_stack(model, path, place=place)[1])
        known = [*known_beside(model, path), *numbering(blocks, place=place)]
    for glob in action.leave:
        if not any(fnmatchcase(name, glob) for name in known):
            raise SelectorError(
                f"{place}: leave {glob!r} matches nothing beside stack {path!r}"
                f"{did_you_mean(glob, known)}"
            )


def _left(
    action: Deepen, path: str, others: Sequence[str], *, size: int, place: str
) -> Sequence[str]:
    """What stays as it is, where no count is known: only what is declared so."""
    unsaid = [other for other in others if not _matches(other, action.leave)]
    if unsaid:
        raise UnsupportedError(
            f"{place}: {', '.join(map(repr, unsaid))} seems to count the {size} blocks of "
            f"{path!r}; if it stayed, new blocks might never run, or be lost on reload: write "
            f"count: [{', '.join(unsaid)}], or leave: [...] for what is so by chance"
        )
    return others


def _matches(path: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(path, glob) for glob in globs)


def _per_entry(beside: Entries | Rows) -> list[int]:
    """How many parameters each entry has."""
    if isinstance(beside, Rows):
        tensor = beside.tensor
        learned = isinstance(tensor, nn.Parameter)
        return [tensor[0].numel() if learned else 0] * len(tensor)
    owner = beside.owner
    if isinstance(owner, nn.ParameterList):
        return [parameter.numel() for parameter in owner.parameters()]
    return [sum(p.numel() for p in entry.parameters()) for entry in owner]
