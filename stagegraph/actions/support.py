"""Support: what this layer cannot do for a model, said before the run begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from stagegraph.actions.attribute_holding import Wanted, find_head_attribute, refuse_unknown_head
from stagegraph.actions.certain import certain_refusals
from stagegraph.actions.companions import Companions
from stagegraph.actions.copying import why_no_copy
from stagegraph.actions.data.curriculum import CurriculumLoader
from stagegraph.actions.data.steering import data_refusals
from stagegraph.actions.distilling.taps import outermost
from stagegraph.actions.growth.operation import Site
from stagegraph.actions.growth.operations import plan
from stagegraph.actions.keeping.weights import why_not_saved
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.number_holding import find_numbers, refuse_made_frequencies
from stagegraph.actions.optimizing.optimizers import (
    foreign_parameters,
    innermost,
    refuse_growth,
    refuse_lr_factors,
)
from stagegraph.actions.optimizing.refused_values import why_no_value
from stagegraph.actions.optimizing.settings import why_no_setting
from stagegraph.actions.parameters import select, unwrapped
from stagegraph.actions.probes import Probe
from stagegraph.actions.sharding.refusals import why_not_frozen, why_not_here
from stagegraph.actions.sharding.units import reshard
from stagegraph.engine.ports import Selected
from stagegraph.errors import SelectorError, UnsupportedError
from stagegraph.schema.actions import (
    Action,
    AddHead,
    Attribute,
    Baseline,
    GrowthAction,
    Prune,
    Regrow,
    RollBack,
    SaveAction,
    Send,
    SnapshotAction,
    TeacherAction,
)
from stagegraph.schema.activities import (
    Activity,
    AlphaRamp,
    BatchSize,
    Distill,
    Freeze,
    GroupMembers,
    Head,
    Hyper,
    LrFactor,
    LrRamp,
    Selection,
    SequenceLength,
)
from stagegraph.schema.data_activities import DataActivity
from stagegraph.schema.spaces import Spaces

__all__ = ["Placed", "inspect", "remarks", "unsupported"]

Placed = tuple[str, Action]
"""An action and where it is written."""


def unsupported(
    actions: Iterable[tuple[str, Action]],
    activities: Iterable[tuple[str, Activity]],
    *,
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    companions: Companions,
    probe: Probe | None,
) -> list[str]:
    """What a graph asks for and cannot have, each as ``place: reason``."""
    problems: list[str] = []
    actions = list(actions)
    for place, action in actions:
        reasons = _of_action(action, model, optimizers, companions, probe)
        problems += [f"{place}: {reason}" for reason in reasons]
    for place, activity in activities:
        reasons = _of_activity(activity, model, optimizers, companions)
        problems += [f"{place}: {reason}" for reason in reasons]
        asked = [action for _, action in actions]
        problems += certain_refusals(activity, unwrapped(model), asked, place=place)
    return problems


def _of_action(
    action: Action,
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    companions: Companions,
    probe: Probe | None,
) -> list[str]:
    if isinstance(action, SnapshotAction | Baseline | Send | Attribute):
        return []
    if isinstance(action, TeacherAction):
        return why_no_copy(model)
    if isinstance(action, SaveAction):
        return why_not_saved(model)
    if isinstance(action, RollBack):
        if action.skip_batches is not None and not isinstance(companions.data, CurriculumLoader):
            return [
                f"roll_back returns the data to its position and skips {action.skip_batches} "
                "batches, which a CurriculumLoader can; give data=stagegraph.CurriculumLoader(...)"
            ]
        if action.data == "rewind" and action.rng != "fork" and companions.data is None:
            return [
                "roll_back returns the data to its position too (data: rewind), and nobody gave "
                "the data; give data=... (something with state_dict and load_state_dict), or "
                "write data: skip"
            ]
        return _of_factor(optimizers) if action.lr_factor is not None else []
    if not isinstance(action, GrowthAction | Prune):
        return [f"this version cannot {action.type}"]
    reasons = [why for optimizer in optimizers if (why := refuse_growth(optimizer))]
    reasons += why_not_here(model, optimizers, companions.ema, action)
    if probe is None:
        reasons.append(
            f"a {'prune' if isinstance(action, Prune) else 'growth'} is measured on a batch, and "
            "there is none; give probe=... (a batch as the "
            "model takes it, or a function of the model)"
        )
    if companions.ema is not None and not isinstance(companions.ema, AveragedModel):
        reasons.append(
            f"ema= is a {type(companions.ema).__name__}, which stagegraph cannot grow along with "
            "the model; use torch.optim.swa_utils.AveragedModel"
        )
    return reasons + _of_wrapping(model)


def _of_activity(
    activity: Activity, model: nn.Module, optimizers: Sequence[Optimizer], companions: Companions
) -> list[str]:
    if isinstance(activity, LrFactor | LrRamp):
        return _of_factor(optimizers)
    if isinstance(activity, Freeze):
        reasons = [why for optimizer in optimizers if (why := refuse_growth(optimizer))]
        return reasons + why_not_frozen(model) + _of_wrapping(model)
    if isinstance(activity, DataActivity):
        moves = isinstance(activity, BatchSize) and activity.lr != "keep"
        return data_refusals(activity, companions.data) + (_of_factor(optimizers) if moves else [])
    if isinstance(activity, Hyper) and activity.optimizer is not None:
        times = activity.factor is not None
        return [
            *why_no_setting(optimizers, activity.optimizer),
            *why_no_value(optimizers, activity.optimizer, activity.reach, times=times),
        ]
    if isinstance(activity, AlphaRamp | Distill | Head | Hyper):
        return []
    return [f"this version has nothing that could hold a {activity.type}"]


def _of_factor(optimizers: Sequence[Optimizer]) -> list[str]:
    return [why for optimizer in optimizers if (why := refuse_lr_factors(optimizer))]


def _of_wrapping(model: nn.Module) -> list[str]:
    """Wrappers under which a change of structure makes ranks differ without an error."""
    reasons: list[str] = []
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind in ("DistributedDataParallel", "DataParallel"):
            reasons.append(
                f"{name or 'the model'} is wrapped in {kind}, which would not see the change, and "
                "ranks would differ without an error; give the model inside, and wrap it again "
                "after each change"
            )
    return reasons


def _strings(selection: Selection) -> Selected:
    """A selection's globs alone; cohorts do not exist yet."""
    globs = tuple(p for p in selection if isinstance(p, str) and p not in ("all", "grown"))
    groups = tuple(p.group for p in selection if isinstance(p, GroupMembers))
    return Selected(everything="all" in selection, globs=globs, groups=groups)


