"""Add experts: give mixtures of experts copies of their experts, with copies of the router's rows.

With E experts becoming m·E and k becoming m·k, each expert's weight is divided among it and its
copies, and nothing changes (2510.08008). With k kept (2604.19835) copies crowd others out; but the
new experts have weights of their own, which alpha multiplies, so that at alpha 0 no token is sent
to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stagegraph.actions.changes import Change, ExpertsAdded, NewExperts
from stagegraph.actions.growth.depth.stacks import copy_block, own_parameters
from stagegraph.actions.growth.modules.branches import attachments, find_hosts
from stagegraph.actions.growth.modules.experts import Entrants, Experts
from stagegraph.actions.growth.modules.listed_experts import ListedPlan
from stagegraph.actions.growth.modules.listed_experts import plan as plan_listed
from stagegraph.actions.growth.modules.neighbours import Neighbours
from stagegraph.actions.growth.modules.redrawing import add_noise, drops
from stagegraph.actions.growth.operation import Committed, Planned, Prepared, Site
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.optimizing.optimizers import (
    join_groups,
    leave_groups,
    rewrite_names,
    written_names,
)
from stagegraph.actions.randomness import preserved_randomness, seed_all
from stagegraph.errors import UnsupportedError
from stagegraph.schema.actions import AddExperts

__all__ = ["AddExpertsPlan", "NewEntrants", "plan", "rebuild", "unwind"]


@dataclass(frozen=True, slots=True)
class AddExpertsPlan(Planned):
    """Which mixtures get which experts.

    Attributes:
        place: Where it is written.
        action: The growth.
        mixtures: What each mixture gets, by today's names.
        added: How many parameters all of it has.
        exact: Whether the function is to stay.
    """

    place: str
    action: AddExperts
    mixtures: tuple[NewExperts, ...]
    added: int
    exact: bool

    @property
    def cost(self) -> int:
        """How many parameters it adds."""
        return self.added

    def change(self, lineage: Lineage, *, cohort: str, step: int) -> ExpertsAdded:
        """What it does to the structure, as data."""
        stable = tuple(
            NewExperts(lineage.stable(one.moe), one.label, one.copy_of, one.top_k)
            for one in self.mixtures
        )
        return ExpertsAdded(cohort, step, stable)

    def prepare(self, site: Site, *, seed: int) -> NewEntrants:
        """Make the copies."""
        entrants: list[Entrants] = []
        with preserved_randomness():
            seed_all(seed)
            for one in self.mixtures:
                new = _entrants(site.model, one)
                _fill(site.model, one, new)
                for expert in new.experts.values():
                    add_noise(expert, self.action.noise)
                entrants.append(new)
        return NewEntrants(self, entrants)


@dataclass(frozen=True, slots=True)
class NewEntrants(Prepared):
    """New experts, not yet in their mixtures.

    Attributes:
        plan: The plan.
        entrants: What each mixture gets.
    """

    plan: AddExpertsPlan
    entrants: Sequence[Entrants]

    def commit(self, site: Site, change: Change) -> Committed:
        """Put the new experts in."""
        plan = self.plan
        templates = _put(site.model, site.optimizers, plan.mixtures, self.entrants)
        return Committed(
            templates=templates,
            marks={},
            exact=plan.exact,
            remedy="",
            evidence={
                "mixtures": change.as_json()["mixtures"],
                "noise": plan.action.noise,
                "top_k": plan.action.top_k,
                "citizen": False,
                "not_a_citizen": "mixtures that upcycle made are not in the classes of their hosts",
            },
        )

    def follow(self, averaged: nn.Module, site: Site, change: Change) -> None:
        """Put copies of the new experts into an averaged copy of the model."""
        copies = [_entrants(averaged, one) for one in self.plan.mixtures]
        _put(averaged, (), self.plan.mixtures, copies)
        with torch.no_grad():
            for copied, new in zip(copies, self.entrants, strict=True):
                _copy_values(copied, new)


def plan(site: Site, action: AddExperts, *, place: str) -> AddExpertsPlan | ListedPlan:
    """What more experts would do to this model; nothing is changed.

    Raises:
        SelectorError: A pattern matches no module.
        UnsupportedError: What is there is no mixture that can be given more so.
    """
    paths = find_hosts(site.model, action.moe, place=place, what="moe")
    if action.experts is not None:
        return plan_listed(site, action, paths, place=place)
    mixtures, added, exact = list[NewExperts](), 0, action.top_k == "scale" and not action.noise
    for path in paths:
        moe = _mixture(site.model, path, place)
        before = moe.num_experts
        try:
            after = action.size_after(before)
        except ValueError as error:
            raise UnsupportedError(f"{place}: experts of {path!r}: {error}") from error
        copy_of = tuple(number % before for number in range(after - before))
        top_k = (moe.top_k, _top_k(action, moe.top_k, before, after, f"{place}: {path!r}"))
        mixtures.append(NewExperts(path, str(len(moe.entrants) + 1), copy_of, top_k))
        expert = moe.all_experts()[0]
        each = sum(p.numel() for p in own_parameters(site.model, expert).values())
        added += len(copy_of) * (each + moe.router.in_features)
        exact = exact and not drops(expert)
    return AddExpertsPlan(place, action, tuple(mixtures), added, exact)


def _mixture(model: nn.Module, path: str, place: str) -> Experts:
    moe = model.get_submodule(path)
    if isinstance(moe, Experts):
        return moe
    packed = [n for n, p in moe.named_parameters() if p.dim() == 3]
    if packed:
        raise UnsupportedError(
            f"{place}: {path!r} keeps its experts packed in one tensor ({packed[0]}); declare the "
            "experts as a space, and widen that"
        )
    known = [name for name, module in model.named_modules() if isinstance(module, Experts)]
    raise UnsupportedError(
        f"{place}: {path!r} is a {type(moe).__name__}, not a mixture that upcycle made "
        f"(there is {', '.join(map(repr, known)) or 'none'}); for one of the model's own, say "
        "where its list of experts and its router are: experts: and router:"
    )


def _top_k(action: AddExperts, top_k: int, before: int, after: int, place: str) -> int:
    if action.top_k == "keep":
        return top_k
    if after % before:
        raise UnsupportedError(
            f"{place} would have {after} experts instead of {before}, and with top_k: scale each "
            "has as many copies as any other: grow by a whole factor, or write top_k: keep"
        )
    return top_k * (after // before)


def _entrants(model: nn.Module, new: NewExperts) -> Entrants:
    """Modules of the right structure; expert 1 has the host's, without the mixture in it."""
    moe = model.get_submodule(new.moe)
    assert isinstance(moe, Experts)
    pattern, first = moe.all_experts()[0], moe.num_experts
    copies = {
        str(first + at): copy_block(model, pattern, path=f"{new.moe}.experts.1")
        for at in range(len(new.copy_of))
    }
    weight = moe.router.weight
    router = nn.Linear(
        moe.router.in_features, len(copies), bias=False, device=weight.device, dtype=weight.dtype
    )
    return Entrants(router, copies)


