"""Actions: effects at a boundary, on a transition or at the entry of a stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stagegraph.schema.action_model import ActionModel
from stagegraph.schema.amounts import Count, Factor
from stagegraph.schema.branch_actions import ATTACHABLE, AddExperts, AddHead, Attach, Upcycle
from stagegraph.schema.growth_actions import Deepen, GrowthAction, SizedGrowth
from stagegraph.schema.inherit_actions import Inherit, Regrow
from stagegraph.schema.monitor_actions import WORST, Attribute, Prune
from stagegraph.schema.names import Name, Reference
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
    "Baseline",
    "Deepen",
    "ExtendContext",
    "ExtendVocab",
    "GrowthAction",
    "Inherit",
    "Prune",
    "Regrow",
    "RollBack",
    "SaveAction",
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


class Baseline(ActionModel):
    """Remember all metrics as they are at the start of this boundary, and nothing of the model.

    ``since=`` in a guard may name it, as it may name a snapshot.
    """

    type: Literal["baseline"]
    name: Name
    """What to call it; a later one of the same name takes its place."""


class TeacherAction(ActionModel):
    """Keep a frozen copy of the model as it is at the start of this boundary, to learn from."""

    type: Literal["teacher"]
    name: Name
    """What to call it; a later one of the same name takes its place."""


class SaveAction(ActionModel):
    """Write the model's weights, as they are at the start of this boundary, into the run's folder.

    They stay there for ever, whatever the run returns to, this boundary's own ``roll_back``
    included: ``stagegraph.saved`` lists them, ``stagegraph.load_saved`` reads them back.
    """

    type: Literal["save"]
    name: Name
    """What to call them; a later one of the same name is one more, and the newest is meant."""


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
    skip_batches: Count | None = None
    """With ``data: skip``: how many batches to pass over from the snapshot's position on
    (2204.02311), per return to that snapshot, instead of all that were used since."""
    lr_factor: Annotated[Factor, Field(gt=0, lt=1)] | None = None
    """A cut of every learning rate from now on."""
    rng: Literal["restore", "fork"] = "restore"
    """``fork``: other random numbers than the last time, derived from the attempt's number."""
    exclude: Reference | None = None
    """A stage with options: the one that it took last is not taken again."""

    @model_validator(mode="after")
    def _skips(self) -> RollBack:
        if self.skip_batches is not None and self.data != "skip":
            raise ValueError("'skip_batches' belongs to data: skip; write that too")
        return self


class Send(ActionModel):
    """Send an event to all regions, seen at the next boundary."""

    type: Literal["send"]
    event: Name
    """The event, as declared."""


Action = Annotated[
    SnapshotAction
    | Baseline
    | TeacherAction
    | SaveAction
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
