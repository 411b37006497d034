"""Regrow: the model becomes, in place, what its class is with larger numbers.

Another instance of the user's class is built and inherits from the model. Then the model takes over
from it what it lacks: larger contents, new modules, and attributes. Its own modules and parameters
stay the same objects. That the model then computes what the other one did is seen on the probe.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stagegraph.actions.changes import Axes, Change, Regrown
from stagegraph.actions.giving import give
from stagegraph.actions.growth.attributes import named_owners
from stagegraph.actions.growth.certificate import read
from stagegraph.actions.growth.inherit.inherit import InheritPlan, counts, of_weights
from stagegraph.actions.growth.inherit.regrown_states import RegrownStates, regrown_states
from stagegraph.actions.growth.inherit.target import Difference, compare, make
from stagegraph.actions.growth.inherit.weights import Weights
from stagegraph.actions.growth.operation import Committed, Planned, Prepared, Site
from stagegraph.actions.growth.width.embedding import embedded, extracted
from stagegraph.actions.growth.width.resize import recorded_writings, reshape, tensors_of, write
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.optimizing.optimizers import (
    join_groups,
    leave_groups,
    rewrite_names,
    written_names,
)
from stagegraph.actions.parameters import num_parameters, shown_name
from stagegraph.errors import SelectorError, UnsupportedError
from stagegraph.schema.actions import Inherit, Regrow

__all__ = ["Rebuilt", "RegrowPlan", "plan", "rebuild", "unwind"]


@dataclass(frozen=True, slots=True)
class RegrowPlan(Planned):
    """What a model will become.

    Attributes:
        place: Where it is written.
        action: What is asked for.
        difference: What the model lacks.
        inherited: What becomes of each tensor of the larger one.
        added: How many parameters it adds.
    """

    place: str
    action: Regrow
    difference: Difference
    inherited: InheritPlan
    added: int

    @property
    def cost(self) -> int:
        """How many parameters it adds."""
        return self.added

    def change(self, lineage: Lineage, *, cohort: str, step: int) -> Regrown:
        """What it does to the structure, as data."""
        axes = {name: one for one in self.inherited.fitting.fits for name in one.names}
        stable = {
            path: lineage.stable_new(path, index)
            for index, path in enumerate(self.difference.modules)
        }
        return Regrown(
            cohort=cohort,
            step=step,
            build=self.action.build,
            fields=dict(self.action.fields),
            added=tuple(stable.values()),
            blocks=tuple(stable[path] for path in self.difference.blocks),
            parameters=tuple(map(lineage.stable, self.difference.parameters)),
            grown=tuple(
                (lineage.stable(name), _axes(name, shapes, axes))
                for name, shapes in self.difference.shapes.items()
            ),
            written=recorded_writings(self.difference.writings, lineage),
        )

    def prepare(self, site: Site, *, seed: int) -> Rebuilt:
        """Build the larger model, and let it inherit from this one.

        Raises:
            UnsupportedError: It cannot be built, or not inherit so.
        """
        target, inherited = _inheriting(site, self.action, self.place, seed)
        there = Site(target, probe=site.probe, spaces=site.spaces)
        prepared = inherited.prepare(there, seed=seed)
        change = inherited.change(Lineage(), cohort="target", step=0)
        for name, content in prepared.new.items():
            old = tensors_of(target)[name]
            give(old, content.to(old.device, old.dtype))
        write(target, change.written, Lineage(), grow=True)
        expected = None if site.probe is None else read(target, site.probe, seed=seed).eval
        states = regrown_states(
            site.model, site.optimizers, self.inherited.fitting.fits, tensors_of(target)
        )
        return Rebuilt(self, target, expected, prepared.zeroed, states, seed)


def _axes(name: str, shapes: tuple[tuple[int, ...], ...], fits: Mapping[str, Any]) -> Axes:
    one = fits.get(name)
    if one is not None and one.growth is not None:
        found: Axes = one.growth.axes
        return found
    if one is not None and one.axes is not None:
        given: Axes = one.axes
        return given
    return tuple((((a, b),),) for a, b in zip(*shapes, strict=True))


@dataclass(frozen=True, slots=True)
class Rebuilt(Prepared):
    """The larger model, whose parts are to become the model's.

    Attributes:
        plan: The plan.
        target: The larger model; it is of no use afterwards.
        expected: Its output on the probe.
        zeroed: Per additional block the names of its parameters that were zeroed.
        states: What becomes of the optimizers' state.
        seed: The seed of that reading.
    """

    plan: RegrowPlan
    target: nn.Module
    expected: Tensor | None
    zeroed: Mapping[str, tuple[str, ...]]
    states: RegrownStates
    seed: int

    def commit(self, site: Site, change: Change) -> Committed:
        """Make the model what the larger one is.

        Raises:
            UnsupportedError: The model does not compute what the larger one does.
        """
        assert isinstance(change, Regrown)
        templates = _become(
            site.model, self.target, self.plan.difference, site.optimizers, trains=site.trains
        )
        write(site.model, change.written, site.lineage, grow=True)
        self.states.put()
        self._check(site)
        fitting = self.plan.inherited.fitting
        return Committed(
            templates=templates,
            marks={
                parameter: _new_entries(change.tensors[site.lineage.stable(name)])
                for name, parameter in site.model.named_parameters()
                if site.lineage.stable(name) in change.tensors
            },
            exact=fitting.exact,
            remedy="; something between the spaces that grew does not commute with the maps: see "
            "the card of the action, or take how: corner, which promises nothing",
            evidence={
                "build": self.plan.action.build or type(site.model).__name__,
                "fields": dict(self.plan.action.fields),
                "how": self.plan.action.how,
                "tensors": counts(fitting),
                "modules": list(self.plan.difference.modules),
                "parameters": list(self.plan.difference.parameters),
                "written": {one.path: [one.before, one.after] for one in change.written},
                "zeroed": {path: list(names) for path, names in self.zeroed.items()},
                "promised": fitting.exact,
                "state": self.states.as_json(),
            },
        )

    def _check(self, site: Site) -> None:
        """See that nothing of the larger model was missed."""
        if self.expected is None or site.probe is None:
            return
        now = read(site.model, site.probe, seed=self.seed).eval
        if now.shape != self.expected.shape or not torch.allclose(
            now, self.expected, rtol=64 * torch.finfo(now.dtype).eps, atol=1e-6, equal_nan=True
        ):
            raise UnsupportedError(
                f"{self.plan.place}: the model does not compute what the built one did: something "
                "in it depends on the fields and is no module, parameter, buffer, number or text; "
                "keep it in one of these"
            )

    def follow(self, averaged: nn.Module, site: Site, change: Change) -> None:
        """Grow an averaged copy; it begins anew with the model's contents."""
        assert isinstance(change, Regrown)
        twin = copy.deepcopy(site.model)
        for module in twin.modules():
            for key, value in vars(module).items():
                if key.endswith("_hooks"):
                    value.clear()
        _become(averaged, twin, self.plan.difference, (), trains=lambda p: p.requires_grad)
        write(averaged, change.written, site.lineage, grow=True)


