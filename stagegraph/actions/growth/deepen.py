"""Deepen: put copies of blocks into a stack, in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from stagegraph.actions.changes import Change, CountChange, Deepened, NewBlock
from stagegraph.actions.growth.counts import (
    Count,
    find_count,
    first_number,
    number,
    numbering,
    undeclared_counts,
)
from stagegraph.actions.growth.identity import (
    Call,
    Zeroing,
    apply_zeroing,
    declared_zeroing,
    find_zeroing,
    why_not,
)
from stagegraph.actions.growth.layout import Place, places
from stagegraph.actions.growth.operation import Committed, Planned, Prepared, Site
from stagegraph.actions.growth.stacks import (
    copy_block,
    find_stack,
    insert,
    left_out_hooks,
    own_parameters,
    remove,
)
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.optimizers import join_groups, leave_groups, rewrite_names, written_names
from stagegraph.actions.probes import Probe, run_probe
from stagegraph.actions.randomness import seed_all
from stagegraph.actions.undo import untouched
from stagegraph.errors import UnsupportedError
from stagegraph.schema.actions import Deepen

__all__ = ["DeepenPlan", "NewBlocks", "plan", "rebuild", "unwind"]


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
        numbers: The number of the lowest block under each name that blocks hold theirs by.
        left_alone: Attributes that seem to count them too and were not declared.
        added: How many parameters it adds.
    """

    place: str
    action: Deepen
    path: str
    before: int
    places: tuple[Place, ...]
    counts: tuple[Count, ...]
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
        )

    def prepare(self, site: Site, *, seed: int) -> NewBlocks:
        """Make the new blocks.

        Raises:
            UnsupportedError: A block cannot be copied, or does not become the identity.
        """
        return _prepare(site, self, seed)


@dataclass(frozen=True, slots=True)
class NewBlocks(Prepared):
    """The new blocks, not yet in the model.

    Attributes:
        plan: The plan.
        blocks: The new blocks by their place in the grown stack.
        templates: New parameter to the one it was copied from.
        zeroing: What was filled with zeros, by name in the block.
        shared: Names in the block of parameters that are shared with the rest of the model.
        left_out: Modules of the templates whose hooks were not copied.
    """

    plan: DeepenPlan
    blocks: Mapping[int, nn.Module]
    templates: Mapping[nn.Parameter, nn.Parameter]
    zeroing: Zeroing
    shared: tuple[str, ...]
    left_out: tuple[str, ...]

    def commit(self, site: Site, change: Change) -> Committed:
        """Put the new blocks in."""
        plan = self.plan
        _, stack = find_stack(site.model, plan.path, place=plan.place)
        insert(stack, self.blocks)
        for name, first in plan.numbers.items():
            number(list(stack), name, first)
        for count in plan.counts:
            count.grow(plan.places)
        join_groups(site.model, site.optimizers, self.templates)
        zeroed = ", ".join(name for name, _ in self.zeroing)
        return Committed(
            templates=self.templates,
            marks={},
            exact=plan.action.how == "identity",
            remedy=f"(zeroed: {zeroed}); declare what to zero with zero: [...], or use how: stack "
            "with an alpha ramp from 0",
            evidence=self._evidence(change),
        )

    def _evidence(self, change: Change) -> dict[str, Any]:
        plan, inserted = self.plan, change.as_json()["blocks"]
        return {
            "how": plan.action.how,
            "stack": plan.path,
            "blocks": {"before": plan.before, "after": plan.after},
            "inserted": inserted,
            "zeroed": [name for name, _ in self.zeroing],
            "counts": {c["path"]: [c["before"], c["after"]] for c in change.as_json()["counts"]},
            "left_alone": list(plan.left_alone),
            "renumbered": list(plan.numbers),
            "shared": list(self.shared),
            "hooks_left_out": list(self.left_out),
        }

    def follow(self, averaged: nn.Module, site: Site, change: Change) -> None:
        """Put copies of the new blocks into an averaged copy of the model."""
        assert isinstance(change, Deepened)
        rebuild(averaged, change, optimizers=(), lineage=site.lineage)
        with torch.no_grad():
            for at, block in self.blocks.items():
                copied = averaged.get_submodule(f"{self.plan.path}.{at}")
                for name in own_parameters(site.model, block):
                    copied.get_parameter(name).copy_(block.get_parameter(name))
                for name, buffer in block.named_buffers():
                    copied.get_buffer(name).copy_(buffer)


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
    new = places(before, _size_after(action, before, place), how=action.how, at=action.at)
    counts = tuple(find_count(model, at, size=before, place=place) for at in action.count)
    others = undeclared_counts(model, path, before, declared=counts)
    if others and not counts:
        raise UnsupportedError(
            f"{place}: {', '.join(map(repr, others))} seems to count the {before} blocks of "
            f"{path!r}; if it stayed, new blocks might never run, or be lost on reload: write "
            f"count: [{', '.join(others)}]"
        )
    per_block = [sum(p.numel() for p in own_parameters(model, block).values()) for block in blocks]
    return DeepenPlan(
        place=place,
        action=action,
        path=path,
        before=before,
        places=new,
        counts=counts,
        numbers=numbering(blocks, place=place),
        left_alone=tuple(others),
        added=sum(per_block[at.copy_of] for at in new),
    )


