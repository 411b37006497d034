"""What all activities have, and the selections that they may be about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, TypeVar

from pydantic import BeforeValidator, Discriminator, Field, Tag

from stagegraph.schema.base import Model, Note, as_union
from stagegraph.schema.levels import MovingLevel
from stagegraph.schema.names import Glob, Name

__all__ = [
    "ActivityModel",
    "GroupMembers",
    "GrownCohort",
    "Selection",
    "SelectionPart",
    "leaving_some",
]


class GrownCohort(Model):
    """The parameters that one named growth added."""

    grown: Name
    """The cohort's name."""


class GroupMembers(Model):
    """The parameters in groups of the optimizer."""

    group: Glob
    """A shell pattern over the groups' names: what each has under its key ``name``."""


def _selection_tag(value: object) -> str:
    if isinstance(value, str):
        return "glob"
    named = isinstance(value, dict) and "group" in value
    return "group" if named or isinstance(value, GroupMembers) else "cohort"


SelectionPart = Annotated[
    Annotated[Glob, Tag("glob")]
    | Annotated[GrownCohort, Tag("cohort")]
    | Annotated[GroupMembers, Tag("group")],
    Discriminator(_selection_tag),
]


Selection = Annotated[
    tuple[SelectionPart, ...], BeforeValidator(as_union), Field(min_length=1, max_length=200)
]
"""``all``, ``grown`` (this region's last growth), ``{grown: name}``, ``{group: name}``, a glob, or
a list of them."""


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
    def excepted(self) -> Selection:
        """What is taken out of the selection; none for most."""
        but: Selection = getattr(self, "but", ())
        return but

    @property
    def levels(self) -> Mapping[str, float | MovingLevel]:
        """Its numbers that may move while it is held, by key, but for a ramp's own value."""
        return {}


A = TypeVar("A", bound=ActivityModel)


def leaving_some(activity: A) -> A:
    """Refuse an activity that takes out all that it is about.

    Raises:
        ValueError: It does.
    """
    if activity.selection and set(activity.selection) <= set(activity.excepted):
        raise ValueError("'but' takes out all that 'of' names; nothing would be left")
    return activity
