"""Inherit: the contents of a smaller model's weights, fitted into the tensors of a larger one.

The shapes, modules and parameters of the model stay what they are. What becomes of each tensor is
decided in :mod:`~.fitting`; this file makes the new contents, puts them in, and accounts for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stagegraph.actions.changes import Axes, Change, Inherited
from stagegraph.actions.giving import give
from stagegraph.actions.growth.certificate import read
from stagegraph.actions.growth.inherit.extra_blocks import silence
from stagegraph.actions.growth.inherit.fits import Fit
from stagegraph.actions.growth.inherit.fitting import Fitting, fit
from stagegraph.actions.growth.inherit.weights import Weights, named_weights
from stagegraph.actions.growth.operation import Committed, Planned, Prepared, Site
from stagegraph.actions.growth.trial import twin
from stagegraph.actions.growth.width.embedding import new_entries
from stagegraph.actions.growth.width.resize import recorded_writings, tensors_of, write
from stagegraph.actions.lineage import Lineage
from stagegraph.errors import UnsupportedError
from stagegraph.schema.actions import Inherit

__all__ = ["InheritPlan", "NewContents", "of_weights", "plan", "rebuild", "unwind"]


@dataclass(frozen=True, slots=True)
class InheritPlan(Planned):
    """What a model will inherit.

    Attributes:
        place: Where it is written.
        action: What is asked for.
        weights: The smaller model's weights.
        fitting: What becomes of each tensor.
    """

    place: str
    action: Inherit
    weights: Weights
    fitting: Fitting

    @property
    def cost(self) -> int:
        """None: the parameters are there."""
        return 0

    def change(self, lineage: Lineage, *, cohort: str, step: int) -> Inherited:
        """What is new, and which attributes say something else."""
        return Inherited(
            cohort=cohort,
            step=step,
            source=self.action.source,
            how=self.action.how,
            grown=tuple(
                (lineage.stable(one.name), axes)
                for one in self.fitting.fits
                if (axes := _new_in(one)) is not None
            ),
            written=recorded_writings(self.fitting.writings, lineage),
        )

    def prepare(self, site: Site, *, seed: int) -> NewContents:
        """Make the new contents.

        Raises:
            UnsupportedError: An additional block does not become the identity.
        """
        new = {
            one.name: _content(one, seed=crc32(f"{seed}|{site.lineage.stable(one.name)}".encode()))
            for one in self.fitting.fits
            if one.taken
        }
        return NewContents(self, new, self._silenced(site, new, seed))

    def _silenced(
        self, site: Site, new: dict[str, Tensor], seed: int
    ) -> Mapping[str, tuple[str, ...]]:
        """Zero what makes additional blocks the identity, in the new contents."""
        blocks = self.fitting.extras()
        if not blocks:
            return {}
        if site.probe is None:
            raise UnsupportedError(
                f"{self.place}: {', '.join(blocks)} are not in the weights and are to be the "
                "identity, which is proven on a batch; give probe=, or take stacks: stack, "
                "interleave or leave"
            )
        trial = twin(site.model, meta=False)
        change = self.change(site.lineage, cohort="trial", step=0)
        _put(trial, {name: content.clone() for name, content in new.items()}, change, site.lineage)
        done = silence(trial, blocks, site.probe, self.action.zero, place=self.place)
        tensors = tensors_of(trial)
        for path, names in done.items():
            for name in names:
                new[f"{path}.{name}"] = tensors[f"{path}.{name}"].detach()
        return done


def _new_in(one: Fit) -> Axes | None:
    """Where in a tensor lies what the smaller model did not have; ``None`` if nowhere."""
    shape = tuple(one.tensor.shape)
    if one.taken and one.extra is None:
        return one.axes if one.growth is None else one.growth.axes
    if not shape or one.status == "refused":
        return None
    return tuple(
        (((size if dim else 0, size),),) for dim, size in enumerate(shape)
    )  # all of it: there were none of its rows


def _content(one: Fit, *, seed: int) -> Tensor:
    """The new content of a tensor, with its dtype, device and memory format."""
    target, small = one.tensor.detach(), one.content
    assert small is not None
    value = small.to(target.device, torch.promote_types(small.dtype, target.dtype))
    out = value if one.growth is None else one.growth.grown(value, seed=seed)
    new = torch.empty_like(target)
    if one.axes is None:
        return new.copy_(out)
    old = ~new_entries(one.axes).to(target.device)
    new.copy_(target)
    new[old] = value.reshape(-1).to(target.dtype)
    return new


@dataclass(frozen=True, slots=True)
class NewContents(Prepared):
    """The new contents, not yet in the model.

    Attributes:
        plan: The plan.
        new: The content of each tensor by today's name.
        zeroed: Per additional block the names of its parameters that were zeroed.
    """

    plan: InheritPlan
    new: Mapping[str, Tensor]
    zeroed: Mapping[str, tuple[str, ...]]

    def commit(self, site: Site, change: Change) -> Committed:
        """Give parameters and buffers their new contents.

        Raises:
            UnsupportedError: The model was to compute what the smaller one does, and does not.
        """
        assert isinstance(change, Inherited)
        _put(site.model, self.new, change, site.lineage)
        state = _forget(site, self.new) if self.plan.action.state == "reset" else 0
        changed = self.distance(site)
        if self.plan.action.strict:
            self._refuse_changed(changed)
        fitting = self.plan.fitting
        return Committed(
            templates={},
            marks={
                one.tensor: torch.ones((1,) * one.tensor.dim(), dtype=torch.bool)
                for one in fitting.fits
                if one.taken and isinstance(one.tensor, nn.Parameter)
            },
            exact=False,
            remedy="",
            evidence={
                "source": self.plan.action.source,
                "how": self.plan.action.how,
                "stacks": {path: list(sizes) for path, sizes in fitting.blocks.items()},
                "units": {space: list(sizes) for space, sizes in fitting.units.items()},
                "tensors": counts(fitting),
                "left": [one.name for one in fitting.fits if one.status == "left"],
                "refused": {one.name: one.words for one in fitting.refused},
                "unused": list(fitting.unused),
                "norms": list(fitting.norms),
                "tied": list(fitting.tied),
                "zeroed": {path: list(names) for path, names in self.zeroed.items()},
                "promised": fitting.exact,
                "from_source": None if changed is None else changed.as_json(),
                "state": {"policy": self.plan.action.state, "forgotten": state},
            },
            learns=False,
        )

    def distance(self, site: Site) -> Distance | None:
        """How far the model's output is from the smaller one's; ``None`` if nobody can tell."""
        small, probe = self.plan.weights.model, site.probe
        if small is None or probe is None:
            return None
        return measure(site.model, small, probe)

    def _refuse_changed(self, changed: Distance | None) -> None:
        if changed is None or not self.plan.fitting.exact or changed.word.startswith("exact"):
            return
        told = "has another shape" if changed.change is None else f"differs by {changed.change:.3g}"
        raise UnsupportedError(
            f"{self.plan.place}: the model was to compute what {self.plan.action.source!r} does, "
            f"and its output on the probe {told}: something between the spaces that grew does not "
            "commute with the maps (the scale of an attention, another activation); make the "
            "models alike there, or write strict: false"
        )

    def follow(self, averaged: nn.Module, site: Site, change: Change) -> None:
        """Give an averaged copy the same contents; it begins anew."""
        assert isinstance(change, Inherited)
        copies = {name: content.clone() for name, content in self.new.items()}
        _put(averaged, copies, change, site.lineage)


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a model is from the one that it inherits from, on the probe in eval mode.

    Attributes:
        change: The largest difference of the outputs; ``None`` if their shapes differ.
        word: What that amounts to, for outputs of this size and precision.
    """

    change: float | None
    word: Literal["exact", "exact up to rounding", "approximate"]

    def as_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {"change": self.change, "exactness": self.word}


