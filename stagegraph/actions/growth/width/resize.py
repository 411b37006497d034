"""Resize: make tensors larger in place, with all that is bound to the same spaces.

The common part of all operations in width. What an operation decides is a list of
:class:`TensorGrowth` and of attributes to write; this file makes the new tensors, tries them on a
copy of the model, puts them in, and replays and unwinds such a change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stagegraph.actions.changes import Axes, Change, Resized, Written
from stagegraph.actions.giving import give
from stagegraph.actions.growth.attributes import Attribute
from stagegraph.actions.growth.citizen import class_notes
from stagegraph.actions.growth.operation import Committed, Planned, Prepared, Site
from stagegraph.actions.growth.trial import try_out
from stagegraph.actions.growth.width.embedding import embedded, extracted, shapes
from stagegraph.actions.growth.width.maps import mapped
from stagegraph.actions.growth.width.patterns import continued
from stagegraph.actions.growth.width.states import StatePolicy
from stagegraph.actions.growth.width.tensor_growth import TensorGrowth
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.optimizing.entries import State
from stagegraph.errors import SelectorError, UnsupportedError

__all__ = [
    "NewTensors",
    "ResizePlan",
    "Writing",
    "rebuild",
    "recorded_writings",
    "reshape",
    "tensors_of",
    "unwind",
    "write",
]


@dataclass(frozen=True, slots=True)
class Writing:
    """An attribute that must state another size afterwards.

    Attributes:
        attribute: The attribute.
        value: What it must hold.
    """

    attribute: Attribute
    value: Any


@dataclass(frozen=True, slots=True)
class ResizePlan(Planned):
    """What a growth in width will do.

    Attributes:
        place: Where it is written.
        tensors: The tensors that grow.
        writings: The attributes that are written.
        policy: What the optimizer's state of what is new is.
        how: What is done, for the lineage.
        exact: Whether the function is kept.
        evidence: What is done, for the certificate.
        narrowed: Makes a grown output comparable with the old one.
        remedy: What an author can do where the function was not kept.
        reached: Whether the probe gets to what is new; new positions lie behind its end, and so
            nothing can be said of their gradient.
    """

    place: str
    tensors: tuple[TensorGrowth, ...]
    writings: tuple[Writing, ...]
    policy: StatePolicy
    how: str
    exact: bool
    evidence: Mapping[str, Any]
    narrowed: Callable[[Tensor], Tensor] | None = None
    remedy: str = (
        "; a norm, a nonlinearity or a tied weight does not commute with it: see the "
        "card of the action, or take another how:"
    )
    reached: bool = True

    @property
    def cost(self) -> int:
        """How many parameters it adds."""
        return sum(
            _numel(growth.binding.grown) - _numel(growth.binding.shape)
            for growth in self.tensors
            if isinstance(growth.tensor, nn.Parameter)
        )

    def change(self, lineage: Lineage, *, cohort: str, step: int) -> Resized:
        """What it does to the structure, as data."""
        return Resized(
            cohort=cohort,
            step=step,
            grown=tuple((lineage.stable(growth.name), growth.axes) for growth in self.tensors),
            written=recorded_writings(self.writings, lineage),
            scales=self.policy.scales_of(self.tensors, lineage),
            how=self.how,
            patterns=tuple(
                (lineage.stable(growth.name), growth.pattern)
                for growth in self.tensors
                if growth.pattern is not None
            ),
        )

    def notes(self, site: Site) -> tuple[str, ...]:
        """Why the grown model could not be read back by its own class, if it could not."""
        change = self.change(site.lineage, cohort=self.place, step=0)
        return class_notes(
            site, lambda twin: rebuild(twin, change, optimizers=(), lineage=site.lineage)
        )

    def prepare(self, site: Site, *, seed: int) -> NewTensors:
        """Make the new tensors, and try them on a copy of the model.

        Raises:
            UnsupportedError: The grown model would not run.
        """
        new = {
            growth.name: growth.grown(growth.tensor.detach(), seed=_seed(seed, site, growth.name))
            for growth in self.tensors
        }
        states = self.policy.states(site.optimizers, self.tensors, new)
        prepared = NewTensors(self, new, states)
        if site.probe is not None:
            change = self.change(site.lineage, cohort="trial", step=0)
            try_out(
                site.model,
                site.probe,
                lambda twin: _fit(twin, new, change, site.lineage),
                place=self.place,
            )
        return prepared


@dataclass(frozen=True, slots=True)
class NewTensors(Prepared):
    """The grown tensors, not yet in the model.

    Attributes:
        plan: The plan.
        new: Each grown tensor by today's name.
        states: The optimizers' state entries of those that have one.
    """

    plan: ResizePlan
    new: Mapping[str, Tensor]
    states: Sequence[State]

    def commit(self, site: Site, change: Change) -> Committed:
        """Give the parameters and buffers their new contents."""
        assert isinstance(change, Resized)
        _fit(site.model, self.new, change, site.lineage)
        for state in self.states:
            state.put()
        marks = {
            growth.tensor: growth.binding.marks("added")
            for growth in self.plan.tensors
            if isinstance(growth.tensor, nn.Parameter)
        }
        return Committed(
            templates={},
            marks=marks,
            exact=self.plan.exact,
            remedy=self.plan.remedy,
            evidence={
                **self.plan.evidence,
                "state": self.plan.policy.words,
            },
            narrowed=self.plan.narrowed,
            learns=bool(marks) and self.plan.reached,
        )

    def follow(self, averaged: nn.Module, site: Site, change: Change) -> None:
        """Grow an averaged copy by the same maps."""
        assert isinstance(change, Resized)
        old = tensors_of(averaged)
        new: dict[str, Tensor] = {}
        for growth in self.plan.tensors:
            value = old[growth.name].detach()
            if growth.pattern is not None:
                new[growth.name] = self.new[growth.name].to(value.device, copy=True)
                continue
            out = growth.finished(mapped(value, growth.binding, "weight"))
            fresh = growth.binding.marks("fresh").to(out.device).expand_as(out)
            new[growth.name] = torch.where(fresh, self.new[growth.name].to(out.device), out)
        _fit(averaged, new, change, site.lineage)


def _numel(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _seed(seed: int, site: Site, name: str) -> int:
    return crc32(f"{seed}|{site.lineage.stable(name)}".encode())


def recorded_writings(writings: Sequence[Writing], lineage: Lineage) -> tuple[Written, ...]:
    """The attributes that are written, as data."""
    return tuple(
        Written(
            lineage.stable(writing.attribute.path),
            _as_json(writing.attribute.value),
            _as_json(writing.value),
        )
        for writing in writings
    )


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by every name that they have."""
    named: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    return {**named, **dict(model.named_buffers(remove_duplicate=False))}


