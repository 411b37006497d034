"""StageGraph: the document, whole."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, cast

from pydantic import (
    Discriminator,
    Field,
    PrivateAttr,
    StringConstraints,
    Tag,
    model_validator,
)

from stagegraph.progress import Duration
from stagegraph.schema.activities import Activity
from stagegraph.schema.amounts import Count, Number, Operations, Seconds
from stagegraph.schema.base import FrozenMap, Model, Note, Seq
from stagegraph.schema.names import MAIN, MetricName, Name
from stagegraph.schema.source import Source
from stagegraph.schema.spaces import Spaces
from stagegraph.schema.stages import Stage
from stagegraph.schema.templates.overlapping import UseOverlapping
from stagegraph.schema.templates.template import RegionTemplate, UseRegions
from stagegraph.schema.transitions import Interrupt

__all__ = ["Budget", "Metric", "Region", "Regions", "StageGraph", "SubGraph"]


class Metric(Model):
    """A metric that guards may read."""

    goal: Literal["minimize", "maximize"]
    """Which way is better."""
    every: Duration | None = None
    """How often it is evaluated."""
    look_every: Duration | None = None
    """How often its values are looked at; default: each. What comes sooner is told in the journal
    alone."""
    nonfinite: Literal["unknown", "error"] = "unknown"
    """What a value that is NaN or infinite does: the metric is unknown, or the call that brought
    it raises."""
    reduce: Literal["mean", "sum", "min", "max", "any", "all", "rank0"] = "mean"
    """On several ranks: what their values come to. A rank that gives none does not count; under
    ``rank0`` the first alone does. ``any`` and ``all`` give 1 or 0."""
    source: Annotated[
        Seq[Annotated[str, StringConstraints(min_length=1, max_length=200)]],
        Field(max_length=50),
    ] = ()
    """What hosts call it; default: its own name."""
    note: Note | None = None
    """A remark for people."""


class Budget(Model):
    """Limits. ``params`` blocks growth past it; any other one ends the run when it is spent."""

    params: Count | None = None
    """How many parameters the model may have."""
    steps: Count | None = None
    """Optimizer updates."""
    epochs: Annotated[Number, Field(gt=0)] | None = None
    """Passes over the data."""
    samples: Count | None = None
    """Training samples."""
    tokens: Count | None = None
    """Training tokens."""
    flops: Operations | None = None
    """Floating-point operations, such as ``2e21``."""
    seconds: Seconds | None = None
    """Wall time of training: seconds, or an amount such as ``90 min``."""


Stages = Annotated[FrozenMap[Name, Stage], Field(min_length=1, max_length=1000)]
Interrupts = Annotated[Seq[Interrupt], Field(max_length=200)]


class Region(Model):
    """One of the machines that run side by side."""

    initial: Name
    """The stage it starts in."""
    stages: Stages
    """Its stages by name."""
    interrupts: Interrupts = ()
    """Ways out of several of its stages."""
    priority: int = 0
    """Who goes first when two regions want to change the model at once; higher wins."""
    note: Note | None = None
    """A remark for people."""


class SubGraph(Model):
    """Stages to be put in elsewhere with ``use``."""

    initial: Name
    """The stage it starts in."""
    stages: Stages
    """Its stages by name."""
    activities: FrozenMap[Name, Activity] = FrozenMap()
    """Its named activities."""
    interrupts: Interrupts = ()
    """Ways out of several of its stages."""
    note: Note | None = None
    """A remark for people."""


@lru_cache(maxsize=256)
def _put_in(template: RegionTemplate) -> FrozenMap[str, Region]:
    """The regions that a template means."""
    made = template.regions()
    return FrozenMap({name: Region.model_validate(region) for name, region in made.items()})


def _regions_tag(value: Any) -> str:
    """``use NAME`` for a template; a region may be called ``use``, but is no text."""
    if isinstance(value, UseRegions):
        return f"use {value.use}"
    name = value.get("use") if isinstance(value, Mapping) else None
    return f"use {name}" if isinstance(name, str) else "regions"


Regions = Annotated[
    Annotated[FrozenMap[Name, Region], Field(min_length=1, max_length=50), Tag("regions")]
    | Annotated[UseOverlapping, Tag("use overlapping")],
    Discriminator(_regions_tag),
]


class StageGraph(Model):
    """A training run as a graph of stages: frozen, hashable, the same from Python, JSON and YAML.

    Either ``initial`` and ``stages`` (one region, called ``main``) or ``regions``.
    """

    model_config = {"populate_by_name": True}

    schema_: Annotated[str, StringConstraints(max_length=1000)] | None = Field(
        default=None, alias="$schema"
    )
    """Where an editor finds the JSON Schema; not part of the meaning."""
    stagegraph: Literal[1]
    """The version of the document's form."""
    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    """The graph's title."""
    note: Note | None = None
    """A remark for people."""
    metrics: FrozenMap[MetricName, Metric] = FrozenMap()
    """The metrics that guards read."""
    events: Seq[Name] = ()
    """The events that actions and the outside may send."""
    budget: Budget = Budget()
    """Limits."""
    max_overlap: Annotated[int, Field(ge=1, le=100)] = Field(default=cast("Any", None))
    """How many regions may be between a growth and the end of its consolidation at once; default:
    one, and two with the template ``overlapping``."""
    waive: FrozenMap[str, Annotated[str, StringConstraints(min_length=3, max_length=500)]] = (
        FrozenMap()
    )
    """Findings to let pass: the finding's name, and the reason."""
    spaces: Spaces = Spaces()
    """Which axes of which tensors belong together, for growths in width."""
    activities: FrozenMap[Name, Activity] = FrozenMap()
    """Named activities: one goes on without a break while consecutive stages list it."""
    graphs: FrozenMap[Name, SubGraph] = FrozenMap()
    """Groups of stages to be put in with ``use``."""
    initial: Name | None = None
    """With one region: the stage it starts in."""
    stages: Stages | None = None
    """With one region: its stages by name."""
    regions: Regions | None = None
    """With several regions: each by name; or ``use`` and ``with`` of a template that makes them."""
    interrupts: Interrupts = ()
    """Ways out of several stages, looked at first."""

    _source: Source = PrivateAttr(default_factory=Source)

    @model_validator(mode="after")
    def _one_form(self) -> StageGraph:
        single = self.initial is not None or self.stages is not None
        if single and self.regions is not None:
            raise ValueError("write either 'initial' and 'stages' (one region) or 'regions'")
        if not single and self.regions is None:
            raise ValueError("there are no stages: write 'initial' and 'stages', or 'regions'")
        if single and (self.initial is None or self.stages is None):
            missing = "initial" if self.initial is None else "stages"
            raise ValueError(f"{missing!r} is missing; one region needs 'initial' and 'stages'")
        if self.max_overlap is None:  # it was not said; what holds then is known from here on
            self.__dict__["max_overlap"] = self.default_overlap
        return self

    @property
    def all_regions(self) -> FrozenMap[str, Region]:
        """The regions by name; a graph that declares none has one, ``main``."""
        if isinstance(self.regions, UseRegions):
            return _put_in(self.regions.with_)
        if self.regions is not None:
            return self.regions
        assert self.initial is not None and self.stages is not None
        return FrozenMap({MAIN: Region(initial=self.initial, stages=self.stages)})

    @property
    def default_overlap(self) -> int:
        """What ``max_overlap`` is where the document does not say it."""
        return self.regions.with_.overlap if isinstance(self.regions, UseRegions) else 1

    @property
    def source(self) -> Source:
        """Where the graph was read from: file, and line and column of every JSON pointer."""
        return self._source
