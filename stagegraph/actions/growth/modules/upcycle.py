"""Upcycle: make a mixture of experts of an MLP, in place (2212.05055)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from stagegraph.actions.changes import Upcycled
from stagegraph.actions.growth.depth.stacks import copy_block, left_out_hooks, own_parameters
from stagegraph.actions.growth.modules.attaching import (
    NewBranches,
    Target,
    new_branches,
    put_back,
    unwind,
)
from stagegraph.actions.growth.modules.branches import find_hosts, owner_of
from stagegraph.actions.growth.modules.experts import Experts, new_router
from stagegraph.actions.growth.modules.redrawing import add_noise, drops, redraw_units
from stagegraph.actions.growth.modules.trying import try_branches
from stagegraph.actions.growth.modules.widths import features_are_last, read_width
from stagegraph.actions.growth.operation import Planned, Site
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.randomness import preserved_randomness, seed_all
from stagegraph.errors import UnsupportedError
from stagegraph.schema.actions import Upcycle

__all__ = ["UpcyclePlan", "plan", "rebuild", "unwind"]


@dataclass(frozen=True, slots=True)
class UpcyclePlan(Planned):
    """Which MLPs become mixtures.

    Attributes:
        place: Where it is written.
        action: The growth.
        targets: The MLPs.
        added: How many parameters all routers and copies have.
    """

    place: str
    action: Upcycle
    targets: tuple[Target, ...]
    added: int

    @property
    def cost(self) -> int:
        """How many parameters it adds."""
        return self.added

    def change(self, lineage: Lineage, *, cohort: str, step: int) -> Upcycled:
        """What it does to the structure, as data."""
        branches = new_branches(self.targets, lineage)
        return Upcycled(cohort, step, "experts", "input", branches)

    def prepare(self, site: Site, *, seed: int) -> NewBranches:
        """Make routers and copies, and try on the probe that nothing changes.

        Raises:
            UnsupportedError: An MLP cannot be copied, or does not treat each token alone.
        """
        action, model = self.action, site.model
        with preserved_randomness():
            seed_all(seed)
            mixtures = [_make(model, target) for target in self.targets]
            hosts = dict(zip((t.path for t in self.targets), mixtures, strict=True))
            if site.probe is not None:
                self._refuse_inexact(
                    try_branches(site, hosts, "input", place=self.place, seed=seed)
                )
            redrawn = [
                redraw_units(expert, action.reinit, path=path, place=self.place)
                for path, mixture in hosts.items()
                for expert in mixture.all_experts()
            ]
            for mixture in mixtures:
                for expert in mixture.all_experts():
                    add_noise(expert, action.noise)
        random = [path for path in hosts if drops(model.get_submodule(path))]
        return NewBranches(
            targets=self.targets,
            branches=mixtures,
            reads="input",
            copied=True,
            make=_make,
            exact=not (action.noise or action.reinit or random),
            remedy="",
            evidence={
                "experts": action.experts,
                "top_k": action.top_k,
                "noise": action.noise,
                "units_redrawn": sum(redrawn),
                "exact_in_eval_only": random,
                "hooks_left_out": [
                    f"{path}.{name}"
                    for path in hosts
                    for name in left_out_hooks(model.get_submodule(path))
                ],
            },
        )

    def _refuse_inexact(self, changed: Mapping[str, float]) -> None:
        for path, difference in changed.items():
            if difference > 1.0:
                raise UnsupportedError(
                    f"{self.place}: copies of {path!r} that get their tokens one by one make "
                    "something else than it does: it looks at several tokens at once; name the "
                    "modules that treat each token alone"
                )


def plan(site: Site, action: Upcycle, *, place: str) -> UpcyclePlan:
    """What upcycling would do to this model; nothing is changed.

    Raises:
        SelectorError: A pattern matches no module.
        UnsupportedError: A module is there, but cannot be upcycled.
    """
    model, targets, added = site.model, list[Target](), 0
    for path in find_hosts(model, action.host, place=place, what="host"):
        host = model.get_submodule(path)
        if any(isinstance(part, Experts) for part in host.modules()):
            raise UnsupportedError(
                f"{place}: {path!r} is a mixture of experts already; add_experts gives it more"
            )
        width = read_width(host)
        if width is None or not features_are_last(host):
            raise UnsupportedError(
                f"{place}: how many features {path!r} reads cannot be told from its layers; an "
                "expert is an MLP on the last axis"
            )
        owner, child = owner_of(model, path, action.child, lineage=site.lineage, place=place)
        fields = {"experts": action.experts, "top_k": action.top_k, "in_features": width}
        targets.append(Target(path, owner, child, fields))
        copied = sum(p.numel() for p in own_parameters(model, host).values())
        added += (action.experts - 1) * copied + action.experts * width
    return UpcyclePlan(place, action, tuple(targets), added)


def _make(model: nn.Module, target: Target) -> Experts:
    host = model.get_submodule(target.path)
    copies = {
        str(number): _trainable(copy_block(model, host, path=target.path))
        for number in range(1, target.fields["experts"])
    }
    like = next(p for p in host.parameters() if p.is_floating_point())
    router = new_router(target.fields["in_features"], target.fields["experts"], like=like)
    return Experts(router, copies, target.fields["top_k"])


def _trainable(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    return module


def rebuild(
    model: nn.Module,
    change: Upcycled,
    *,
    optimizers: Sequence[Optimizer],
    lineage: Lineage,
    parts: Mapping[str, Any] | None = None,
) -> None:
    """Make a recorded change again, for its structure; the weights are loaded afterwards.

    Raises:
        SelectorError: The model is not what it was: a host is not there.
    """
    put_back(model, change, optimizers, lineage, make=_make, copied=True)
