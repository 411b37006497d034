"""CompiledGraph: what a document means, with every name resolved.

Stages are called by their key, ``region:stage``; a stage that came in through ``use`` has the
name of the using stage before its own: ``main:c1.warmup``. All references inside guards and
actions are such keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from stagegraph.progress import Duration
from stagegraph.schema.actions import Action, GrowthAction
from stagegraph.schema.activities import Activity
from stagegraph.schema.base import Model
from stagegraph.schema.stagegraph import StageGraph

__all__ = [
    "BACK",
    "STOP",
    "CompiledGraph",
    "CompiledRegion",
    "CompiledStage",
    "Edge",
    "EdgeKind",
    "Fallback",
    "HeldActivity",
    "Option",
    "PlacedAction",
]

BACK = "back"
STOP = "stop"

EdgeKind = Literal["interrupt", "transition", "next"]


@dataclass(frozen=True, slots=True)
class PlacedAction:
    """An action and where it is written.

    Attributes:
        place: Such as ``main:grow.actions[1]``.
        pointer: JSON pointer into the document.
        action: The action, names resolved.
    """

    place: str
    pointer: str
    action: Action


@dataclass(frozen=True, slots=True)
class Option:
    """One of the growths that a stage chooses from or tries.

    Attributes:
        name: Its name in the stage.
        place: Such as ``main:grow.deep``; what it costs is known by this name.
        actions: What it does.
    """

    name: str
    place: str
    actions: tuple[PlacedAction, ...]

    @property
    def growths(self) -> tuple[GrowthAction, ...]:
        """Its structural actions."""
        return _growths(self.actions)


def _growths(actions: tuple[PlacedAction, ...]) -> tuple[GrowthAction, ...]:
    return tuple(a.action for a in actions if isinstance(a.action, GrowthAction))


@dataclass(frozen=True, slots=True)
class HeldActivity:
    """An activity of a stage.

    Attributes:
        place: ``main:warmup.during[0]`` if written in place, ``main:low_frozen`` if named.
        pointer: JSON pointer to where the stage lists it.
        activity: The activity, names resolved.
        named: Whether it goes on while consecutive stages list it.
    """

    place: str
    pointer: str
    activity: Activity
    named: bool


@dataclass(frozen=True, slots=True)
class Fallback:
    """What follows when an edge's actions fail: ``retry`` more tries, then a stage."""

    retry: int
    then: str


@dataclass(frozen=True, slots=True)
class Edge:
    """One way out of a stage.

    Attributes:
        id: Unique and stable: ``main:train.transitions[0]``, ``main:train.next``,
            ``main:try.otherwise``, ``main:interrupts.undo``.
        kind: What it was written as; the ``otherwise`` of a trial is a ``next`` too.
        region: The region that moves.
        scope: Whose guard memory it uses: a stage's key, a region's name, or ``root``.
        pointer: JSON pointer into the document.
        guard: The condition, names resolved; ``None`` is always.
        target: A stage's key, ``back`` or ``stop``.
        actions: What is done on the way.
        at_most: How often it may fire in the whole run.
        fallback: What follows when an action fails; ``None``: the run stops.
        within: For an interrupt: the keys of the stages it may leave.
    """

    id: str
    kind: EdgeKind
    region: str
    scope: str
    pointer: str
    guard: Model | None
    target: str
    actions: tuple[PlacedAction, ...] = ()
    at_most: int | None = None
    fallback: Fallback | None = None
    within: tuple[str, ...] = ()