def inspect(
    model: nn.Module,
    *,
    actions: Iterable[tuple[str, Action]] = (),
    activities: Iterable[tuple[str, Activity]] = (),
    beside: Iterable[tuple[str, Action]] = (),
    optimizers: Iterable[object] = (),
    spaces: Spaces | None = None,
    parts: Mapping[str, Any] | None = None,
    probe: Probe | None = None,
) -> list[str]:
    """Look a graph's paths and globs up in the real model, before the run.

    Args:
        model: The model.
        actions: All actions with their places.
        activities: All activities with their places.
        beside: Further actions, which are not looked up and may bring what activities ask for.
        optimizers: The optimizers, to see whether they train the model at all.
        spaces: Which axes of which tensors grow together.
        parts: What the user gave by name.
        probe: The batch that growth is measured on.

    Returns:
        What is wrong, each as ``place: sentence``; empty if all is well.
    """
    problems: list[str] = []
    model = unwrapped(model)
    reshard([model])
    site = Site(model, probe=probe, spaces=spaces or Spaces(), parts=parts or {})
    actions, inner = list(actions), [innermost(one) for one in optimizers]
    for place, action in _as_now(actions):
        if isinstance(action, GrowthAction):
            problems += _problem(lambda a=action, at=place: plan(site, a, place=at))
    bringing = [*actions, *beside]
    for place, activity in activities:
        if isinstance(activity, Distill):
            for glob in activity.features:
                problems += _problem(lambda g=glob, at=place: outermost(model, g, place=at))
        if isinstance(activity, Head):
            problems += _problem(
                lambda a=activity, at=place: _look_for_head(model, a, bringing, place=at)
            )
        problems += _problem(lambda a=activity, at=place: _look_for_numbers(model, a, place=at))
        problems += _look_for_selections(model, activity, inner, place=place)
    for optimizer in inner:
        own = {id(parameter) for parameter in model.parameters()}
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        if len(foreign_parameters(model, optimizer)) == len(trained) and own:
            problems.append(
                f"optimizer: {type(optimizer).__name__} trains no parameter of this model; make it "
                "from model.parameters(), after any change of the model"
            )
    return problems


