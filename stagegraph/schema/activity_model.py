"""What all activities have, and the selections that they may be about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Discriminator, Field, Tag

from stagegraph.schema.base import Model, Note, as_union
from stagegraph.schema.levels import MovingLevel
from stagegraph.schema.names import Glob, Name

__all__ = ["ActivityModel", "GrownCohort", "Selection"]


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


class ActivityModel(Model):
    """What every activity has."""

    writes: ClassVar[str]
    """The knob it holds: ``alpha``, ``lr``, ``grad``, ``loss``, ``head`` or a data knob."""
    disturbs: ClassVar[bool] = True
    """Whether its start and end bend the metrics' curves."""
    data: ClassVar[bool] = False
    """Whether it changes the data."""
    note: Note | None = None
    """A remark for people."""

    @property
    def selection(self) -> Selection:
        """The parameters that it is about; none where it is about something else."""
        of: Selection = getattr(self, "of", ())
        return of

    @property
    def levels(self) -> Mapping[str, float | MovingLevel]:
        """Its numbers that may move while it is held, by key, but for a ramp's own value."""
        return {}
