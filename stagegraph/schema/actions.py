"""Actions: effects at a boundary, on a transition or at the entry of a stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stagegraph.schema.action_model import ActionModel
from stagegraph.schema.amounts import Factor
from stagegraph.schema.branch_actions import ATTACHABLE, AddExperts, AddHead, Attach, Upcycle
from stagegraph.schema.growth_actions import Deepen, GrowthAction, SizedGrowth
from stagegraph.schema.inherit_actions import Inherit, Regrow
from stagegraph.schema.monitor_actions import WORST, Attribute, Prune
from stagegraph.schema.names import Name
from stagegraph.schema.width_actions import (
    AddHeads,
    AttentionGrowth,
    ExtendContext,
    ExtendVocab,
    UnitGrowth,
    Widen,
    WidenHeadDim,
)

__all__ = [
    "ATTACHABLE",
    "WORST",
    "Action",
    "AddExperts",
    "AddHead",
    "AddHeads",
    "Attach",
    "AttentionGrowth",
    "Attribute",
    "Deepen",
    "ExtendContext",
    "ExtendVocab",
    "GrowthAction",
    "Inherit",
    "Prune",
    "Regrow",
    "RollBack",
    "Send",
    "SizedGrowth",
    "SnapshotAction",
    "TeacherAction",
    "UnitGrowth",
    "Upcycle",
    "Widen",
    "WidenHeadDim",
]


class SnapshotAction(ActionModel):
    """Keep model, optimizer and engine as they are at the start of this boundary."""

    type: Literal["snapshot"]
    name: Name
    """What to call it; a later one of the same name is the newer."""


class TeacherAction(ActionModel):
    """Keep a frozen copy of the model as it is at the start of this boundary, to learn from."""

    type: Literal["teacher"]
    name: Name
    """What to call it; a later one of the same name takes its place."""


class RollBack(ActionModel):
    """Return model, optimizer, clock and all regions to a snapshot.

    What was spent, visits and ``at_most`` do not come back. It must name what will differ this
    time, or it would fail the same way again.
    """

    type: Literal["roll_back"]
    to: Name
    """The snapshot; the newest of that name."""
    data: Literal["rewind", "skip"] = "rewind"
    """Whether the data returns to its position too, or goes on from where it is."""
    lr_factor: Annotated[Factor, Field(gt=0, lt=1)] | None = None
    """A cut of every learning rate from now on."""
    rng: Literal["restore", "fork"] = "restore"
    """``fork``: other random numbers than the last time, derived from the attempt's number."""


class Send(ActionModel):
    """Send an event to all regions, seen at the next boundary."""

    type: Literal["send"]
    event: Name
    """The event, as declared."""


Action = Annotated[
    SnapshotAction
    | TeacherAction
    | RollBack
    | Send
    | Deepen
    | Widen
    | ExtendVocab
    | ExtendContext
    | AddHeads
    | WidenHeadDim
    | Attach
    | Upcycle
    | AddExperts
    | AddHead
    | Inherit
    | Regrow
    | Attribute
    | Prune,
    Field(discriminator="type"),
]
