"""The growth lock of the reference model: what keeps a move from being made (S11)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.reference import guards
from tests.reference.state import Move

if TYPE_CHECKING:
    from tests.reference.model import Model


def locked(model: Model, move: Move, earlier: list[Move]) -> bool:
    """Whether a move has to wait, with those of the regions that go first at this boundary."""
    if move.roll_back is not None:
        return _locked_there(model, move)
    if move.grows and any(m.grows for m in earlier):
        return True
    opening = {m.region for m in earlier if m.grows or _opens_again(model, m)}
    if move.grows:
        return _too_many(model, move, opening) or not _may_grow(model, move)
    return _opens_again(model, move) and _too_many(model, move, opening)


def _opens_again(model: Model, move: Move) -> bool:
    """A way back to a stage that was left while the region was open (S17)."""
    place = model.place(move.region)
    return move.back and place.slot is not None and place.slot.open and not place.open


def _too_many(model: Model, move: Move, opening: set[str]) -> bool:
    """Whether ``max_overlap`` other regions are open, or open at this boundary."""
    is_open = {name for name, place in model.branch.places.items() if place.open}
    return len((is_open | opening) - {move.region}) >= model.document.graph.max_overlap


def _may_grow(model: Model, move: Move) -> bool:
    """Whether the region's own consolidation is over, and the growth has room."""
    if model.branch.places:
        stage = model.stage_of(move.region)
        if stage.kind == "consolidate" and not guards.completed(model, stage):
            return False
    if move.turn is not None:
        return _may_try(model, move)
    if any(stage.options and stage.key not in move.picked for stage in move.entered):
        return False
    return model.fits(move.entered[0]) is True


def _may_try(model: Model, move: Move) -> bool:
    """Whether a trial has something to try, and enough is left to try all of it."""
    assert move.turn is not None
    stage = move.turn.stage
    usable = sum(reason is True for _, reason in model.usable(stage))
    over, times = stage.spec.over, usable + (stage.spec.worth is not None)
    limit = model.budget(over.unit.value)
    too_long = limit is not None and model.spent.of(over.unit) + times * over.exact > limit
    return usable > 0 and not too_long and not model.is_spent()


def _locked_there(model: Model, move: Move) -> bool:
    """A rollback is exempt; a growth that it leads to is asked of what it returns to."""
    kept = model.snapshot_of(move)
    if kept is None:
        return False
    with model.returned(move.way):
        if not model.branch.places:  # the others begin again
            others = [model.initial(n) for n in model.document.regions if n != move.region]
            if any(s.options and s.key not in m.picked for m in others for s in m.entered):
                return True
        if not move.grows:
            return False
        if model.branch.places:
            return _too_many(model, move, set()) or not _may_grow(model, move)
        if move.turn is not None:
            return True  # there is no state yet to try from
        begin = {name for name in model.document.regions if model.initial(name).grows}
        return bool(begin - {move.region}) or not _may_grow(model, move)