def _fill(model: nn.Module, new: NewExperts, entrants: Entrants) -> None:
    """Let each new expert be what it is a copy of, and its router row too."""
    moe = model.get_submodule(new.moe)
    assert isinstance(moe, Experts)
    every = [_host(model, moe), *moe.all_experts()]
    rows = torch.cat([router.get_parameter("weight").detach() for router in moe.all_routers()])
    with torch.no_grad():
        entrants.router.weight.copy_(rows[list(new.copy_of)])
        for expert, source in zip(entrants.experts.values(), new.copy_of, strict=True):
            _copy_values(expert, every[source])
    for parameter in entrants.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)


def _host(model: nn.Module, moe: Experts) -> nn.Module:
    return next(m for m in model.modules() if any(a.branch is moe for a in attachments(m)))


def _copy_values(to: nn.Module, source: nn.Module) -> None:
    values = _tensors(source)
    for name, tensor in _tensors(to).items():
        tensor.copy_(values[name])


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _put(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    mixtures: Sequence[NewExperts],
    entrants: Sequence[Entrants],
) -> dict[nn.Parameter, nn.Parameter]:
    neighbours = Neighbours(model, optimizers)
    before = {id(parameter) for parameter in model.parameters()}
    templates: dict[nn.Parameter, nn.Parameter] = {}
    for one, new in zip(mixtures, entrants, strict=True):
        moe = model.get_submodule(one.moe)
        assert isinstance(moe, Experts)
        pattern = moe.all_experts()[0]
        moe.entrants[one.label] = new.train(moe.training)
        moe.top_k = one.top_k[1]
        own = {name: p for name, p in new.named_parameters() if id(p) not in before}
        templates |= neighbours.templates(one.moe, own, copied_from=pattern)
    join_groups(model, optimizers, templates)
    return templates


def rebuild(
    model: nn.Module,
    change: ExpertsAdded,
    *,
    optimizers: Sequence[Optimizer],
    lineage: Lineage,
    parts: Mapping[str, Any] | None = None,
) -> None:
    """Make a recorded change again, for its structure; the weights are loaded afterwards.

    Raises:
        UnsupportedError: The model is not what it was: a mixture is not there.
    """
    place = f"lineage of {change.cohort!r}"
    known = dict(model.named_modules())
    today = [NewExperts(lineage.today(o.moe), o.label, o.copy_of, o.top_k) for o in change.mixtures]
    for one in today:
        if not isinstance(known.get(one.moe), Experts):
            raise UnsupportedError(
                f"{place}: there is no mixture of experts {one.moe!r} in the model; give the model "
                "as it was when the run began"
            )
    with preserved_randomness():
        entrants = [_entrants(model, one) for one in today]
    _put(model, optimizers, today, entrants)


def unwind(
    model: nn.Module, change: ExpertsAdded, *, optimizers: Sequence[Optimizer], lineage: Lineage
) -> None:
    """Take the new experts out again; all else stays the same."""
    names = written_names(optimizers)
    gone: list[nn.Module] = []
    for one in reversed(change.mixtures):
        moe: Any = model.get_submodule(lineage.today(one.moe))
        gone.append(moe.entrants.pop(one.label))
        moe.top_k = one.top_k[0]
    kept = {id(parameter) for parameter in model.parameters()}
    leave_groups(optimizers, {id(p) for module in gone for p in module.parameters()} - kept)
    rewrite_names(model, optimizers, names)
