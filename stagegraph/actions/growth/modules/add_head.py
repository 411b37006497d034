"""Add head: give a dictionary of heads one more, in place, on the backbone that all of them share.

Nobody uses the new head yet, so that the function does not change; that it is so is measured. It
is made like one that is there, joins the optimizer groups of that one's parameters, and begins
without optimizer state. The backbone and the other heads are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from stagegraph.actions.changes import Change, HeadAdded
from stagegraph.actions.growth.depth.initial import initialise
from stagegraph.actions.growth.depth.stacks import copy_block, left_out_hooks, own_parameters
from stagegraph.actions.growth.operation import Committed, Planned, Prepared, Site
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.optimizing.optimizers import (
    join_groups,
    leave_groups,
    rewrite_names,
    written_names,
)
from stagegraph.errors import SelectorError, UnsupportedError, did_you_mean
from stagegraph.schema.actions import AddHead

__all__ = ["AddHeadPlan", "NewHead", "plan", "rebuild", "unwind"]

_REMEDY = (
    "; the model runs every entry of its dictionary, or the newest: let an attribute of it say "
    "which head is in use, and hold that attribute with a head activity"
)


@dataclass(frozen=True, slots=True)
class AddHeadPlan(Planned):
    """Which dictionary gets which head.

    Attributes:
        place: Where it is written.
        action: The action.
        like: The head that the new one is made like.
        added: How many parameters it has.
    """

    place: str
    action: AddHead
    like: str
    added: int

    @property
    def cost(self) -> int:
        """How many parameters it adds."""
        return self.added

    def change(self, lineage: Lineage, *, cohort: str, step: int) -> HeadAdded:
        """What it does to the structure, as data."""
        heads = lineage.stable(self.action.heads)
        return HeadAdded(cohort, step, heads, self.action.head, self.like)

    def prepare(self, site: Site, *, seed: int) -> NewHead:
        """Make the new head.

        Raises:
            UnsupportedError: It cannot be copied or begun anew, or would never be trained.
        """
        template = _find(site.model, self.action.heads, place=self.place)[self.like]
        path = f"{self.action.heads}.{self.like}"
        head, templates = _copied(site.model, template, path)
        for new, kept in templates.items():
            new.requires_grad_(site.trains(kept))
        if templates and not any(new.requires_grad for new in templates):
            raise UnsupportedError(
                f"{self.place}: head {self.like!r} is frozen by its owner, and so would be a head "
                "made like it: it would never be trained; let what it is made like require a "
                "gradient"
            )
        if self.action.init == "fresh":
            initialise(
                site.model,
                head,
                seed=seed,
                stack=path,
                place=self.place,
                kind=f"head {self.action.head!r}",
            )
        return NewHead(self, head, templates, tuple(left_out_hooks(template)))


@dataclass(frozen=True, slots=True)
class NewHead(Prepared):
    """The new head, not yet in the model.

    Attributes:
        plan: The plan.
        head: The new head.
        templates: Its parameters, each to the one whose groups it joins.
        left_out: Modules of the head it was made like whose hooks were not copied.
    """

    plan: AddHeadPlan
    head: nn.Module
    templates: Mapping[nn.Parameter, nn.Parameter]
    left_out: tuple[str, ...]

    def commit(self, site: Site, change: Change) -> Committed:
        """Put the new head into its dictionary."""
        action = self.plan.action
        heads = _dictionaries(site.model)[action.heads]
        heads._modules[action.head] = self.head
        join_groups(site.model, site.optimizers, self.templates)
        return Committed(
            templates=self.templates,
            marks={},
            exact=True,
            remedy=_REMEDY,
            evidence={
                "heads": action.heads,
                "head": action.head,
                "like": self.plan.like,
                "init": action.init,
                "entries": list(heads._modules),
                "hooks_left_out": list(self.left_out),
            },
            learns=False,
        )

    def follow(self, averaged: nn.Module, site: Site, change: Change) -> None:
        """Put a copy of the new head into an averaged copy of the model."""
        assert isinstance(change, HeadAdded)
        rebuild(averaged, change, optimizers=(), lineage=site.lineage)
        theirs = averaged.get_submodule(site.lineage.today(change.path))
        own = {id(parameter) for parameter in self.templates}
        with torch.no_grad():
            for name, parameter in self.head.named_parameters():
                if id(parameter) in own:
                    theirs.get_parameter(name).copy_(parameter)
            for name, buffer in self.head.named_buffers():
                theirs.get_buffer(name).copy_(buffer)


def plan(site: Site, action: AddHead, *, place: str) -> AddHeadPlan:
    """What this would do to a model; nothing is changed.

    Raises:
        SelectorError: There is no such dictionary, or no such head in it.
        UnsupportedError: The dictionary cannot have a head of that name.
    """
    entries = _find(site.model, action.heads, place=place)
    _refuse_taken(site.model, action, place)
    like = action.like or list(entries)[-1]
    if like not in entries:
        raise SelectorError(
            f"{place}: like {like!r} is no head in {action.heads!r}{did_you_mean(like, entries)}"
        )
    own = own_parameters(site.model, entries[like])
    return AddHeadPlan(place, action, like, sum(p.numel() for p in own.values()))


def _dictionaries(model: nn.Module) -> dict[str, nn.ModuleDict]:
    named = model.named_modules()
    return {path: module for path, module in named if isinstance(module, nn.ModuleDict)}


def _find(model: nn.Module, path: str, *, place: str) -> dict[str, nn.Module]:
    """The entries of the dictionary at a path."""
    known = _dictionaries(model)
    if path not in known:
        there = dict(model.named_modules()).get(path)
        what = (
            f"there is no nn.ModuleDict {path!r} in the model"
            if there is None
            else f"{path!r} is a {type(there).__name__}; heads are entries of an nn.ModuleDict"
        )
        raise SelectorError(f"{place}: {what}{did_you_mean(path, known)}")
    held: Mapping[str, nn.Module | None] = known[path]._modules
    entries = {name: head for name, head in held.items() if head is not None}
    if not entries:
        raise SelectorError(f"{place}: {path!r} is empty: there is no head to make one like")
    return entries


def _refuse_taken(model: nn.Module, action: AddHead, place: str) -> None:
    heads = _dictionaries(model)[action.heads]
    if action.head in heads._modules:
        raise UnsupportedError(
            f"{place}: {action.heads!r} has a head {action.head!r} already (it has "
            f"{', '.join(map(repr, heads._modules))}); call the new one something else"
        )
    if hasattr(heads, action.head):
        raise UnsupportedError(
            f"{place}: {action.head!r} is an attribute of every {type(heads).__name__}, so that no "
            "head can be called so; call the new one something else"
        )


def _copied(
    model: nn.Module, template: nn.Module, path: str
) -> tuple[nn.Module, dict[nn.Parameter, nn.Parameter]]:
    """A copy of a head, and its own parameters, each to the one it was copied from."""
    head = copy_block(model, template, path=path)
    own = own_parameters(model, template)
    return head, {head.get_parameter(name): parameter for name, parameter in own.items()}


def rebuild(
    model: nn.Module,
    change: HeadAdded,
    *,
    optimizers: Sequence[Optimizer],
    lineage: Lineage,
    parts: Mapping[str, Any] | None = None,
) -> None:
    """Add a recorded head again, for its structure; the weights are loaded afterwards.

    Raises:
        SelectorError: The model is not what it was: the dictionary is not there, or the head.
        UnsupportedError: It has a head of that name already.
    """
    place, path = f"lineage of {change.cohort!r}", lineage.today(change.heads)
    entries = _find(model, path, place=place)
    if change.head in entries:
        raise UnsupportedError(
            f"{place}: {path!r} has a head {change.head!r} already; give the model as it was when "
            "the run began"
        )
    if change.like not in entries:
        raise SelectorError(
            f"{place}: {path!r} has no head {change.like!r}{did_you_mean(change.like, entries)}; "
            "give the model as it was when the run began"
        )
    head, templates = _copied(model, entries[change.like], f"{path}.{change.like}")
    _dictionaries(model)[path]._modules[change.head] = head
    join_groups(model, optimizers, templates)


def unwind(
    model: nn.Module, change: HeadAdded, *, optimizers: Sequence[Optimizer], lineage: Lineage
) -> None:
    """Take the head out again; those that were there before stay the same."""
    names = written_names(optimizers)
    heads = model.get_submodule(lineage.today(change.heads))
    gone = heads._modules.pop(change.head, None)
    if gone is None:
        raise SelectorError(
            f"return to before {change.cohort!r}: the model has no head {change.path!r}"
            f"{did_you_mean(change.head, heads._modules)}"
        )
    kept = {id(parameter) for parameter in model.parameters()}
    leave_groups(optimizers, {id(parameter) for parameter in gone.parameters()} - kept)
    rewrite_names(model, optimizers, names)
