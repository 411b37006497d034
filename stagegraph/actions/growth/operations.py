"""Operations: which file carries out which action, and which replays which change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from torch import nn
from torch.optim import Optimizer

from stagegraph.actions.changes import (
    Attached,
    Change,
    Deepened,
    ExpertsAdded,
    HeadAdded,
    Inherited,
    ListGrown,
    Pruned,
    Regrown,
    Resized,
    Upcycled,
)
from stagegraph.actions.growth import pruned
from stagegraph.actions.growth.depth import deepen, deepened
from stagegraph.actions.growth.inherit import inherit, regrow
from stagegraph.actions.growth.modules import add_experts, add_head, attach, listed_experts, upcycle
from stagegraph.actions.growth.operation import Planned, Site
from stagegraph.actions.growth.trial import twin
from stagegraph.actions.growth.width import (
    add_heads,
    extend_context,
    extend_vocab,
    resize,
    widen,
    widen_head_dim,
)
from stagegraph.actions.lineage import Lineage
from stagegraph.errors import UnsupportedError
from stagegraph.schema.actions import (
    AddExperts,
    AddHead,
    AddHeads,
    Attach,
    Deepen,
    ExtendContext,
    ExtendVocab,
    GrowthAction,
    Inherit,
    Regrow,
    Upcycle,
    Widen,
    WidenHeadDim,
)

__all__ = ["costs", "plan", "rebuild", "unwind", "word"]

_PLANS: dict[type[GrowthAction], Callable[..., Planned]] = {
    Deepen: deepen.plan,
    Widen: widen.plan,
    Attach: attach.plan,
    Upcycle: upcycle.plan,
    AddExperts: add_experts.plan,
    AddHead: add_head.plan,
    ExtendVocab: extend_vocab.plan,
    ExtendContext: extend_context.plan,
    AddHeads: add_heads.plan,
    WidenHeadDim: widen_head_dim.plan,
    Inherit: inherit.plan,
    Regrow: regrow.plan,
}
_REBUILDS: dict[type[Change], Callable[..., None]] = {
    Deepened: deepened.rebuild,
    Resized: resize.rebuild,
    Upcycled: upcycle.rebuild,
    ExpertsAdded: add_experts.rebuild,
    ListGrown: listed_experts.rebuild,
    HeadAdded: add_head.rebuild,
    Inherited: inherit.rebuild,
    Attached: attach.rebuild,
    Regrown: regrow.rebuild,
    Pruned: pruned.rebuild,
}
_UNWINDS: dict[type[Change], Callable[..., None]] = {
    Deepened: deepened.unwind,
    Resized: resize.unwind,
    Attached: attach.unwind,
    Upcycled: upcycle.unwind,
    ExpertsAdded: add_experts.unwind,
    ListGrown: listed_experts.unwind,
    HeadAdded: add_head.unwind,
    Inherited: inherit.unwind,
    Regrown: regrow.unwind,
    Pruned: pruned.unwind,
}


def plan(site: Site, action: GrowthAction, *, place: str) -> Planned:
    """What a growth would do to a model; nothing is changed.

    Raises:
        SelectorError: Something that it names is not there.
        UnsupportedError: It is there, but cannot grow so.
    """
    if type(action) not in _PLANS:
        raise UnsupportedError(f"{place}: this version cannot {word(action)}")
    return _PLANS[type(action)](site, action, place=place)


def word(action: GrowthAction) -> str:
    """What a document calls an action."""
    return str(get_args(type(action).model_fields["type"].annotation)[0])


def rebuild(
    model: nn.Module,
    change: Change,
    *,
    optimizers: Sequence[Optimizer],
    lineage: Lineage,
    parts: Mapping[str, Any] | None = None,
) -> None:
    """Make a recorded change again, for its structure; the weights are loaded afterwards.

    No random number is drawn.

    Args:
        model: The model as it was before the change.
        change: The change.
        optimizers: The model's optimizers.
        lineage: The changes before this one.
        parts: What the user gave by name; a builder that made something is needed again.

    Raises:
        SelectorError: The model is not what it was: something is not there.
        UnsupportedError: It is there, but is not what it was.
    """
    _REBUILDS[type(change)](
        model, change, optimizers=optimizers, lineage=lineage, parts=parts or {}
    )


def unwind(model: nn.Module, optimizers: Sequence[Optimizer], lineage: Lineage) -> Change:
    """Take the newest change of a lineage back, for its structure; contents are loaded afterwards.

    Args:
        model: The grown model.
        optimizers: Its optimizers; parameters that go leave their groups and state.
        lineage: Its lineage, the change included.

    Returns:
        The change that was taken back.
    """
    change = lineage.changes[-1]
    _UNWINDS[type(change)](model, change, optimizers=optimizers, lineage=lineage)
    return change


def costs(site: Site, actions: Sequence[GrowthAction], *, place: str) -> int:
    """How many parameters these growths would add, one after the other.

    Each is planned on a twin of the model that has the structure and no memory for its tensors.

    Raises:
        SelectorError: Something that one of them names is not there.
        UnsupportedError: One cannot grow so.
    """
    total, lineage = 0, site.lineage
    model = site.model if len(actions) == 1 else twin(site.model, meta=True)
    for index, action in enumerate(actions):
        here = replace(site, model=model, optimizers=(), lineage=lineage)
        if len(actions) > 1:
            here = replace(here, probe=None)  # a twin without memory does not run
        planned = plan(here, action, place=place)
        total += planned.cost
        if index + 1 < len(actions):
            change = planned.change(lineage, cohort=f"{place}#{index}", step=0)
            rebuild(model, change, optimizers=(), lineage=lineage, parts=site.parts)
            lineage = Lineage([*lineage.changes, change])
    return total
