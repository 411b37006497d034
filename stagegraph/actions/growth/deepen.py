"""Deepen: put copies of blocks into a stack, in place.

:func:`plan` says what would happen and touches nothing; :func:`prepare` makes the new blocks and
touches nothing but them; :func:`commit` puts them in. Only the last changes the model, and what it
changes is undone by reference if anything after it fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from stagegraph.actions.growth.counts import Count, find_count, renumber, undeclared_counts
from stagegraph.actions.growth.identity import (
    Call,
    Zeroing,
    apply_zeroing,
    declared_zeroing,
    find_zeroing,
    why_not,
)
from stagegraph.actions.growth.layout import Place, places
from stagegraph.actions.growth.stacks import (
    copy_block,
    find_stack,
    insert,
    left_out_hooks,
    own_parameters,
)
from stagegraph.actions.lineage import Change, CountChange, Lineage, NewBlock
from stagegraph.actions.optimizers import join_groups
from stagegraph.actions.probes import Probe, run_probe
from stagegraph.actions.randomness import seed_all
from stagegraph.actions.undo import untouched
from stagegraph.errors import UnsupportedError
from stagegraph.schema.actions import Deepen

__all__ = ["Plan", "Prepared", "commit", "costs", "plan", "prepare", "rebuild"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a growth will do.

    Attributes:
        place: Where it is written.
        action: The growth.
        path: Today's path of the stack.
        before: How many blocks it has.
        places: The new blocks.
        counts: The attributes that count blocks.
        left_alone: Attributes that seem to count them too and were not declared.
        cost: How many parameters it adds.
    """

    place: str
    action: Deepen
    path: str
    before: int
    places: tuple[Place, ...]
    counts: tuple[Count, ...]
    left_alone: tuple[str, ...]
    cost: int

    @property
    def after(self) -> int:
        """How many blocks the stack will have."""
        return self.before + len(self.places)


@dataclass(frozen=True, slots=True)
class Prepared:
    """The new blocks, not yet in the model.

    Attributes:
        plan: The plan.
        blocks: The new blocks by their place in the grown stack.
        templates: New parameter to the one it was copied from.
        zeroing: What was filled with zeros, by name in the block.
        shared: Names in the block of parameters that are shared with the rest of the model.
        left_out: Modules of the templates whose hooks were not copied.
    """

    plan: Plan
    blocks: Mapping[int, nn.Module]
    templates: Mapping[nn.Parameter, nn.Parameter]
    zeroing: Zeroing
    shared: tuple[str, ...]
    left_out: tuple[str, ...]


def plan(model: nn.Module, action: Deepen, *, place: str) -> Plan:
    """What a growth would do to this model; nothing is changed.

    Raises:
        SelectorError: The stack, or something else that is named, is not there.
        UnsupportedError: It is there, but cannot grow so.
    """
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
    return Plan(
        place=place,
        action=action,
        path=path,
        before=before,
        places=new,
        counts=counts,
        left_alone=tuple(others),
        cost=sum(per_block[at.copy_of] for at in new),
    )


def _size_after(action: Deepen, before: int, place: str) -> int:
    try:
        return action.size_after(before)
    except ValueError as error:
        raise UnsupportedError(f"{place}: stack {action.stack!r}: {error}") from error


def costs(model: nn.Module, actions: Sequence[Deepen], *, place: str) -> int:
    """How many parameters these growths would add, one after the other.

    Raises:
        SelectorError: A stack is not there.
        UnsupportedError: One cannot grow so.
    """
    total = 0
    grown: dict[str, list[int]] = {}
    for action in actions:
        path, stack = find_stack(model, action.stack, place=place)
        sizes = grown.get(path) or [
            sum(p.numel() for p in own_parameters(model, block).values()) for block in stack
        ]
        before = len(sizes)
        new = places(before, _size_after(action, before, place), how=action.how, at=action.at)
        added = [(at.at, sizes[at.copy_of]) for at in new]
        total += sum(size for _, size in added)
        grown[path] = list(sizes)
        for at, size in added:
            grown[path].insert(at, size)
    return total


def prepare(
    model: nn.Module,
    plan: Plan,
    *,
    probe: Probe,
    seed: int,
    trains: Callable[[nn.Parameter], bool],
) -> Prepared:
    """Make the new blocks; the model is left alone.

    Args:
        model: The model.
        plan: What to do.
        probe: A batch on which the identity is proven.
        seed: For the random numbers of that.
        trains: Whether a parameter would be trained if no activity froze it.

    Raises:
        UnsupportedError: A block cannot be copied, or does not become the identity.
    """
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
                copied.requires_grad_(trains(parameter))
                templates[copied] = parameter
            else:
                shared[name] = None
    zeroing: Zeroing = ()
    if plan.action.how == "identity":
        with untouched(model):
            zeroing = _make_identities(model, plan, old, blocks, probe, seed)
    used = dict.fromkeys(at.copy_of for at in plan.places)
    return Prepared(
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
    plan: Plan,
    old: Sequence[nn.Module],
    blocks: Mapping[int, nn.Module],
    probe: Probe,
    seed: int,
) -> Zeroing:
    """Zero what makes the new blocks the identity, and prove it on their templates' inputs."""
    used = dict.fromkeys(at.copy_of for at in plan.places)
    calls = _calls(model, {place: old[place] for place in used}, probe, seed)
    found: Zeroing | None = None
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
        trial = copy_block(model, template, path=name)
        apply_zeroing(trial, found)
        reason = why_not(trial, call, found)
        if reason is not None:
            zeroed = ", ".join(name for name, _ in found)
            raise UnsupportedError(
                f"{plan.place}: a copy of block {name!r} with {zeroed} zeroed is no identity: "
                f"{reason}"
            )
    for block in blocks.values():
        apply_zeroing(block, found or ())
    return found or ()


def _refuse_shared(model: nn.Module, block: nn.Module, zeroing: Zeroing, plan: Plan) -> None:
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


def commit(
    model: nn.Module,
    prepared: Prepared,
    *,
    optimizers: Sequence[Optimizer],
    lineage: Lineage,
    cohort: str,
    step: int,
) -> tuple[Change, list[nn.Parameter]]:
    """Put the new blocks in.

    Returns:
        The change for the lineage, and the new parameters that no optimizer trains because none
        trains their templates.
    """
    plan = prepared.plan
    _, stack = find_stack(model, plan.path, place=plan.place)
    stable = lineage.stable(plan.path)
    order = lineage.order(stable, plan.before)
    counted = [(count, count.size) for count in plan.counts]
    insert(stack, prepared.blocks)
    new = [at.at for at in plan.places]
    numbered = renumber(list(stack), new, place=plan.place)
    for count in plan.counts:
        count.grow(plan.places)
    untrained = join_groups(model, optimizers, prepared.templates)
    change = Change(
        stack=stable,
        before=plan.before,
        blocks=tuple(
            NewBlock(label=lineage.next_label(k), at=at.at, copy_of=order[at.copy_of])
            for k, at in enumerate(plan.places)
        ),
        counts=tuple(CountChange(count.path, size, count.size) for count, size in counted),
        numbered=tuple(numbered),
        cohort=cohort,
        step=step,
    )
    return change, untrained


def rebuild(
    model: nn.Module, change: Change, *, optimizers: Sequence[Optimizer], lineage: Lineage
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
    insert(stack, blocks)
    renumber(list(stack), [at.at for at in inserted], place=place)
    for count, recorded in zip(counts, change.counts, strict=True):
        if count.size == recorded.before:  # a config that was saved grown tells it already
            count.grow(inserted)
    join_groups(model, optimizers, templates)