def _size_after(action: Deepen, before: int, place: str) -> int:
    try:
        return action.size_after(before)
    except ValueError as error:
        raise UnsupportedError(f"{place}: stack {action.stack!r}: {error}") from error


def _prepare(site: Site, plan: DeepenPlan, seed: int) -> NewBlocks:
    model = site.model
    _, stack = find_stack(model, plan.path, place=plan.place)
    old = list(stack)
    names = {place: f"{plan.path}.{place}" for place in range(len(old))}
    blocks: dict[int, nn.Module] = {}
    templates: dict[nn.Parameter, nn.Parameter] = {}
    shared: dict[str, None] = {}
    for at in plan.places:
        template = old[at.copy_of]
        new = blocks[at.at] = copy_block(model, template, path=names[at.copy_of])
        own = own_parameters(model, template)
        for name, parameter in template.named_parameters():
            if name in own:
                copied = new.get_parameter(name)
                copied.requires_grad_(site.trains(parameter))
                templates[copied] = parameter
            else:
                shared[name] = None
    zeroing: Zeroing = ()
    if plan.action.how == "identity":
        if site.probe is None:
            raise UnsupportedError(f"{plan.place}: an identity is proven on a batch; give probe=")
        with untouched(model):
            zeroing = _make_identities(model, plan, old, blocks, site.probe, seed)
    used = dict.fromkeys(at.copy_of for at in plan.places)
    return NewBlocks(
        plan=plan,
        blocks=blocks,
        templates=templates,
        zeroing=zeroing,
        shared=tuple(shared),
        left_out=tuple(
            f"{names[place]}.{name}" for place in used for name in left_out_hooks(old[place])
        ),
    )


def _make_identities(
    model: nn.Module,
    plan: DeepenPlan,
    old: Sequence[nn.Module],
    blocks: Mapping[int, nn.Module],
    probe: Probe,
    seed: int,
) -> Zeroing:
    """Zero what makes the new blocks the identity, and prove it on their templates' inputs."""
    used = dict.fromkeys(at.copy_of for at in plan.places)
    calls = _calls(model, {place: old[place] for place in used}, probe, seed)
    found: Zeroing | None = None
    proven: set[nn.Module] = set()
    for place in used:
        name = f"{plan.path}.{place}"
        if place not in calls:
            raise UnsupportedError(
                f"{plan.place}: block {name!r}, which would be copied, did not run on the probe"
            )
        template, call = old[place], calls[place]
        if found is None:
            found = (
                declared_zeroing(template, plan.action.zero, place=plan.place)
                if plan.action.zero
                else find_zeroing(model, template, call, place=plan.place)
            )
            _refuse_shared(model, template, found, plan)
        new = next(blocks[at.at] for at in plan.places if at.copy_of == place)
        proven.add(new)
        apply_zeroing(new, found)
        with untouched(new):  # itself, for another copy would cost as much as the block
            reason = why_not(new, call, found)
        if reason is not None:
            zeroed = ", ".join(name for name, _ in found)
            raise UnsupportedError(
                f"{plan.place}: a copy of block {name!r} with {zeroed} zeroed is no identity: "
                f"{reason}"
            )
    for block in blocks.values():
        if block not in proven:
            apply_zeroing(block, found or ())
    return found or ()


def _refuse_shared(model: nn.Module, block: nn.Module, zeroing: Zeroing, plan: DeepenPlan) -> None:
    own = own_parameters(model, block)
    shared = [name for name, _ in zeroing if name not in own]
    if shared:
        raise UnsupportedError(
            f"{plan.place}: {', '.join(shared)} of a block would be zeroed, but is shared with the "
            "rest of the model; name other weights in zero:"
        )


def _calls(
    model: nn.Module, blocks: Mapping[int, nn.Module], probe: Probe, seed: int
) -> dict[int, Call]:
    """What blocks are really called with, on the probe."""
    calls: dict[int, Call] = {}
    for place, block in blocks.items():

        def record(
            _: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], at: int = place
        ) -> None:
            if at not in calls:
                calls[at] = Call.of(args, kwargs)

        block.register_forward_pre_hook(record, with_kwargs=True)
    model.eval()
    seed_all(seed)
    with torch.no_grad():
        run_probe(model, probe)
    return calls


def rebuild(
    model: nn.Module, change: Deepened, *, optimizers: Sequence[Optimizer], lineage: Lineage
) -> None:
    """Make a recorded change again, for its structure; the weights are loaded afterwards.

    Args:
        model: The model as it was before the change.
        change: The change.
        optimizers: The model's optimizers.
        lineage: The changes before this one.

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
    old = list(stack)
    blocks: dict[int, nn.Module] = {}
    templates: dict[nn.Parameter, nn.Parameter] = {}
    for at in inserted:
        template = old[at.copy_of]
        new = blocks[at.at] = copy_block(model, template, path=f"{path}.{at.copy_of}")
        for name, parameter in own_parameters(model, template).items():
            templates[new.get_parameter(name)] = parameter
    numbers = numbering(old, place=place)
    insert(stack, blocks)
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
    leave_groups(optimizers, {id(parameter) for parameter in gone})
    rewrite_names(model, optimizers, names)


def _parameters_without(model: nn.Module, path: str, places: set[int]) -> list[nn.Parameter]:
    inside = tuple(f"{path}.{place}." for place in places)
    return [
        parameter
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if not name.startswith(inside)
    ]