def measure(model: nn.Module, small: nn.Module, probe: Any) -> Distance:
    """How far a model is from a smaller one; nothing of it stays."""
    mine, theirs = read(model, probe, seed=0).eval, read(small, probe, seed=0).eval
    if mine.shape != theirs.shape:
        return Distance(None, "approximate")
    change = float((mine.double() - theirs.double().to(mine.device)).abs().max())
    eps = max(torch.finfo(mine.dtype).eps, torch.finfo(theirs.dtype).eps)
    if change == 0.0:
        return Distance(change, "exact")
    rounding = change <= 64 * eps * max(1.0, float(theirs.double().abs().max()))
    return Distance(change, "exact up to rounding" if rounding else "approximate")


def counts(fitting: Fitting) -> dict[str, int]:
    """How many tensors were copied, grown, left and refused."""
    found = dict.fromkeys(("copied", "grown", "left", "refused"), 0)
    for one in fitting.fits:
        found[one.status] += 1
    return found


def plan(site: Site, action: Inherit, *, place: str) -> InheritPlan:
    """What a model would inherit; nothing is changed.

    Raises:
        SelectorError: The weights, or something else that is named, are not there.
        UnsupportedError: They do not fit.
    """
    weights = named_weights(site.parts, action.source, place=place)
    return of_weights(site, action, weights, place=place)