def _new_entries(axes: Axes) -> Tensor:
    before = tuple(sum(_length(part, 0) for part in axis) for axis in axes)
    return embedded(torch.ones(before, dtype=torch.bool), axes).logical_not()


def _length(part: Sequence[tuple[int, int]], which: int) -> int:
    length = 1
    for sizes in part:
        length *= sizes[which]
    return length


def plan(site: Site, action: Regrow, *, place: str) -> RegrowPlan:
    """What a model would become; nothing is changed.

    Raises:
        SelectorError: There is no such builder, or no such field.
        UnsupportedError: It cannot be built, or the model not grow into it.
    """
    seed = crc32(f"{place}|{sorted(action.fields)}".encode())
    target, inherited = _inheriting(site, action, place, seed)
    change = inherited.change(Lineage(), cohort="target", step=0)
    write(target, change.written, Lineage(), grow=True)
    difference = compare(site.model, target, place=place)
    added = num_parameters(target) - num_parameters(site.model)
    if added <= 0:
        told = ", ".join(f"{key}={value!r}" for key, value in action.fields.items())
        raise UnsupportedError(f"{place}: with {told} the model does not become larger")
    return RegrowPlan(place, action, difference, inherited, added)


def _inheriting(site: Site, action: Regrow, place: str, seed: int) -> tuple[nn.Module, InheritPlan]:
    target = make(site.model, action.build, action.fields, site.parts, seed=seed, place=place)
    compare(site.model, target, place=place)
    _cast(target, site.model)
    weights = Weights(
        {shown_name(name): tensor.detach() for name, tensor in _state(site.model)}, site.model
    )
    inherit = Inherit(
        type="inherit", source="itself", how=action.how, stacks=action.stacks, zero=action.zero
    )
    there = Site(target, probe=site.probe, spaces=site.spaces)
    return target, of_weights(there, inherit, weights, place=place)


def _state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            yield name, value


# Becoming like another model


def _cast(target: nn.Module, model: nn.Module) -> None:
    """Give the larger model's tensors the devices and dtypes of the model's."""
    here = tensors_of(model)
    fallback = next(iter(model.parameters()))
    done: set[int] = set()
    for name, tensor in tensors_of(target).items():
        like = here.get(name)
        if like is None and isinstance(tensor, nn.Parameter):
            like = _template(name, tensor, model)
        if id(tensor) in done:
            continue
        done.add(id(tensor))
        if like is not None:
            tensor.data = tensor.data.to(like.device, like.dtype)
        else:
            tensor.data = tensor.data.to(fallback.device)


def _template(name: str, new: Tensor, model: nn.Module) -> nn.Parameter | None:
    """The parameter whose optimizer group a new one joins.

    The one of the same name in the highest block of the stack that has it; else the nearest by
    path, of as many axes if there is one.
    """
    here = dict(model.named_parameters(remove_duplicate=False))
    parts = name.split(".")
    for index in reversed([i for i, part in enumerate(parts) if part.isdigit()]):
        for number in range(int(parts[index]) - 1, -1, -1):
            sibling = ".".join([*parts[:index], str(number), *parts[index + 1 :]])
            if sibling in here:
                return here[sibling]

    def near(other: str) -> tuple[bool, int]:
        common = 0
        for mine, theirs in zip(parts, other.split("."), strict=False):
            if mine != theirs:
                break
            common += 1
        return here[other].dim() == new.dim(), common

    return here[max(here, key=near)] if here else None


