"""Growths by new modules: branches, mixtures of experts, and heads."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from stagegraph.schema.amounts import Count, Number
from stagegraph.schema.base import Seq
from stagegraph.schema.growth_actions import GrowthAction, SizedGrowth
from stagegraph.schema.names import Glob, Name

__all__ = [
    "ATTACHABLE",
    "AddExperts",
    "AddHead",
    "Attach",
    "Upcycle",
]


ATTACHABLE: dict[str, tuple[str, ...]] = {
    "adapter": ("bottleneck", "act", "norm", "bias", "in_features", "out_features", "axis"),
    "linear": ("bias", "in_features", "out_features", "axis"),
    "mlp": ("hidden", "act", "norm", "bias", "in_features", "out_features", "axis"),
    "copy": (),
}
"""The modules that can be attached without code, and which fields each takes."""

_NEEDED = {"adapter": "bottleneck", "mlp": "hidden"}


class Attach(GrowthAction):
    """Give modules of the model a new module beside or after them.

    With f the host and α the blend: ``parallel`` is ``y = f(x) + α g(x)``, ``after`` is
    ``y = f(x) + α g(f(x))``. The new module is a child of its host and runs in a forward hook.
    """

    blends: ClassVar = True
    prunable: ClassVar = True
    type: Literal["attach"]
    host: Annotated[Seq[Glob], Field(min_length=1)]
    """The modules that get one each, such as ``blocks.*.mlp``; ``*`` is one part of a path."""
    module: Name
    """What they get: ``adapter``, ``linear``, ``mlp``, ``copy`` (the host once more), or the name
    of a builder given as ``parts``."""
    mode: Literal["parallel", "after"] = "parallel"
    """Whether it reads what its host reads, or what its host makes."""
    child: Name | None = None
    """What it is called inside its host; default: as ``module``."""
    init: Literal["zero", "keep"] | None = None
    """``zero``: its last linear layer is zero, so that nothing changes at first; ``keep``: as it is
    made. Default: ``zero`` for ours, ``keep`` for what a builder makes."""
    bottleneck: Count | None = None
    """For an adapter: how many features between down and up."""
    hidden: Count | None = None
    """For an mlp: how many features between up and down."""
    act: Literal["gelu", "relu", "silu", "tanh"] | None = None
    """The activation; default: ``gelu``."""
    norm: Literal["none", "layer", "rms"] | None = None
    """A norm before the first layer; default: none."""
    bias: bool | None = None
    """Whether its linear layers have a bias; default: yes."""
    in_features: Count | None = None
    """How many features it reads, if its host's layers do not tell."""
    out_features: Count | None = None
    """How many features it writes, if its host's layers do not tell."""
    axis: Annotated[int, Field(ge=-8, le=8)] | None = None
    """The axis of the features, such as 1 for images; default: the last."""

    @model_validator(mode="after")
    def _fields_of_the_module(self) -> Attach:
        every = {name for names in ATTACHABLE.values() for name in names}
        takes = ATTACHABLE.get(self.module, ())
        given = [name for name in sorted(every) if getattr(self, name) is not None]
        extra = [name for name in given if name not in takes]
        if extra:
            what = f"takes {', '.join(takes)}" if takes else "takes none of these"
            raise ValueError(f"module {self.module!r} {what}; got {', '.join(extra)}")
        needed = _NEEDED.get(self.module)
        if needed is not None and needed not in given:
            raise ValueError(f"module {self.module!r} needs a size: give {needed!r}")
        return self


class Upcycle(GrowthAction):
    """Make a mixture of experts of an MLP, in place (2212.05055).

    The MLP itself is expert 0, copies of it are the others, and a random router sends each token to
    ``top_k`` of them, whose outputs it weighs to a sum of 1: nothing changes at first.
    """

    blends: ClassVar = True
    prunable: ClassVar = True
    type: Literal["upcycle"]
    host: Annotated[Seq[Glob], Field(min_length=1)]
    """The MLPs, such as ``blocks.*.mlp``; ``*`` is one part of a path."""
    experts: Annotated[int, Field(ge=2, le=4096)]
    """How many experts there are then, the MLP itself among them."""
    top_k: Annotated[int, Field(ge=1, le=4096)] = 2
    """How many of them a token is sent to."""
    noise: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """Noise on the copies, relative to the spread of each weight; not exact."""
    reinit: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """The share of the copies' hidden units to draw anew (2502.19261); not exact."""
    child: Name = "moe"
    """What the router and the copies are called inside the MLP."""

    @model_validator(mode="after")
    def _no_more_than_there_are(self) -> Upcycle:
        if self.top_k > self.experts:
            raise ValueError(f"top_k is {self.top_k}, and there are {self.experts} experts")
        return self


class AddExperts(SizedGrowth):
    """Give mixtures of experts more experts, copies of those there are, with copied router rows.

    With ``top_k: scale`` as many times as many are taken, and nothing changes (2510.08008). With
    ``keep`` (2604.19835) it does, unless an alpha ramp from 0 lets the router find them.
    """

    blends: ClassVar = True
    type: Literal["add_experts"]
    moe: Annotated[Seq[Glob], Field(min_length=1)]
    """The mixtures, such as ``blocks.*.mlp.moe``; ``*`` is one part of a path."""
    top_k: Literal["keep", "scale"] = "scale"
    """Whether a token is sent to as many experts as before, or to as many times more as there are
    more experts."""
    noise: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """Noise on the copies, relative to the spread of each weight; not exact."""
    experts: Glob | None = None
    """For a mixture of the model's own: where its ``nn.ModuleList`` of experts is, inside it."""
    router: Glob | None = None
    """For a mixture of the model's own: where its router is, an ``nn.Linear`` inside it."""
    active: Glob | None = None
    """For a mixture of the model's own: its attribute that holds how many a token is sent to."""
    count: Seq[Glob] = ()
    """For a mixture of the model's own: its attributes that hold how many experts there are."""

    @model_validator(mode="after")
    def _declared_together(self) -> AddExperts:
        if (self.experts is None) != (self.router is None):
            raise ValueError("'experts' and 'router' declare a mixture together; give both")
        if self.experts is None and (self.active is not None or self.count):
            raise ValueError("'active' and 'count' are for a mixture declared by 'experts'")
        return self


class AddHead(GrowthAction):
    """Give the model's own dictionary of heads one more, in place.

    The backbone stays shared and is trained on; a ``head`` activity says which head is in use. As
    nobody uses the new one yet, nothing changes.
    """

    type: Literal["add_head"]
    heads: Glob
    """Path of the ``nn.ModuleDict``, such as ``heads``."""
    head: Name
    """What the new head is called in it."""
    like: Glob | None = None
    """The head that it is made like; default: the newest."""
    init: Literal["copy", "fresh"] = "copy"
    """Whether it begins with that one's weights, or is initialised anew."""
