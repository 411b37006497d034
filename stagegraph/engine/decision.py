"""Decision: what a boundary brings, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stagegraph.engine.state import Tried
from stagegraph.engine.taking import Force
from stagegraph.engine.trace import Trace
from stagegraph.graph.compiled import Edge, Option, PlacedAction
from stagegraph.schema.actions import RollBack

__all__ = ["Decision", "Move", "Turn"]


@dataclass(frozen=True, slots=True)
class Turn:
    """A trial begins, goes on with another option, or ends.

    Attributes:
        stage: Key of the trial stage.
        option: The option that is begun or kept; ``None``: none, training goes on without growth.
        ends: Whether the trial is over.
        tried: What every option that has been tried came to, in order.
        snapshot: Id of the snapshot that everything returns to first; empty where a trial begins.
        started: Updates ever made when the trial began.
        passed_over: Per option that cannot be tried, why.
        failure: Why there is no way to go on, or ``None``.
    """

    stage: str
    option: Option | None
    ends: bool = False
    tried: tuple[Tried, ...] = ()
    snapshot: str = ""
    started: int = 0
    passed_over: Mapping[str, str] = field(default_factory=dict)
    failure: str | None = None

    @property
    def begins(self) -> bool:
        """Whether the trial begins."""
        return not self.snapshot


@dataclass(frozen=True, slots=True)
class Move:
    """One region's move.

    Attributes:
        region: Who moves.
        edge: The edge taken; ``None`` for the entry into the initial stage.
        source: Key of the stage left; ``None`` at the beginning.
        via: Keys of the stages passed through.
        target: Key of the stage entered, or ``stop``.
        actions: What to do, in order: the edge's actions, then those of the stages entered.
        fallback: Whether this is the way out after failed actions.
        back: Whether it returns to what an interrupt left.
        evidence: The guard with the values it saw.
        force: The command that it follows, instead of an edge.
        picked: Per stage entered that has options, the one that is taken.
        turn: What it is in a trial.
    """

    region: str
    edge: Edge | None
    source: str | None
    via: tuple[str, ...]
    target: str
    actions: tuple[PlacedAction, ...]
    fallback: bool = False
    back: bool = False
    evidence: Trace = field(default_factory=dict)
    force: Force | None = None
    picked: Mapping[str, str] = field(default_factory=dict)
    turn: Turn | None = None

    @property
    def roll_back(self) -> PlacedAction | None:
        """Its return to a snapshot, if it has one."""
        return next((a for a in self.actions if isinstance(a.action, RollBack)), None)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a boundary brings.

    Attributes:
        moves: The moves, in the order of acting.
        blocked: Edges whose guard is true but that a lock or a command holds back, with the reason.
        ends: Why the run ends after these moves, or ``None``.
        unforced: Regions that a command wanted elsewhere and that may not go, with the reason.
        abandoned: A trial that is given up because the run ends in it.
    """

    moves: tuple[Move, ...]
    blocked: Mapping[str, str]
    ends: str | None = None
    unforced: Mapping[str, str] = field(default_factory=dict)
    abandoned: Turn | None = None

    @property
    def turn(self) -> Turn | None:
        """What becomes of a trial at this boundary."""
        return next((move.turn for move in self.moves if move.turn), self.abandoned)

    def blamed(self, action: str) -> Move | None:
        """The move whose action failed; if none can be told, the first of its region, or of all.

        For a region that a rollback lets begin again, the rollback.
        """
        by_action = (m for m in self.moves if any(a.place == action for a in m.actions))
        by_region = (m for m in self.moves if action.startswith(f"{m.region}:"))
        found = next(iter((*by_action, *by_region, *self.moves)), None)
        if found is None or found.edge is not None or found.force is not None:
            return found
        return next((m for m in self.moves if m.roll_back is not None), found)