def _look_for_selections(
    model: nn.Module, activity: Activity, optimizers: Sequence[Optimizer], *, place: str
) -> list[str]:
    """What of a selection there is not; groups are looked for where optimizers were given."""
    problems: list[str] = []
    for selected in map(_strings, (activity.selection, activity.excepted)):
        asked = selected if optimizers else replace(selected, groups=())
        if asked.globs or asked.groups:
            problems += _problem(
                lambda s=asked: select(
                    model, s, lineage=Lineage(), place=place, optimizers=optimizers
                )
            )
    return problems


def _look_for_numbers(model: nn.Module, activity: Activity, *, place: str) -> None:
    """See that the attributes are there which an activity writes numbers to."""
    if isinstance(activity, Hyper) and activity.attribute is not None:
        find_numbers(model, activity.attribute, place=place)
    if isinstance(activity, SequenceLength):
        for path in activity.rope_attributes:
            find_numbers(model, path, place=place)
        refuse_made_frequencies(model, activity.rope_attributes, place=place)


def _look_for_head(
    model: nn.Module, activity: Head, actions: Sequence[Placed], *, place: str
) -> None:
    """See that the attribute is there, and the head, unless a growth may bring it."""
    if any(isinstance(action, Regrow) for _, action in actions):  # whatever heads that one has
        find_head_attribute(model, activity.of, place=place)
        return
    refuse_unknown_head(
        model,
        Wanted(place, activity.of, activity.use),
        added=[(one.heads, one.head) for _, one in actions if isinstance(one, AddHead)],
    )


def _as_now(actions: Sequence[Placed]) -> list[Placed]:
    """The actions as the model of now can be asked: a head may be like one that is yet to come."""
    coming = {(one.heads, one.head) for _, one in actions if isinstance(one, AddHead)}
    return [
        (place, one.model_copy(update={"like": None}))
        if isinstance(one, AddHead) and (one.heads, one.like) in coming
        else (place, one)
        for place, one in actions
    ]


def remarks(
    model: nn.Module,
    *,
    actions: Iterable[tuple[str, Action]],
    spaces: Spaces | None = None,
    parts: Mapping[str, Any] | None = None,
) -> list[str]:
    """What an author should know of the growths before the run, though none is kept from it.

    Args:
        model: The model.
        actions: All actions with their places; what cannot be planned is :func:`inspect`'s.
        spaces: Which axes of which tensors grow together.
        parts: What the user gave by name.

    Returns:
        The remarks, each as ``place: sentence``.
    """
    found: list[str] = []
    site = Site(unwrapped(model), spaces=spaces or Spaces(), parts=parts or {})
    for place, action in actions:
        if isinstance(action, GrowthAction):
            try:
                notes = plan(site, action, place=place).notes(site)
            except (SelectorError, UnsupportedError):
                continue
            found += [f"{place}: {note}" for note in notes]
    return found


def _problem(look: object) -> list[str]:
    try:
        look()  # type: ignore[operator]
    except (SelectorError, UnsupportedError) as error:
        return [str(error)]
    return []