@dataclass(frozen=True)
class CompiledStage:
    """A stage with everything that can happen in it.

    Attributes:
        key: ``region:stage``.
        region: Its region.
        name: Its name in the region.
        spec: What the user wrote.
        pointer: JSON pointer into the document.
        during: Its activities, the factor of a ``settle`` among them.
        actions: What is done at each entry.
        ways: Interrupts that may leave it, its transitions, then ``next``: the order of asking.
        options: The growths that it chooses from or tries.
    """

    key: str
    region: str
    name: str
    spec: Model
    pointer: str
    during: tuple[HeldActivity, ...] = ()
    actions: tuple[PlacedAction, ...] = ()
    ways: tuple[Edge, ...] = ()
    options: tuple[Option, ...] = ()

    @cached_property
    def kind(self) -> str:
        """The kind, such as ``warmup``."""
        return str(getattr(self.spec, "kind", ""))

    @cached_property
    def instant(self) -> bool:
        """Whether a move goes through it."""
        return self.kind == "grow"

    @cached_property
    def final(self) -> bool:
        """Whether its region ends in it."""
        return self.kind == "final"

    @cached_property
    def structural(self) -> bool:
        """Whether entering it takes the structure lock."""
        return self.kind in ("grow", "trial")

    @cached_property
    def duration(self) -> Duration | None:
        """When it is completed, if time tells."""
        return getattr(self.spec, "duration", None) or getattr(self.spec, "over", None)

    @cached_property
    def min_duration(self) -> Duration | None:
        """How long transitions and ``next`` wait."""
        return getattr(self.spec, "min_duration", None)

    @cached_property
    def growths(self) -> tuple[GrowthAction, ...]:
        """The structural actions at each of its entries, whatever option is taken."""
        return _growths(self.actions)

    @cached_property
    def possible_growths(self) -> tuple[GrowthAction, ...]:
        """The structural actions of its entries, those of all its options among them."""
        return (*self.growths, *(g for option in self.options for g in option.growths))

    @cached_property
    def priced(self) -> Mapping[str, tuple[GrowthAction, ...]]:
        """What entering it may cost, by where the cost is known: its key, or an option's place."""
        if self.options:
            return {option.place: (*self.growths, *option.growths) for option in self.options}
        return {self.key: self.growths} if self.growths else {}

    def option(self, name: str) -> Option | None:
        """The option of a name."""
        return next((option for option in self.options if option.name == name), None)

    @property
    def next(self) -> Edge | None:
        """The edge of its ``next``."""
        return self._way("next")

    @property
    def otherwise(self) -> Edge | None:
        """For a trial: the edge that is taken without growth."""
        return self._way("otherwise")

    def _way(self, field: str) -> Edge | None:
        return next((edge for edge in self.ways if edge.id == f"{self.key}.{field}"), None)


@dataclass(frozen=True)
class CompiledRegion:
    """A region with its stages.

    Attributes:
        name: Its name.
        priority: Who goes first; higher wins.
        initial: Key of the first stage; empty if it could not be resolved.
        stages: Its stages by key, in document order.
        pointer: JSON pointer into the document.
    """

    name: str
    priority: int
    initial: str
    stages: Mapping[str, CompiledStage]
    pointer: str = ""

    @cached_property
    def has_final(self) -> bool:
        """Whether it has an end of its own; if not, it accompanies the others."""
        return any(stage.final for stage in self.stages.values())


@dataclass(frozen=True)
class CompiledGraph:
    """A whole graph, ready to be checked and run.

    Attributes:
        graph: The document.
        regions: In the order of acting: higher priority first, then by name.
    """

    graph: StageGraph
    regions: tuple[CompiledRegion, ...]
    stages: Mapping[str, CompiledStage] = field(default_factory=dict)

    @cached_property
    def by_name(self) -> Mapping[str, CompiledRegion]:
        """The regions by name."""
        return {region.name: region for region in self.regions}

    def all_edges(self) -> Iterator[tuple[CompiledStage, Edge]]:
        """Every way out of every stage; an interrupt appears once per stage it may leave."""
        for stage in self.stages.values():
            for edge in stage.ways:
                yield stage, edge

    @cached_property
    def edges(self) -> Mapping[str, Edge]:
        """Every edge by id, once."""
        return {edge.id: edge for _, edge in self.all_edges()}
