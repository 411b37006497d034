"""What has happened before a stage is entered: on every path to it, and on some path.

A forward data flow over one region. A fact is a string: ``growth``, ``cohort:name``,
``snapshot:name``, ``baseline:name``, ``teacher:name``, or ``interrupted`` (there is a stage to go
``back`` to).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stagegraph.graph.compiled import CompiledStage, PlacedAction
from stagegraph.graph.structure import Move, RegionView, rolls_back
from stagegraph.schema.actions import Baseline, GrowthAction, Prune, SnapshotAction, TeacherAction

__all__ = ["GROWTH", "INTERRUPTED", "History", "Past", "histories"]

GROWTH = "growth"
INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Past:
    """What is known when a region is in a stage.

    Attributes:
        always: What has happened on every path.
        sometimes: What has happened on some path.
    """

    always: frozenset[str] = frozenset()
    sometimes: frozenset[str] = frozenset()

    def meet(self, other: Past | None) -> Past:
        """What is known where two paths come together."""
        if other is None:
            return self
        return Past(self.always & other.always, self.sometimes | other.sometimes)

    def after(self, *, gained: frozenset[str], lost: frozenset[str] = frozenset()) -> Past:
        """With facts added, after others were taken away."""
        return Past((self.always - lost) | gained, (self.sometimes - lost) | gained)


History = dict[str, Past]
"""The past of every stage that can be reached, by key."""


def histories(view: RegionView) -> History:
    """The past of every stage of a region that can be reached."""
    region = view.region
    stages = region.stages
    if region.initial not in stages:
        return {}
    past: History = {region.initial: _enter(Past(), stages[region.initial])}
    taken: History = {}
    _note_snapshots(taken, stages[region.initial].actions, Past())
    leaving: dict[str, list[Move]] = {}
    for move in view.moves:
        leaving.setdefault(move.source, []).append(move)
    changed = True
    while changed:
        changed = False
        for source in [key for key in stages if key in past]:
            for move in leaving.get(source, ()):
                changed |= _follow(move, stages, past, taken)
    return past


def _follow(move: Move, stages: Mapping[str, CompiledStage], past: History, taken: History) -> bool:
    target = stages.get(move.target)
    if target is None:
        return False
    before = past[move.source]
    changed = False
    if move.how == "way":
        changed |= _note_snapshots(taken, move.edge.actions, before)
    if move.how != "back":
        changed |= _note_snapshots(taken, target.actions, before)
    source = stages[move.source]
    if source.kind == "trial" and move.edge == source.next:
        before = _with_option(before, source)
    after = _move(move, before, target, taken)
    if after is None:
        return changed
    merged = after.meet(past.get(move.target))
    if merged != past.get(move.target):
        past[move.target] = merged
        changed = True
    return changed


def _move(move: Move, before: Past, target: CompiledStage, taken: History) -> Past | None:
    roll_back = rolls_back(move.edge) if move.how == "way" else None
    if move.how == "back":
        return before.after(gained=frozenset(), lost=frozenset({INTERRUPTED}))
    if roll_back is not None:
        restored = taken.get(roll_back.to)
        if restored is None:
            return None
        kept = frozenset({f"snapshot:{roll_back.to}"})
        return _enter(restored.after(gained=kept, lost=frozenset({INTERRUPTED})), target)
    gained = _gains(move.edge.actions) if move.how == "way" else frozenset()
    if move.edge.kind == "interrupt":
        gained |= {INTERRUPTED}
    return _enter(before.after(gained=gained), target)


def _enter(before: Past, stage: CompiledStage) -> Past:
    after = before.after(gained=_gains(stage.actions))
    prunes = any(isinstance(placed.action, Prune) for placed in stage.actions)
    grows = stage.kind == "grow" and (bool(stage.possible_growths) or not prunes)
    return _with_option(after, stage) if grows else after


def _with_option(before: Past, stage: CompiledStage) -> Past:
    """What is known when one of a stage's growths has happened."""
    paths = [before.after(gained=_gains(option.actions) | {GROWTH}) for option in stage.options]
    if not paths:
        return before.after(gained=frozenset({GROWTH}))
    after = paths[0]
    for path in paths[1:]:
        after = after.meet(path)
    return after


def _gains(actions: tuple[PlacedAction, ...]) -> frozenset[str]:
    found: set[str] = set()
    for action in (placed.action for placed in actions):
        if isinstance(action, SnapshotAction):
            found.add(f"snapshot:{action.name}")
        elif isinstance(action, Baseline):
            found.add(f"baseline:{action.name}")
        elif isinstance(action, TeacherAction):
            found.add(f"teacher:{action.name}")
        elif isinstance(action, GrowthAction):
            found.add(GROWTH)
            if action.name is not None:
                found.add(f"cohort:{action.name}")
    return frozenset(found)


def _note_snapshots(taken: History, actions: tuple[PlacedAction, ...], before: Past) -> bool:
    """Remember what is true at the start of the boundary at which a snapshot is taken."""
    changed = False
    for placed in actions:
        if isinstance(placed.action, SnapshotAction):
            name = placed.action.name
            merged = before.meet(taken.get(name))
            changed |= merged != taken.get(name)
            taken[name] = merged
    return changed
