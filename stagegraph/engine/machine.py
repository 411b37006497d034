"""The machines: one ``transitions.Machine`` per region, moved only after a boundary has held.

A machine knows every legal edge of its region and refuses all others. Its edges carry no
conditions and no callbacks, so moving cannot fail half-way. This is the only module that imports
``transitions``.
"""

from __future__ import annotations

from typing import Any

from transitions import Machine

from stagegraph.engine.decision import Move
from stagegraph.graph.compiled import BACK, STOP, CompiledGraph, CompiledRegion

__all__ = ["Machines"]

BEFORE = "(before)"
"""The state of a region before boundary 0."""

ENDED = "(stopped)"
"""The state of a region that an edge to ``stop`` has left."""


class _Position:
    """What a machine moves; it has nothing but a state."""

    state: str


class Machines:
    """The regions' machines."""

    def __init__(self, graph: CompiledGraph) -> None:
        self._positions: dict[str, _Position] = {}
        self._machines: dict[str, Any] = {}
        for region in graph.regions:
            self._positions[region.name] = position = _Position()
            self._machines[region.name] = _machine(position, region)

    @property
    def stages(self) -> dict[str, str]:
        """Every region's state."""
        return {name: position.state for name, position in self._positions.items()}

    def move(self, move: Move) -> None:
        """Take the edges of a move, one after the other."""
        machine, position = self._machines[move.region], self._positions[move.region]
        if move.back or (move.edge is not None and move.edge.target == BACK and not move.fallback):
            machine.set_state(move.target, position)
            return
        if move.edge is None:
            machine.set_state((*move.via, move.target)[0], position)
        else:
            _take(machine, position, f"{move.edge.id}!error" if move.fallback else move.edge.id)
        for key in move.via:
            _take(machine, position, f"{key}.next")

    def set(self, stages: dict[str, str]) -> None:
        """Put every region into a stage, without taking an edge: after a restore."""
        for name, stage in stages.items():
            self._machines[name].set_state(stage, self._positions[name])


def _machine(position: _Position, region: CompiledRegion) -> Any:
    machine = Machine(
        model=None,
        states=[BEFORE, ENDED, *region.stages],
        initial=BEFORE,
        auto_transitions=False,
        send_event=False,
    )
    for stage in region.stages.values():
        for edge in stage.ways:
            if edge.target != BACK:
                target = ENDED if edge.target == STOP else edge.target
                machine.add_transition(edge.id, stage.key, target)
            if edge.fallback is not None:
                machine.add_transition(f"{edge.id}!error", stage.key, edge.fallback.then)
    machine.add_model(position)
    return machine


def _take(machine: Any, position: _Position, trigger: str) -> None:
    moved = machine.events[trigger].trigger(position)
    assert moved, f"{trigger} is no edge out of {position.state}"
