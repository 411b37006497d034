"""Listed experts: more experts for a mixture of the model's own, whose experts are a list.

The list gets copies of its experts at its end, the router copies of its rows; the router's tensors
stay the same parameters and become larger, their optimizer state with them. What the mixture keeps
beside them (how many experts there are, how many a token is sent to) is written where it is
declared. Such a model loads into its own class, with its grown config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stagegraph.actions.changes import Change, ListGrown, NewListed
from stagegraph.actions.growth.depth.counts import find_count
from stagegraph.actions.growth.depth.stacks import copy_block, insert, own_parameters, remove
from stagegraph.actions.growth.modules.redrawing import add_noise, drops
from stagegraph.actions.growth.operation import Committed, Planned, Prepared, Site
from stagegraph.actions.growth.width.maps import Binding, Factor, SpaceMap, mapped
from stagegraph.actions.growth.width.resize import reshape
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.optimizing.entries import State
from stagegraph.actions.optimizing.optimizer_state import grown_state
from stagegraph.actions.optimizing.optimizers import (
    join_groups,
    leave_groups,
    rewrite_names,
    written_names,
)
from stagegraph.actions.randomness import preserved_randomness, seed_all
from stagegraph.errors import UnsupportedError, did_you_mean
from stagegraph.schema.actions import AddExperts

__all__ = ["ListedPlan", "NewInLists", "plan", "rebuild", "unwind"]


@dataclass(frozen=True, slots=True)
class ListedPlan(Planned):
    """Which mixtures get which experts.

    Attributes:
        place: Where it is written.
        action: The growth.
        mixtures: What each gets, by today's names.
        added: How many parameters all of it has.
        exact: Whether the function is to stay.
    """

    place: str
    action: AddExperts
    mixtures: tuple[NewListed, ...]
    added: int
    exact: bool

    @property
    def cost(self) -> int:
        """How many parameters it adds."""
        return self.added

    def change(self, lineage: Lineage, *, cohort: str, step: int) -> ListGrown:
        """What it does to the structure, as data."""
        return ListGrown(cohort, step, tuple(one.under(lineage.stable) for one in self.mixtures))

    def prepare(self, site: Site, *, seed: int) -> NewInLists:
        """Make the copies.

        Raises:
            UnsupportedError: An expert cannot be copied, or optimizer state cannot grow.
        """
        with preserved_randomness():
            seed_all(seed)
            copies = [_copies(site.model, one) for one in self.mixtures]
            for experts in copies:
                for expert in experts.values():
                    add_noise(expert, self.action.noise)
        return NewInLists(self, copies, _states(site, self))


@dataclass(frozen=True, slots=True)
class NewInLists(Prepared):
    """New experts, not yet in their lists.

    Attributes:
        plan: The plan.
        copies: Per mixture, its new experts by their number.
        states: What the optimizers are to keep of the routers.
    """

    plan: ListedPlan
    copies: Sequence[Mapping[int, nn.Module]]
    states: Sequence[State]

    def commit(self, site: Site, change: Change) -> Committed:
        """Put the new experts in, and make the routers larger."""
        plan = self.plan
        templates: dict[nn.Parameter, nn.Parameter] = {}
        marks: dict[nn.Parameter, Tensor] = {}
        for one, copies in zip(plan.mixtures, self.copies, strict=True):
            templates |= _put(site.model, one, copies, site.optimizers)
            for parameter in _router(site.model, one).parameters():
                rows = torch.arange(len(parameter)) >= one.before
                marks[parameter] = rows.view(-1, *[1] * (parameter.dim() - 1))
        for state in self.states:
            state.put()
        join_groups(site.model, site.optimizers, templates)
        return Committed(
            templates=templates,
            marks=marks,
            exact=plan.exact,
            remedy="; the mixture may keep beside its experts how many there are (count:) or how "
            "many a token is sent to (active:), or weigh them by something else than a softmax",
            evidence={
                "mixtures": change.as_json()["mixtures"],
                "top_k": plan.action.top_k,
                "noise": plan.action.noise,
            },
        )

    def follow(self, averaged: nn.Module, site: Site, change: Change) -> None:
        """Put copies of the new experts into an averaged copy of the model."""
        for one, copies in zip(self.plan.mixtures, self.copies, strict=True):
            its = _copies(averaged, one)
            _put(averaged, one, its, ())
            with torch.no_grad():
                for at, expert in copies.items():
                    own = dict(expert.named_parameters()) | dict(expert.named_buffers())
                    mine = dict(its[at].named_parameters()) | dict(its[at].named_buffers())
                    for name, tensor in mine.items():
                        tensor.copy_(own[name])


def plan(site: Site, action: AddExperts, paths: Sequence[str], *, place: str) -> ListedPlan:
    """What more experts would do to these mixtures; nothing is changed.

    Raises:
        UnsupportedError: What is declared is not there, or is no list and no router.
    """
    assert action.experts is not None and action.router is not None
    mixtures, added = list[NewListed](), 0
    exact = action.top_k == "scale" and not action.noise
    for path in paths:
        moe = site.model.get_submodule(path)
        experts = _inside(moe, action.experts, path, nn.ModuleList, place)
        router = _inside(moe, action.router, path, nn.Linear, place)
        before = len(experts)
        if router.out_features != before:
            raise UnsupportedError(
                f"{place}: {path}.{action.router} writes {router.out_features} numbers, and there "
                f"are {before} experts in {path}.{action.experts}"
            )
        try:
            after = action.size_after(before)
        except ValueError as error:
            raise UnsupportedError(f"{place}: experts of {path!r}: {error}") from error
        mixtures.append(_planned(action, moe, path, before, after, place))
        for number in mixtures[-1].copy_of:
            copied = own_parameters(site.model, experts[number])
            added += sum(p.numel() for p in copied.values())
        added += (after - before) * sum(p[0].numel() for p in router.parameters())
        exact = exact and not any(drops(expert) for expert in experts)
    return ListedPlan(place, action, tuple(mixtures), added, exact)


def _planned(
    action: AddExperts, moe: nn.Module, path: str, before: int, after: int, place: str
) -> NewListed:
    written = [(name, before, after) for name in action.count]
    for name, _, _ in written:
        find_count(moe, name, size=None, place=place)
    if action.top_k == "scale":
        if action.active is None:
            raise UnsupportedError(
                f"{place}: with top_k: scale it must be known where {path!r} keeps how many "
                "experts a token is sent to; write active: (such as top_k), or top_k: keep"
            )
        if after % before:
            raise UnsupportedError(
                f"{place}: {path!r} would have {after} experts instead of {before}, and with "
                "top_k: scale each has as many copies as any other: grow by a whole factor, or "
                "write top_k: keep"
            )
        active = find_count(moe, action.active, size=None, place=place).size
        written.append((action.active, active, active * (after // before)))
    return NewListed(
        moe=path,
        experts=str(action.experts),
        router=str(action.router),
        before=before,
        copy_of=tuple(number % before for number in range(after - before)),
        written=tuple(written),
    )


def _inside(moe: nn.Module, name: str, path: str, kind: type[Any], place: str) -> Any:
    known = dict(moe.named_modules())
    found = known.get(name)
    if not isinstance(found, kind):
        what = "there is none" if found is None else f"it is a {type(found).__name__}"
        raise UnsupportedError(
            f"{place}: {path}.{name} is to be an nn.{kind.__name__}, and {what}"
            f"{did_you_mean(name, [key for key in known if key])}"
        )
    return found


def _list(model: nn.Module, one: NewListed) -> nn.ModuleList:
    found = model.get_submodule(f"{one.moe}.{one.experts}")
    assert isinstance(found, nn.ModuleList)
    return found


def _router(model: nn.Module, one: NewListed) -> nn.Linear:
    found = model.get_submodule(f"{one.moe}.{one.router}")
    assert isinstance(found, nn.Linear)
    return found


def _copies(model: nn.Module, one: NewListed) -> dict[int, nn.Module]:
    experts, where = _list(model, one), f"{one.moe}.{one.experts}"
    return {
        one.before + at: copy_block(model, experts[number], path=f"{where}.{number}")
        for at, number in enumerate(one.copy_of)
    }


def _states(site: Site, plan: ListedPlan) -> list[State]:
    """What the optimizers are to keep of the routers, whose rows are copied like any unit."""
    found: list[State] = []
    for one in plan.mixtures:
        for parameter in _router(site.model, one).parameters():
            for optimizer in site.optimizers:
                entry = grown_state(optimizer, parameter, _binding(one, parameter), policy="fill_v")
                if entry is not None:
                    found.append(State(optimizer, parameter, entry))
    return found


def _put(
    model: nn.Module,
    one: NewListed,
    copies: Mapping[int, nn.Module],
    optimizers: Sequence[Optimizer],
) -> dict[nn.Parameter, nn.Parameter]:
    """Put experts into a list; the new parameters with what they were copied from."""
    experts, router = _list(model, one), _router(model, one)
    templates: dict[nn.Parameter, nn.Parameter] = {}
    for at, expert in copies.items():
        source = experts[one.copy_of[at - one.before]]
        for name, parameter in own_parameters(model, source).items():
            copied = expert.get_parameter(name)
            copied.requires_grad_(parameter.requires_grad)
            templates[copied] = parameter
        expert.train(experts.training)
    insert(experts, copies)
    for parameter in router.parameters():
        grown = partial(mapped, binding=_binding(one, parameter), use="weight")
        reshape(parameter, optimizers, grown)
    _write(model, one, grown=True)
    return templates


def _binding(one: NewListed, parameter: Tensor) -> Binding:
    source = torch.tensor([*range(one.before), *one.copy_of])
    copies = torch.bincount(source, minlength=one.before).double()
    space = SpaceMap(
        before=one.before,
        source=source,
        write=torch.ones(len(source), dtype=torch.float64),
        read=1 / copies[source],
    )
    free = [((Factor(size),),) for size in parameter.shape[1:]]
    return Binding((((Factor(one.before, space, "out"),),), *free))


def _first(tensor: Tensor, *, rows: int) -> Tensor:
    return tensor[:rows].detach().clone()


def _write(model: nn.Module, one: NewListed, *, grown: bool) -> None:
    moe, router = model.get_submodule(one.moe), _router(model, one)
    router.out_features = len(router.weight)
    for name, before, after in one.written:
        count = find_count(moe, name, size=None, place=one.moe)
        setattr(count.owner, count.name, after if grown else before)


def rebuild(
    model: nn.Module,
    change: ListGrown,
    *,
    optimizers: Sequence[Optimizer],
    lineage: Lineage,
    parts: Mapping[str, Any] | None = None,
) -> None:
    """Make a recorded change again, for its structure; the weights are loaded afterwards.

    Raises:
        UnsupportedError: The model is not what it was.
    """
    templates: dict[nn.Parameter, nn.Parameter] = {}
    known = dict(model.named_modules())
    for recorded in change.mixtures:
        one = recorded.under(lineage.today)
        experts = known.get(f"{one.moe}.{one.experts}")
        if not isinstance(experts, nn.ModuleList) or len(experts) != one.before:
            raise UnsupportedError(
                f"lineage of {change.cohort!r}: {one.moe}.{one.experts} had {one.before} experts "
                "when it grew; give the model as it was when the run began"
            )
        templates |= _put(model, one, _copies(model, one), optimizers)
    join_groups(model, optimizers, templates)


def unwind(
    model: nn.Module, change: ListGrown, *, optimizers: Sequence[Optimizer], lineage: Lineage
) -> None:
    """Take the new experts out again, and the router's new rows; all else stays the same."""
    names = written_names(optimizers)
    before = {id(parameter) for parameter in model.parameters()}
    for recorded in reversed(change.mixtures):
        one = recorded.under(lineage.today)
        places = [one.before + at for at in range(len(one.copy_of))]
        remove(_list(model, one), places)
        for parameter in _router(model, one).parameters():
            reshape(parameter, optimizers, partial(_first, rows=one.before))
        _write(model, one, grown=False)
    leave_groups(optimizers, before - {id(parameter) for parameter in model.parameters()})
    rewrite_names(model, optimizers, names)
