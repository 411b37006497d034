"""Settling: what became of each message, once its boundary has been worked out. Pure."""

from __future__ import annotations

from stagegraph.engine.commands import Message
from stagegraph.engine.decide import listens
from stagegraph.engine.decision import Decision, Move
from stagegraph.engine.moves import Step
from stagegraph.engine.taking import Taken, Verdict

__all__ = ["settled"]


def settled(taken: Taken, decision: Decision, step: Step) -> tuple[Verdict, ...]:
    """A verdict on every message but those that want a checkpoint, which is kept later."""
    forced = [_forced(force.message, region, decision) for region, force in taken.forced.items()]
    events = [_event(message, decision, step) for message in taken.events]
    found = {id(verdict.message): verdict for verdict in (*taken.verdicts, *forced, *events)}
    return tuple(found[id(message)] for message in taken.messages if id(message) in found)


def _forced(message: Message, region: str, decision: Decision) -> Verdict:
    reason = decision.unforced.get(region)
    if reason is not None:
        return Verdict(message, "refused", reason)
    (move,) = (move for move in decision.moves if move.region == region)
    return Verdict(message, "taken", _way(move))


def _way(move: Move) -> str:
    return " -> ".join(key for key in (move.source, *move.via, move.target) if key)


def _event(message: Message, decision: Decision, step: Step) -> Verdict:
    name, number = message.name, step.state.spent.step
    if name in step.heard:
        moves = (move for move in decision.moves if move.edge and listens(move.edge, name))
        ways = ", ".join(f"{move.edge.id} ({_way(move)})" for move in moves if move.edge)
        return Verdict(message, "taken", f"heard at boundary {number} by {ways}")
    if name in step.ignored:
        text = f"no way out that was taken listened to it at boundary {number}"
        return Verdict(message, "ignored", text)
    text = f"seen at boundary {number}; who listens is held back, so it is kept for the next"
    return Verdict(message, "taken", text)
