"""Attaching: put new modules into a model, take them out, and make a recorded attachment again.

This is what all growths that attach something share; which module a host gets, each says itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stagegraph.actions.changes import Attached, Change, NewBranch
from stagegraph.actions.growth.modules.branches import Reads, attach_branch, detach_branch
from stagegraph.actions.growth.modules.neighbours import Neighbours
from stagegraph.actions.growth.operation import Committed, Prepared, Site
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.optimizing.optimizers import (
    join_groups,
    leave_groups,
    rewrite_names,
    written_names,
)
from stagegraph.actions.randomness import preserved_randomness
from stagegraph.errors import SelectorError, did_you_mean

__all__ = ["Make", "NewBranches", "Target", "new_branches", "put_back", "unwind"]

_NOT_A_CITIZEN = (
    "the host's class knows nothing of the new module: its weights load once the lineage has been "
    "replayed (stagegraph.actions.replay), and the bare class takes all but them"
)


@dataclass(frozen=True, slots=True)
class Target:
    """A module that gets a new one, all by today's names.

    Attributes:
        path: The host.
        owner: The module whose child the new one becomes; empty for the model itself.
        child: What it is called there.
        fields: What it is made from.
    """

    path: str
    owner: str
    child: str
    fields: Mapping[str, Any]

    @property
    def branch(self) -> str:
        """Where the new module is."""
        return f"{self.owner}.{self.child}" if self.owner else self.child


Make = Callable[[nn.Module, Target], nn.Module]
"""Makes the branch of one target for a model."""


def new_branches(targets: Sequence[Target], lineage: Lineage) -> tuple[NewBranch, ...]:
    """Targets under stable ids, for the record."""
    return tuple(
        NewBranch(
            host=lineage.stable(target.path),
            owner=lineage.stable(target.owner) if target.owner else "",
            child=target.child,
            fields=dict(target.fields),
        )
        for target in targets
    )


@dataclass(frozen=True, slots=True)
class NewBranches(Prepared):
    """New modules, not yet in the model.

    Attributes:
        targets: The hosts.
        branches: The new module of each, in the same order.
        reads: What they read.
        copied: Whether they hold copies of their host's parameters.
        make: Makes such a module once more.
        exact: Whether they keep the model's function.
        remedy: What an author can do where they do not.
        evidence: What was done, for the certificate.
    """

    targets: Sequence[Target]
    branches: Sequence[nn.Module]
    reads: Reads
    copied: bool
    make: Make
    exact: bool
    remedy: str
    evidence: Mapping[str, Any]

    def commit(self, site: Site, change: Change) -> Committed:
        """Put the new modules in."""
        for target, branch in zip(self.targets, self.branches, strict=True):
            _put(site.model, target, branch, self.reads)
        templates = _join(
            site.model, site.optimizers, self.targets, self.branches, copied=self.copied
        )
        return Committed(
            templates=templates,
            marks={},
            exact=self.exact,
            remedy=self.remedy,
            evidence={
                **self.evidence,
                "attached": {target.path: target.branch for target in self.targets},
                "groups": _groups(site.optimizers, templates),
                "citizen": False,
                "not_a_citizen": _NOT_A_CITIZEN,
            },
        )

    def follow(self, averaged: nn.Module, site: Site, change: Change) -> None:
        """Put copies of the new modules into an averaged copy of the model."""
        assert isinstance(change, Attached)
        put_back(averaged, change, (), site.lineage, make=self.make, copied=self.copied)
        with torch.no_grad():
            for target, branch in zip(self.targets, self.branches, strict=True):
                copied = averaged.get_submodule(target.branch)
                for name, tensor in _tensors(branch).items():
                    _tensors(copied)[name].copy_(tensor)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _groups(
    optimizers: Sequence[Optimizer], templates: Mapping[nn.Parameter, nn.Parameter]
) -> dict[str, int]:
    """How many new parameters each group has got."""
    new = set(map(id, templates))
    found: Counter[str] = Counter()
    for optimizer in optimizers:
        for index, group in enumerate(optimizer.param_groups):
            found[f"{type(optimizer).__name__}[{index}]"] += sum(
                id(parameter) in new for parameter in group["params"]
            )
    return {name: count for name, count in found.items() if count}


def _put(model: nn.Module, target: Target, branch: nn.Module, reads: Reads) -> None:
    host, owner = model.get_submodule(target.path), model.get_submodule(target.owner)
    branch.train(host.training)
    attach_branch(host, owner, target.child, branch, reads=reads)


def _join(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    targets: Sequence[Target],
    branches: Sequence[nn.Module],
    *,
    copied: bool,
) -> dict[nn.Parameter, nn.Parameter]:
    """Put all new parameters into groups; each to the parameter whose group it joined."""
    neighbours = Neighbours(model, optimizers)
    known = {id(p) for p in _outside(model, branches)}
    templates: dict[nn.Parameter, nn.Parameter] = {}
    for target, branch in zip(targets, branches, strict=True):
        own = {n: p for n, p in branch.named_parameters() if id(p) not in known}
        host = model.get_submodule(target.path) if copied else None
        templates |= neighbours.templates(target.path, own, copied_from=host)
    join_groups(model, optimizers, templates)
    return templates


def _outside(model: nn.Module, branches: Sequence[nn.Module]) -> list[nn.Parameter]:
    """The parameters of all modules that are in no branch; a copy goes on sharing some of them."""
    inside = {id(module) for branch in branches for module in branch.modules()}
    own = [module for module in model.modules() if id(module) not in inside]
    return [p for module in own for p in module._parameters.values() if p is not None]


def put_back(
    model: nn.Module,
    change: Attached,
    optimizers: Sequence[Optimizer],
    lineage: Lineage,
    *,
    make: Make,
    copied: bool,
) -> None:
    """Attach again what was recorded, for its structure; the weights are loaded afterwards.

    Raises:
        SelectorError: The model is not what it was: a host is not there.
    """
    targets = [
        Target(
            path=lineage.today(branch.host),
            owner=lineage.today(branch.owner) if branch.owner else "",
            child=branch.child,
            fields=branch.fields,
        )
        for branch in change.branches
    ]
    known = dict(model.named_modules())
    missing = [t.path for t in targets if t.path not in known or t.owner not in known]
    if missing:
        raise SelectorError(
            f"lineage of {change.cohort!r}: there is no {missing[0]!r} in the model"
            f"{did_you_mean(missing[0], known)}; give the model as it was when the run began"
        )
    with preserved_randomness():
        branches = [make(model, target) for target in targets]
    for target, branch in zip(targets, branches, strict=True):
        _put(model, target, branch, change.reads)
    _join(model, optimizers, targets, branches, copied=copied)


def unwind(
    model: nn.Module, change: Attached, *, optimizers: Sequence[Optimizer], lineage: Lineage
) -> None:
    """Take the new modules out again, hooks included; all else stays the same."""
    names = written_names(optimizers)
    gone: list[nn.Module] = []
    for recorded in reversed(change.branches):
        host = model.get_submodule(lineage.today(recorded.host))
        owner = model.get_submodule(lineage.today(recorded.owner) if recorded.owner else "")
        gone.append(detach_branch(host, owner, recorded.child))
    kept = {id(parameter) for parameter in model.parameters()}
    left = {id(p) for branch in gone for p in branch.parameters()} - kept
    leave_groups(optimizers, left)
    rewrite_names(model, optimizers, names)
