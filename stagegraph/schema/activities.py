"""Activities: effects that live with their stage (``during``) and end with it.

Factors and freezes are released at every exit; alpha is part of the model and stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from stagegraph.progress import Duration
from stagegraph.schema.activity_model import (
    ActivityModel,
    GroupMembers,
    GrownCohort,
    Selection,
    SelectionPart,
    leaving_some,
)
from stagegraph.schema.amounts import Factor, Number
from stagegraph.schema.base import Model, Seq, as_union
from stagegraph.schema.data_activities import BatchSize, Difficulty, Mixture, SequenceLength
from stagegraph.schema.hyper import Hyper
from stagegraph.schema.levels import Curve, Level, MovingLevel, bounds_of, rests_at_zero
from stagegraph.schema.names import Glob, Name

__all__ = [
    "Activity",
    "ActivityModel",
    "AlphaRamp",
    "BatchSize",
    "Curve",
    "Difficulty",
    "Distill",
    "Freeze",
    "GroupMembers",
    "GrownCohort",
    "Head",
    "Hyper",
    "LrFactor",
    "LrRamp",
    "Mixture",
    "Ramp",
    "Selection",
    "SequenceLength",
    "WeightedTeacher",
    "overs",
]

Alpha = Annotated[Number, Field(ge=0, le=1)]


ALL: Selection = ("all",)
NONE: tuple[SelectionPart, ...] = ()


def _not_all(selection: tuple[SelectionPart, ...]) -> tuple[SelectionPart, ...]:
    if "all" in selection or "*" in selection:
        raise ValueError("'but' takes out of 'of', and without all nothing would be left")
    return selection


But = Annotated[
    tuple[SelectionPart, ...],
    BeforeValidator(as_union),
    Field(max_length=200),
    AfterValidator(_not_all),
]
"""What is taken out of a selection; it may be nothing."""


class Ramp(ActivityModel):
    """A value that moves along a curve from its start to its end."""

    over: Duration
    """How long it takes; at the end of it the value is ``end``."""
    curve: Curve = "linear"
    """The shape: ``linear``, ``cosine``, ``exponential``, or points."""


class AlphaRamp(Ramp):
    """Blend new blocks in: out = lerp(in, block(in), alpha), alpha from ``start`` to ``end``."""

    writes: ClassVar = "alpha"
    disturbs: ClassVar = False
    type: Literal["alpha_ramp"]
    of: Selection
    """The growth to blend in; ``grown`` or ``{grown: name}``."""
    start: Alpha = 0.0
    """Alpha at the first update."""
    end: Alpha = 1.0
    """Alpha when complete."""

    @model_validator(mode="after")
    def _of_cohorts(self) -> AlphaRamp:
        others = [
            f"{{group: {part.group}}}" if isinstance(part, GroupMembers) else repr(part)
            for part in self.of
            if part != "grown" and not isinstance(part, GrownCohort)
        ]
        if others:
            raise ValueError(
                f"an alpha ramp blends what a growth added: write 'grown' or {{grown: name}}, "
                f"not {others[0]}"
            )
        return self


class LrRamp(Ramp):
    """A learning-rate factor that moves from ``start`` to ``end``, on top of the host's LR."""

    writes: ClassVar = "lr"
    type: Literal["lr_ramp"]
    of: Selection = ALL
    """Which parameters."""
    but: But = NONE
    """Which of them not; ``but: grown`` leaves what the last growth added out."""
    start: Factor = 1.0
    """The factor at the first update."""
    end: Factor = 1.0
    """The factor when complete, held until the stage is left."""

    @model_validator(mode="after")
    def _moves(self) -> LrRamp:
        if self.start == self.end:
            raise ValueError(
                f"this ramp goes from {self.start:g} to {self.end:g}; "
                "give 'start' or 'end', or use lr_factor"
            )
        return leaving_some(self)


class LrFactor(ActivityModel):
    """A constant learning-rate factor, on top of the host's LR."""

    writes: ClassVar = "lr"
    type: Literal["lr_factor"]
    of: Selection = ALL
    """Which parameters."""
    but: But = NONE
    """Which of them not; ``but: grown`` leaves what the last growth added out."""
    factor: Factor
    """The factor."""

    @model_validator(mode="after")
    def _leaves_some(self) -> LrFactor:
        return leaving_some(self)


class Freeze(ActivityModel):
    """Keep parameters as they are: no gradient, no update, no weight decay."""

    writes: ClassVar = "grad"
    type: Literal["freeze"]
    of: Selection
    """Which parameters."""
    but: But = NONE
    """Which of them not; ``of: all, but: grown`` is the host of what has grown."""
    norms: Literal["keep", "eval"] = "keep"
    """``eval``: norms with running statistics inside the selection stop updating them."""
    dropout: Literal["keep", "eval"] = "keep"
    """``eval``: modules that are frozen as a whole drop nothing out, as after ``eval()``."""

    @model_validator(mode="after")
    def _leaves_some(self) -> Freeze:
        return leaving_some(self)


class Head(ActivityModel):
    """Let an attribute of the model say which of its heads is in use.

    The attribute is the model's own, and the model's own ``forward`` reads it. When the stage is
    left it gets back what it held before.
    """

    writes: ClassVar = "head"
    type: Literal["head"]
    of: Glob
    """Dotted path of the attribute from the model, such as ``active_head``."""
    use: Glob
    """What it holds while the stage lasts: the name of the head."""

    @property
    def selection(self) -> Selection:
        """None: it is about an attribute."""
        return ()


