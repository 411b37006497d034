"""overlapping: growths that wait side by side, each in a region of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from stagegraph.errors import did_you_mean
from stagegraph.schema.base import FrozenMap
from stagegraph.schema.names import Name
from stagegraph.schema.templates.grow_cycle import GrowCycle
from stagegraph.schema.templates.spike_rule import SpikeRule
from stagegraph.schema.templates.template import RegionTemplate, UseRegions

__all__ = [
    "NO_TRIGGER",
    "WATCH",
    "Overlapping",
    "UseOverlapping",
    "at_once",
    "growing_region",
    "refuse_names",
    "watching_region",
]

WATCH = "watch"
"""The region of the rule for spikes."""

NO_TRIGGER = (
    "growths that overlap are grow cycles with a 'trigger'; all without one would begin before the "
    "first update"
)


def _waits(cycle: GrowCycle) -> GrowCycle:
    if cycle.trigger is None:
        raise ValueError(NO_TRIGGER)
    return cycle


class Overlapping(RegionTemplate):
    """Growths side by side: one may begin while others still warm up, settle or consolidate.

    Each waits for its own trigger in a region of its own, and ends when its own consolidation is
    over. How many may be between growth and consolidation at once is the document's
    ``max_overlap``, by default two. Two that would begin at one boundary go one after the other.
    No paper: the rule is that of the structure lock (S11).
    """

    template: ClassVar = "overlapping"

    growths: Annotated[
        FrozenMap[Name, Annotated[GrowCycle, AfterValidator(_waits)]],
        Field(min_length=1, max_length=49),
    ]
    """The growths by name, each with a trigger; the names become those of the regions."""
    priorities: FrozenMap[Name, int] = FrozenMap()
    """Who goes first when two would grow at one boundary, by name; default: 0. The higher goes
    before the lower, and of equals the name decides."""
    watch: SpikeRule | None = None
    """A rule for spikes, which becomes a region ``watch``."""

    @model_validator(mode="after")
    def _names_fit(self) -> Overlapping:
        refuse_names(self.growths, self.priorities, watched=self.watch is not None)
        return self

    @property
    def overlap(self) -> int:
        """How many growths may be open at once, where the document does not say."""
        return at_once(self.growths)

    def regions(self) -> dict[str, Any]:
        """A region for each growth, with the stages ``growth`` and ``done``, and ``watch``."""
        made = {
            name: growing_region(
                {"use": cycle.template, "with": cycle}, self.priorities.get(name, 0)
            )
            for name, cycle in self.growths.items()
        }
        return made if self.watch is None else {**made, WATCH: watching_region(self.watch)}


def at_once(growths: Mapping[str, Any]) -> int:
    """How many of these may be open at once by default: two, or the one there is."""
    return min(2, len(growths))


def refuse_names(
    growths: Mapping[str, Any], priorities: Mapping[str, int], *, watched: bool
) -> None:
    """Refuse priorities of no growth, and a growth that would stand in the way of the rule.

    Raises:
        ValueError: A name does not fit.
    """
    for name in priorities:
        if name not in growths:
            known = did_you_mean(name, growths)
            raise ValueError(f"there is no growth {name!r} for a priority{known}")
    if watched and WATCH in growths:
        raise ValueError(f"{WATCH!r} is the region of the rule for spikes; rename that growth")


def growing_region(use: Mapping[str, Any], priority: int) -> dict[str, Any]:
    """The region of one growth."""
    stages = {"growth": {**use, "next": "done"}, "done": {"kind": "final"}}
    return {"priority": priority, "initial": "growth", "stages": stages}


def watching_region(rule: SpikeRule) -> dict[str, Any]:
    """The region of a rule for spikes."""
    return {"initial": "spikes", "stages": {"spikes": {"use": rule.template, "with": rule}}}


class UseOverlapping(UseRegions):
    """The regions of a document, made by ``overlapping``."""

    use: Literal["overlapping"]
    """The template."""
    with_: Overlapping = Field(alias="with")
    """What fills the template in."""