def _become(
    model: nn.Module,
    target: nn.Module,
    difference: Difference,
    optimizers: Sequence[Optimizer],
    *,
    trains: Callable[[nn.Parameter], bool],
) -> dict[nn.Parameter, nn.Parameter]:
    """Take over contents and new parts; the attributes are written by the caller.

    Returns:
        New parameters, each to the one whose group it joins.
    """
    here, there = tensors_of(model), tensors_of(target)
    shared: dict[int, Any] = {id(there[name]): tensor for name, tensor in here.items()}
    theirs = dict(target.named_modules())
    shared |= {id(theirs[path]): module for path, module in model.named_modules()}
    owners = dict(named_owners(target))
    shared |= {id(owners[path]): own for path, own in named_owners(model) if path in owners}
    new = {name: p for name, p in target.named_parameters() if id(p) not in shared}
    templates = {p: t for name, p in new.items() if (t := _template(name, p, model)) is not None}
    done: set[int] = set()
    for name, tensor in here.items():
        if id(tensor) not in done:
            done.add(id(tensor))
            give(tensor, there[name].data.to(tensor.device, tensor.dtype))
    for path in difference.modules:
        parent, _, key = path.rpartition(".")
        module = theirs[path]
        _rejoin(module, shared)
        module.train(model.get_submodule(parent).training)
        model.get_submodule(parent)._modules[key] = module
    for name in difference.parameters:
        parent, _, key = name.rpartition(".")
        owner = model.get_submodule(parent)
        slot = owner._parameters if isinstance(there[name], nn.Parameter) else owner._buffers
        slot[key] = shared.get(id(there[name]), there[name])
    for parameter, template in templates.items():
        parameter.requires_grad_(trains(template))
        parameter.grad = None
    join_groups(model, optimizers, templates)
    return templates


def _rejoin(module: nn.Module, shared: Mapping[int, Any]) -> None:
    """What a new module shares with the rest, it shares with the model's own: a config, a table."""
    for part in list(module.modules()):
        for held in (part._modules, part._parameters, part._buffers, vars(part)):
            for key, value in list(held.items()):
                if id(value) in shared and value is not None:
                    held[key] = shared[id(value)]


def rebuild(
    model: nn.Module,
    change: Regrown,
    *,
    optimizers: Sequence[Optimizer],
    lineage: Lineage,
    parts: Mapping[str, Any],
) -> None:
    """Build the larger model again and become like it; the weights are loaded afterwards.

    Raises:
        SelectorError: The builder is not there.
        UnsupportedError: It builds something else than it did, or the model is not what it was.
    """
    place = f"lineage of {change.cohort!r}"
    target = make(model, change.build, change.fields, parts, seed=0, place=place)
    difference = compare(model, target, place=place)
    made = tuple(lineage.stable_new(p, index) for index, p in enumerate(difference.modules))
    shapes = {lineage.stable(name): after for name, (_, after) in difference.shapes.items()}
    recorded = {
        name: tuple(sum(_length(part, 1) for part in axis) for axis in axes)
        for name, axes in change.grown
    }
    if made != change.added or shapes != recorded:
        raise UnsupportedError(
            f"{place}: {change.build or type(model).__name__!r} builds another structure than it "
            "did then, or this is not the model that the run began with"
        )
    _cast(target, model)
    tensors = tensors_of(model)
    for name, axes in change.grown:
        reshape(tensors[lineage.today(name)], optimizers, partial(embedded, axes=axes))
    _become(model, target, difference, optimizers, trains=lambda p: p.requires_grad)
    write(model, change.written, lineage, grow=True)


def unwind(
    model: nn.Module, change: Regrown, *, optimizers: Sequence[Optimizer], lineage: Lineage
) -> None:
    """Take new modules and parameters out again and make tensors as small as they were."""
    place = f"return to before {change.cohort!r}"
    names = written_names(optimizers)
    before = {id(parameter): parameter for parameter in model.parameters()}
    for stable in change.added:
        parent, _, key = lineage.today(stable).rpartition(".")
        if key not in model.get_submodule(parent)._modules:
            raise SelectorError(f"{place}: the model has no module {lineage.today(stable)!r}")
        del model.get_submodule(parent)._modules[key]
    for stable in change.parameters:
        parent, _, key = lineage.today(stable).rpartition(".")
        owner = model.get_submodule(parent)
        held = owner._parameters if key in owner._parameters else owner._buffers
        held[key] = None
    kept = {id(parameter) for parameter in model.parameters()}
    tensors = tensors_of(model)
    for stable, axes in change.grown:
        reshape(tensors[lineage.today(stable)], optimizers, partial(extracted, axes=axes))
    write(model, change.written, lineage, grow=False)
    leave_groups(optimizers, set(before) - kept)
    rewrite_names(model, optimizers, names)
