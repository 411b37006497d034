"""Attach: give modules a new module beside or after them, in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from stagegraph.actions.changes import Attached
from stagegraph.actions.growth.depth.stacks import left_out_hooks, own_parameters
from stagegraph.actions.growth.modules.attaching import (
    NewBranches,
    Target,
    new_branches,
    put_back,
    unwind,
)
from stagegraph.actions.growth.modules.branches import Branch, Reads, find_hosts, owner_of
from stagegraph.actions.growth.modules.kinds import make, silence
from stagegraph.actions.growth.modules.trying import refuse_unadded, try_branches
from stagegraph.actions.growth.modules.widths import features_are_last, read_width, written_width
from stagegraph.actions.growth.operation import Planned, Site
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.randomness import preserved_randomness, seed_all
from stagegraph.errors import UnsupportedError
from stagegraph.schema.actions import ATTACHABLE, Attach

__all__ = ["AttachPlan", "plan", "rebuild", "unwind"]

_MADE_FROM = ("bottleneck", "hidden", "act", "norm", "bias", "axis")


@dataclass(frozen=True, slots=True)
class AttachPlan(Planned):
    """Which modules get which new one.

    Attributes:
        place: Where it is written.
        module: Which kind of module, or the name of its builder.
        reads: What it reads.
        zero: Whether its last linear layer is filled with zeros.
        targets: The hosts.
        added: How many parameters all of it has.
    """

    place: str
    module: str
    reads: Reads
    zero: bool
    targets: tuple[Target, ...]
    added: int

    @property
    def cost(self) -> int:
        """How many parameters it adds."""
        return self.added

    def change(self, lineage: Lineage, *, cohort: str, step: int) -> Attached:
        """What it does to the structure, as data."""
        branches = new_branches(self.targets, lineage)
        return Attached(cohort, step, self.module, self.reads, branches)

    def prepare(self, site: Site, *, seed: int) -> NewBranches:
        """Make the new modules, and try them on the probe.

        Raises:
            UnsupportedError: One cannot be made, or does not fit its host.
        """
        maker = partial(_make, module=self.module, parts=site.parts, place=self.place)
        with preserved_randomness():
            seed_all(seed)
            branches = [maker(site.model, target) for target in self.targets]
        zeroed: dict[str, None] = {}
        if self.zero:
            for target, branch in zip(self.targets, branches, strict=True):
                zeroed |= dict.fromkeys(self._silenced(target, branch))
        if site.probe is not None:
            hosts = dict(zip((t.path for t in self.targets), branches, strict=True))
            for path, added in try_branches(
                site, hosts, self.reads, place=self.place, seed=seed
            ).items():
                if self.zero and added != 0.0:
                    refuse_unadded(self.place, path, added, zeroed)
        return NewBranches(
            targets=self.targets,
            branches=branches,
            reads=self.reads,
            copied=self.module == "copy",
            make=maker,
            exact=self.zero,
            remedy="; write init: keep, and blend it in with an alpha ramp from 0",
            evidence={
                "module": self.module,
                "reads": self.reads,
                "fields": [dict(target.fields) for target in self.targets],
                "init": "zero" if self.zero else "keep",
                "zeroed": list(zeroed),
                "hooks_left_out": self._left_out(site.model),
            },
        )

    def _silenced(self, target: Target, branch: nn.Module) -> list[str]:
        last = silence(branch)
        if not last:
            raise UnsupportedError(
                f"{self.place}: module {self.module!r} for {target.path!r} has no linear layer to "
                "begin with zero; write init: keep"
            )
        return last

    def _left_out(self, model: nn.Module) -> list[str]:
        """Modules whose hooks a copy did not get."""
        if self.module != "copy":
            return []
        hosts = {target.path: model.get_submodule(target.path) for target in self.targets}
        return [f"{path}.{name}" for path, host in hosts.items() for name in left_out_hooks(host)]


def plan(site: Site, action: Attach, *, place: str) -> AttachPlan:
    """What an attachment would do to this model; nothing is changed.

    Raises:
        SelectorError: A pattern matches no module.
        UnsupportedError: A module is there, but cannot be given another so.
    """
    model = site.model
    targets: list[Target] = []
    for path in find_hosts(model, action.host, place=place, what="host"):
        child = action.child or action.module
        owner, name = owner_of(model, path, child, lineage=site.lineage, place=place)
        fields = _fields(action, model.get_submodule(path), path, place)
        targets.append(Target(path, owner, name, fields))
    ours = action.module in ATTACHABLE
    init = action.init or ("zero" if ours else "keep")
    return AttachPlan(
        place=place,
        module=action.module,
        reads="input" if action.mode == "parallel" else "output",
        zero=init == "zero",
        targets=tuple(targets),
        added=sum(
            _num_parameters(model, target, action.module, site.parts, place) for target in targets
        ),
    )


def _fields(action: Attach, host: nn.Module, path: str, place: str) -> dict[str, Any]:
    """What a module of ours is made from, its widths among it."""
    takes = ATTACHABLE.get(action.module, ())
    fields = {
        key: value
        for key in takes
        if key in _MADE_FROM and (value := getattr(action, key)) is not None
    }
    if "in_features" not in takes:
        return fields
    if action.axis is None and not features_are_last(host):
        raise UnsupportedError(
            f"{place}: {path!r} has convolutions, whose features are not on the last axis; write "
            "axis: 1 (or whichever it is)"
        )
    written = action.out_features or written_width(host)
    read = action.in_features or (read_width(host) if action.mode == "parallel" else written)
    if read is None or written is None:
        raise UnsupportedError(
            f"{place}: how many features {path!r} reads and writes cannot be told from its layers; "
            "write in_features: and out_features:"
        )
    return fields | {"in_features": read, "out_features": written}


def _num_parameters(
    model: nn.Module, target: Target, module: str, parts: Mapping[str, Any], place: str
) -> int:
    host = model.get_submodule(target.path)
    if module == "copy":
        return sum(p.numel() for p in own_parameters(model, host).values())
    with preserved_randomness():
        if module in ATTACHABLE:
            with torch.device("meta"):
                new = _make(model, target, module=module, parts=parts, place=place, moved=False)
        else:
            new = _make(model, target, module=module, parts=parts, place=place)
    known = {id(parameter) for parameter in model.parameters()}
    return sum(p.numel() for p in new.parameters() if id(p) not in known)


def _make(
    model: nn.Module,
    target: Target,
    *,
    module: str,
    parts: Mapping[str, Any],
    place: str,
    moved: bool = True,
) -> nn.Module:
    new = make(
        module, target.fields, model=model, path=target.path, parts=parts, place=place, moved=moved
    )
    return Branch(new, axis=target.fields.get("axis", -1))


def rebuild(
    model: nn.Module,
    change: Attached,
    *,
    optimizers: Sequence[Optimizer],
    lineage: Lineage,
    parts: Mapping[str, Any],
) -> None:
    """Make a recorded change again, for its structure; the weights are loaded afterwards.

    Raises:
        SelectorError: The model is not what it was: a host is not there.
        UnsupportedError: A builder that made a module is not among the parts.
    """
    place = f"lineage of {change.cohort!r}"
    maker = partial(_make, module=change.module, parts=parts, place=place)
    put_back(model, change, optimizers, lineage, make=maker, copied=change.module == "copy")