def of_weights(site: Site, action: Inherit, weights: Weights, *, place: str) -> InheritPlan:
    """The same, of weights that have been read.

    Raises:
        SelectorError: Something that is named is not there.
        UnsupportedError: They do not fit.
    """
    fitting = fit(site, weights, action, place=place)
    if not any(one.taken for one in fitting.fits):
        known = ", ".join(map(repr, list(weights.tensors)[:3]))
        raise UnsupportedError(
            f"{place}: no tensor of the weights can be taken (they have {known}, ...)"
            f"{_lines(fitting.refused)}; where only the names differ, give rename:"
        )
    if action.strict and fitting.refused:
        raise UnsupportedError(
            f"{place}: {len(fitting.refused)} of the weights cannot be taken:"
            f"{_lines(fitting.refused)}"
        )
    return InheritPlan(place, action, weights, fitting)


def _lines(refused: Sequence[Fit]) -> str:
    return "".join(f"\n  {one.name}{_shapes(one)}: {one.words}" for one in refused)


def _shapes(one: Fit) -> str:
    if one.content is None:
        return ""
    return f" {tuple(one.content.shape)} for {tuple(one.tensor.shape)}"


def _put(model: nn.Module, new: Mapping[str, Tensor], change: Inherited, lineage: Lineage) -> None:
    old = tensors_of(model)
    for name, content in new.items():
        give(old[name], content)
    write(model, change.written, lineage, grow=True)


def _forget(site: Site, new: Mapping[str, Tensor]) -> int:
    """Drop the optimizers' state of what got other contents; how many had one."""
    tensors, forgotten = tensors_of(site.model), 0
    for optimizer in site.optimizers:
        for name in new:
            if optimizer.state.pop(tensors[name], None):
                forgotten += 1
    return forgotten


def rebuild(
    model: nn.Module,
    change: Inherited,
    *,
    optimizers: Sequence[Optimizer],
    lineage: Lineage,
    parts: Mapping[str, Any] | None = None,
) -> None:
    """Make the attributes say what they said; the contents are in the checkpoint."""
    write(model, change.written, lineage, grow=True)


def unwind(
    model: nn.Module, change: Inherited, *, optimizers: Sequence[Optimizer], lineage: Lineage
) -> None:
    """Make the attributes say what they said before; the contents are in the snapshot."""
    write(model, change.written, lineage, grow=False)