class WeightedTeacher(Model):
    """A teacher among several, and how much it counts."""

    name: Name
    """The teacher."""
    weight: Level = 1.0
    """Its share of the targets; the shares of all teachers are made to add up to 1."""


def _teacher_tag(value: object) -> str:
    return "name" if isinstance(value, str) else "weighted"


_Teacher = Annotated[
    Annotated[Name, Tag("name")] | Annotated[WeightedTeacher, Tag("weighted")],
    Discriminator(_teacher_tag),
]

Measure = Literal["kl", "mse", "cosine"]
"""How far a student is from its target."""


class Distill(ActivityModel):
    """Learn from teachers too: their outputs become targets beside those of the task.

    ``kl`` (1503.02531): temperature² times the divergence of the student's probabilities from the
    teachers'. ``mse`` and ``cosine``: of logits, or of what chosen modules put out.
    """

    writes: ClassVar = "loss"
    type: Literal["distill"]
    teachers: Annotated[
        tuple[_Teacher, ...], BeforeValidator(as_union), Field(min_length=1, max_length=16)
    ]
    """The teacher's name, a mapping with its name and its weight, or a list of these."""
    on: Literal["logits", "features"] = "logits"
    """What is compared: the model's logits, or what modules put out."""
    loss: Measure | None = None
    """The measure; by default ``kl`` on logits, ``mse`` on features."""
    temperature: Level = 1.0
    """For ``kl``: what the logits are divided by on both sides."""
    weight: Level = 1.0
    """How much it counts in the loss."""
    mix: Literal["add", "interpolate"] = "add"
    """``add``: loss + weight × distance; ``interpolate``: (1 − weight) × loss beside it."""
    features: Seq[Glob] = ()
    """For ``on: features``: the modules whose outputs are compared."""
    axis: Annotated[int, Field(ge=-8, le=8)] = -1
    """For ``kl`` and ``cosine``: the axis of the classes or channels."""

    @property
    def measure(self) -> Measure:
        """The measure that is meant."""
        return self.loss or ("kl" if self.on == "logits" else "mse")

    @property
    def weighted(self) -> tuple[WeightedTeacher, ...]:
        """The teachers, each with its share."""
        return tuple(
            WeightedTeacher.model_construct(name=one, weight=1.0) if isinstance(one, str) else one
            for one in self.teachers
        )

    @property
    def levels(self) -> Mapping[str, float | MovingLevel]:
        """``weight``, ``temperature``, and per teacher ``share:NAME``."""
        shares = {f"share:{one.name}": one.weight for one in self.weighted}
        return {"weight": self.weight, "temperature": self.temperature, **shares}

    @model_validator(mode="after")
    def _fits(self) -> Distill:
        if self.on == "features" and not self.features:
            raise ValueError("on: features needs 'features', the modules whose outputs to compare")
        if self.on == "logits" and self.features:
            raise ValueError("'features' belongs to on: features; leave it out, or write that")
        if self.on == "features" and self.measure == "kl":
            raise ValueError("kl compares probabilities; for features take loss: mse or cosine")
        if self.measure != "kl" and self.temperature != 1.0:
            raise ValueError(f"'temperature' belongs to loss: kl; {self.measure} has none")
        if min(bounds_of(self.temperature)) <= 0:
            raise ValueError("'temperature' is over 0, at both ends of a moving one")
        return self

    @model_validator(mode="after")
    def _weighs(self) -> Distill:
        if max(bounds_of(self.weight)) == 0:
            raise ValueError("a 'weight' of 0 teaches nothing; leave the activity out")
        if self.mix == "interpolate" and max(bounds_of(self.weight)) > 1:
            raise ValueError("with mix: interpolate the 'weight' is a share of the loss, at most 1")
        names = [one.name for one in self.weighted]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"teacher {twice[0]!r} is named twice; name each once")
        for end, word in enumerate(("begin", "end")):
            if all(bounds_of(one.weight)[end] == 0 for one in self.weighted):
                raise ValueError(
                    f"the weights of all teachers {word} at 0, so that there is no target then; "
                    "let one of them be over 0"
                )
        weights = [one.weight for one in self.weighted]
        resting = any(isinstance(w, MovingLevel) and rests_at_zero(w) for w in weights)
        if resting and all(min(bounds_of(w)) == 0 or rests_at_zero(w) for w in weights):
            raise ValueError(
                "a curve of points holds the weight of a teacher at 0 on its way, and no other "
                "teacher's is over 0 throughout, so that there may be no target then; let one be"
            )
        return self


Activity = Annotated[
    AlphaRamp
    | LrRamp
    | LrFactor
    | Freeze
    | Head
    | Difficulty
    | Mixture
    | SequenceLength
    | BatchSize
    | Hyper
    | Distill,
    Field(discriminator="type"),
]


def overs(activity: Activity) -> tuple[Duration, ...]:
    """How long each of an activity's moving values takes."""
    own = (activity.over,) if isinstance(activity, Ramp) else ()
    return (*own, *(v.over for v in activity.levels.values() if isinstance(v, MovingLevel)))


def _during_tag(value: object) -> str:
    return "name" if isinstance(value, str) else "activity"


During = Annotated[
    Annotated[Name, Tag("name")] | Annotated[Activity, Tag("activity")],
    Discriminator(_during_tag),
]
"""An activity written in place, or the name of one from ``activities:``."""