def _fit(model: nn.Module, new: Mapping[str, Tensor], change: Resized, lineage: Lineage) -> None:
    """Give tensors new contents and attributes new values."""
    old = tensors_of(model)
    for name, tensor in new.items():
        give(old[name], tensor)
    write(model, change.written, lineage, grow=True)


def write(model: nn.Module, writings: Sequence[Written], lineage: Lineage, *, grow: bool) -> None:
    """Make attributes say what they must afterwards, or what they said before."""
    for written in writings:
        wanted, there = (written.after, written.before) if grow else (written.before, written.after)
        owner, name = _owner(model, lineage.today(written.path))
        value = getattr(owner, name)
        if _as_json(value) == there:
            setattr(owner, name, type(value)(wanted) if isinstance(value, tuple) else wanted)


def _owner(model: nn.Module, path: str) -> tuple[Any, str]:
    *parts, name = path.split(".")
    owner: Any = model
    for part in parts:
        inner = owner._modules.get(part) if isinstance(owner, nn.Module) else None
        owner = getattr(owner, part) if inner is None else inner
    return owner, name


def rebuild(
    model: nn.Module,
    change: Resized,
    *,
    optimizers: Sequence[Optimizer],
    lineage: Lineage,
    parts: Mapping[str, Any] | None = None,
) -> None:
    """Make the tensors as large again; what is new in them is zero until the weights are loaded."""
    place = f"lineage of {change.cohort!r}"
    patterns = {lineage.today(stable): pattern for stable, pattern in change.patterns}
    there = tensors_of(model)
    # a buffer that is in no checkpoint would keep zeros: what goes on by a pattern is made here
    contents = {
        id(there[name]): continued(there[name].detach(), pattern, shapes(axes)[1])
        for stable, axes in change.grown
        for name, pattern in patterns.items()
        if lineage.today(stable) == name and name in there
    }
    for tensor, axes in _recorded(model, change, lineage, place, grown=False):
        reshape(tensor, optimizers, partial(embedded, axes=axes))
        if id(tensor) in contents:
            give(tensor, contents[id(tensor)])
    write(model, change.written, lineage, grow=True)


def unwind(
    model: nn.Module, change: Resized, *, optimizers: Sequence[Optimizer], lineage: Lineage
) -> None:
    """Make the tensors as small again."""
    place = f"return to before {change.cohort!r}"
    for tensor, axes in _recorded(model, change, lineage, place, grown=True):
        reshape(tensor, optimizers, partial(extracted, axes=axes))
    write(model, change.written, lineage, grow=False)


def _recorded(
    model: nn.Module, change: Resized, lineage: Lineage, place: str, *, grown: bool
) -> list[tuple[Tensor, Axes]]:
    """The tensors of a change, each with what was recorded of it; all checked first."""
    there = tensors_of(model)
    found: list[tuple[Tensor, Axes]] = []
    for stable, axes in change.grown:
        name = lineage.today(stable)
        if name not in there:
            raise SelectorError(f"{place}: the model has no parameter or buffer {name!r}")
        expected = shapes(axes)[1 if grown else 0]
        if tuple(there[name].shape) != expected:
            raise UnsupportedError(
                f"{place}: {name!r} had shape {expected}, this model's has "
                f"{tuple(there[name].shape)}; give the model as it was when the run began"
            )
        found.append((there[name], axes))
    return found


def reshape(
    tensor: Tensor, optimizers: Sequence[Optimizer], resized: Callable[[Tensor], Tensor]
) -> None:
    """Give a tensor, and what optimizers keep of its shape, another shape."""
    before = tensor.shape
    for optimizer in optimizers:
        entry = optimizer.state.get(tensor, {})
        for key, value in list(entry.items()):
            if isinstance(value, Tensor) and value.dim() and value.shape == before:
                entry[key] = resized(value)
    give(tensor, resized(tensor))
