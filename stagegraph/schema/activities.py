"""Activities: effects that live with their stage (``during``) and end with it.

Factors and freezes are released at every exit; alpha is part of the model and stays.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from stagegraph.progress import Duration
from stagegraph.schema.amounts import Factor, Number
from stagegraph.schema.base import Model, Note, as_union
from stagegraph.schema.names import Glob, Name

__all__ = [
    "Activity",
    "AlphaRamp",
    "Curve",
    "Difficulty",
    "Freeze",
    "GrownCohort",
    "LrFactor",
    "LrRamp",
    "Ramp",
    "Selection",
]

Curve = Literal["linear", "cosine", "exponential"]
"""The shape of a ramp; each begins at ``start`` and reaches ``end`` exactly."""

Alpha = Annotated[Number, Field(ge=0, le=1)]


class GrownCohort(Model):
    """The parameters that one named growth added."""

    grown: Name
    """The cohort's name."""


def _selection_tag(value: object) -> str:
    return "glob" if isinstance(value, str) else "cohort"


_Selected = Annotated[
    Annotated[Glob, Tag("glob")] | Annotated[GrownCohort, Tag("cohort")],
    Discriminator(_selection_tag),
]


Selection = Annotated[
    tuple[_Selected, ...], BeforeValidator(as_union), Field(min_length=1, max_length=200)
]
"""``all``, ``grown`` (this region's last growth), ``{grown: name}``, a glob, or a list of them."""

ALL: Selection = ("all",)


class ActivityModel(Model):
    """What every activity has."""

    writes: ClassVar[str]
    """The knob it holds: ``alpha``, ``lr``, ``grad`` or a data knob."""
    disturbs: ClassVar[bool] = True
    """Whether its start and end bend the metrics' curves."""
    data: ClassVar[bool] = False
    """Whether it changes the data."""
    note: Note | None = None
    """A remark for people."""


class Ramp(ActivityModel):
    """A value that moves along a curve from its start to its end."""

    over: Duration
    """How long it takes; at the end of it the value is ``end``."""
    curve: Curve = "linear"
    """The shape."""


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
        globs = [part for part in self.of if isinstance(part, str) and part != "grown"]
        if globs:
            raise ValueError(
                f"an alpha ramp blends what a growth added: write 'grown' or {{grown: name}}, "
                f"not {globs[0]!r}"
            )
        return self


class LrRamp(Ramp):
    """A learning-rate factor that moves from ``start`` to ``end``, on top of the host's LR."""

    writes: ClassVar = "lr"
    type: Literal["lr_ramp"]
    of: Selection = ALL
    """Which parameters."""
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
        return self


class LrFactor(ActivityModel):
    """A constant learning-rate factor, on top of the host's LR."""

    writes: ClassVar = "lr"
    type: Literal["lr_factor"]
    of: Selection = ALL
    """Which parameters."""
    factor: Factor
    """The factor."""


class Freeze(ActivityModel):
    """Keep parameters as they are: no gradient, no update, no weight decay."""

    writes: ClassVar = "grad"
    type: Literal["freeze"]
    of: Selection
    """Which parameters."""
    norms: Literal["keep", "eval"] = "keep"
    """``eval``: norms with running statistics inside the selection stop updating them."""


class Difficulty(ActivityModel):
    """The difficulty level of the data, for a sampler that knows levels."""

    writes: ClassVar = "difficulty"
    data: ClassVar = True
    type: Literal["difficulty"]
    level: Annotated[int, Field(ge=0, le=1_000_000)]
    """The level, from 0."""


Activity = Annotated[
    AlphaRamp | LrRamp | LrFactor | Freeze | Difficulty, Field(discriminator="type")
]


def _during_tag(value: object) -> str:
    return "name" if isinstance(value, str) else "activity"


During = Annotated[
    Annotated[Name, Tag("name")] | Annotated[Activity, Tag("activity")],
    Discriminator(_during_tag),
]
"""An activity written in place, or the name of one from ``activities:``."""
