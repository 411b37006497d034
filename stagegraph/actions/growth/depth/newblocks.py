"""New blocks: copies made beside the model, and put into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stagegraph.actions.changes import Change, Deepened
from stagegraph.actions.growth.depth.beside import Entries, copied_entries
from stagegraph.actions.growth.depth.counts import number
from stagegraph.actions.growth.depth.deepened import rebuild
from stagegraph.actions.growth.depth.identities import Identity, make_identities
from stagegraph.actions.growth.depth.initial import add_noise, initialise
from stagegraph.actions.growth.depth.layout import grown_order
from stagegraph.actions.growth.depth.stacks import (
    copy_block,
    find_stack,
    insert,
    left_out_hooks,
)
from stagegraph.actions.growth.operation import Committed, Prepared, Site
from stagegraph.actions.optimizing.entries import State, copied_states
from stagegraph.actions.optimizing.optimizers import join_groups
from stagegraph.actions.sharding.alike import shard_alike
from stagegraph.actions.undo import untouched
from stagegraph.errors import UnsupportedError

if TYPE_CHECKING:
    from stagegraph.actions.growth.depth.deepen import DeepenPlan

__all__ = ["NewBlocks", "prepare"]


@dataclass(frozen=True, slots=True)
class NewBlocks(Prepared):
    """The new blocks, not yet in the model.

    Attributes:
        plan: The plan.
        blocks: The new blocks by their place in the grown stack.
        entries: New entries of lists beside the stack, by place in the grown list.
        templates: New parameter to the one it was copied from.
        identities: What makes the copies of each template the identity, by the template's path.
        shared: Names in the block of parameters that are shared with the rest of the model.
        left_out: Modules of the templates whose hooks were not copied.
        states: The optimizers' state entries of new parameters that begin with one.
    """

    plan: DeepenPlan
    blocks: Mapping[int, nn.Module]
    entries: tuple[tuple[Entries, dict[int, Any]], ...]
    templates: Mapping[nn.Parameter, nn.Parameter]
    identities: Mapping[str, Identity]
    shared: tuple[str, ...]
    left_out: tuple[str, ...]
    states: Sequence[State] = ()

    @property
    def zeroed(self) -> list[str]:
        """Names, in a block, of what was zeroed."""
        names = [name for one in self.identities.values() for name, _ in one.zeroing]
        return list(dict.fromkeys(names))

    @property
    def gated(self) -> dict[str, str]:
        """Why it is the gate that makes copies the identity, by path of the template."""
        return {path: one.gated for path, one in self.identities.items() if one.gated is not None}

    def commit(self, site: Site, change: Change) -> Committed:
        """Put the new blocks in."""
        plan = self.plan
        _, stack = find_stack(site.model, plan.path, place=plan.place)
        insert(stack, self.blocks)
        for entries, new in self.entries:
            entries.insert(new)
        for rows in plan.rows:
            rows.take(grown_order(plan.before, plan.places), site.optimizers)
        for name, first in plan.numbers.items():
            number(list(stack), name, first)
        for count in plan.counts:
            count.grow(plan.places)
        join_groups(site.model, site.optimizers, self.templates)
        for state in self.states:
            state.put()
        return Committed(
            templates=self.templates,
            marks={
                rows.tensor: rows.marks(plan.places)
                for rows in plan.rows
                if isinstance(rows.tensor, nn.Parameter)
            },
            exact=plan.action.how == "identity" and not self.gated,
            remedy=f"(zeroed: {', '.join(self.zeroed)}); declare what to zero with zero: [...], or "
            "use how: stack with an alpha ramp from 0",
            evidence=self._evidence(change),
        )

    def _evidence(self, change: Change) -> dict[str, Any]:
        plan, recorded = self.plan, change.as_json()
        return {
            "how": plan.action.how,
            "stack": plan.path,
            "blocks": {"before": plan.before, "after": plan.after},
            "inserted": recorded["blocks"],
            "init": "fresh" if plan.action.fresh else "copy",
            "noise": plan.action.noise or 0.0,
            "state": plan.action.state,
            "zeroed": self.zeroed,
            "gated": bool(self.gated),
            **({"gated_because": self.gated} if self.gated else {}),
            "counts": {c["path"]: [c["before"], c["after"]] for c in recorded["counts"]},
            "beside": [*recorded["beside"], *recorded["rows"]],
            "left_alone": list(plan.left_alone),
            "renumbered": list(plan.numbers),
            "shared": list(self.shared),
            "hooks_left_out": list(self.left_out),
        }

    def follow(self, averaged: nn.Module, site: Site, change: Change) -> None:
        """Put copies of the new blocks into an averaged copy of the model."""
        assert isinstance(change, Deepened)
        rebuild(averaged, change, optimizers=(), lineage=site.lineage)
        new = [at.at for at in self.plan.places]
        inside = tuple(f"{self.plan.path}.{at}." for at in new)
        own: list[tuple[str, Tensor]] = [
            (name, p) for name, p in site.model.named_parameters() if p in self.templates
        ]
        own += [(n, b) for n, b in site.model.named_buffers() if n.startswith(inside)]
        theirs = {**dict(averaged.named_parameters()), **dict(averaged.named_buffers())}
        with torch.no_grad():
            for name, tensor in own:
                theirs[name].copy_(tensor)
            for rows in self.plan.rows:
                theirs[rows.path][new] = rows.tensor[new]


def prepare(site: Site, plan: DeepenPlan, seed: int) -> NewBlocks:
    """Make the new blocks of a plan.

    Raises:
        UnsupportedError: A block cannot be copied or begun anew, or does not become the identity.
    """
    model, action = site.model, plan.action
    if site.probe is None and action.how == "identity":
        raise UnsupportedError(f"{plan.place}: an identity is proven on a batch; give probe=")
    _, stack = find_stack(model, plan.path, place=plan.place)
    old = list(stack)
    names = {at.copy_of: f"{plan.path}.{at.copy_of}" for at in plan.places}
    blocks: dict[int, nn.Module] = {}
    templates: dict[nn.Parameter, nn.Parameter] = {}
    shared: dict[str, None] = {}
    for k, at in enumerate(plan.places):
        template, name = old[at.copy_of], names[at.copy_of]
        new = blocks[at.at] = copy_block(model, template, path=name)
        both = [(n, p, new.get_parameter(n)) for n, p in template.named_parameters()]
        shared |= dict.fromkeys(name for name, kept, its in both if its is kept)
        copied = {its: kept for _, kept, its in both if its is not kept}
        for parameter, kept in copied.items():
            parameter.requires_grad_(site.trains(kept))
        templates |= copied
        _begin(site, plan, new, list(copied), seed=_seed(seed, k), kind=name)

    def copies(place: int) -> list[nn.Module]:
        return [blocks[at.at] for at in plan.places if at.copy_of == place]

    identities: dict[str, Identity] = {}
    if action.how == "identity":
        with untouched(model):
            identities = make_identities(
                site,
                action,
                {name: old[place] for place, name in names.items()},
                {name: copies(place) for place, name in names.items()},
                place=plan.place,
                seed=seed,
            )
    for at in plan.places:
        plain = shard_alike(model, blocks[at.at], old[at.copy_of])
        templates = {plain.get(new, new): kept for new, kept in templates.items()}
    entries = [(one, *copied_entries(model, one, plan.places)) for one in plan.lists]
    for _, _, pairs in entries:
        for parameter, kept in pairs.items():
            parameter.requires_grad_(site.trains(kept))
        templates |= pairs
    return NewBlocks(
        states=copied_states(site.optimizers, templates, action.state),
        plan=plan,
        blocks=blocks,
        entries=tuple((one, new) for one, new, _ in entries),
        templates=templates,
        identities=identities,
        shared=tuple(shared),
        left_out=tuple(
            f"{name}.{part}" for place, name in names.items() for part in left_out_hooks(old[place])
        ),
    )


def _seed(seed: int, index: int) -> int:
    """A seed of its own for each new block."""
    return (seed + 0x9E3779B1 * index) % 2**32


def _begin(
    site: Site,
    plan: DeepenPlan,
    block: nn.Module,
    own: list[nn.Parameter],
    *,
    seed: int,
    kind: str,
) -> None:
    """Begin a new block anew, or add noise, where the growth says so."""
    action = plan.action
    if action.fresh:
        initialise(site.model, block, seed=seed, stack=plan.path, place=plan.place, kind=kind)
    elif action.noise is not None:
        add_noise(own, action.noise, seed=seed)
