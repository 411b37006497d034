"""Pausing: a run that stays at a boundary until it may go on. Nothing counts meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from stagegraph.engine.commands import Message
from stagegraph.engine.decision import Decision
from stagegraph.engine.desk import Desk
from stagegraph.engine.meter import Meter
from stagegraph.engine.state import State
from stagegraph.engine.taking import Taken, Verdict, take, take_while_paused
from stagegraph.errors import CommandError
from stagegraph.graph.compiled import CompiledGraph

__all__ = ["Pausable", "wait_while_paused"]


class Pausable(Protocol):
    """An engine at a boundary that has been decided."""

    graph: CompiledGraph
    state: State
    desk: Desk
    meter: Meter

    @property
    def done(self) -> bool:
        """Whether the run has ended."""
        ...

    def carry_out(self, decision: Decision, taken: Taken | None = None) -> bool:
        """Act on a decision."""
        ...

    def settle(self, *verdicts: Verdict) -> None:
        """Journal what became of commands, and answer."""
        ...


def wait_while_paused(engine: Pausable) -> None:
    """Stay here until somebody says 'continue' or 'stop', if the run is paused."""
    idle = engine.desk.idle
    if idle is None or not _is_paused(engine):
        return
    since = engine.meter.watch()
    _continue_again(engine)
    mail, later = engine.desk.mail, list[Message]()
    try:
        while _is_paused(engine):
            if not mail:
                idle()
                continue
            message = engine.desk.next_while_paused()
            if message is not None and not _take(engine, message):
                later.append(message)
    finally:
        mail.extendleft(reversed(later))
        engine.meter.leave_out(since)


def _is_paused(engine: Pausable) -> bool:
    return engine.state.commands.paused is not None and not engine.done


def _continue_again(engine: Pausable) -> None:
    """A pause that was over before the run was interrupted is over."""
    number = engine.state.spent.step
    messages = engine.desk.coming.take(number)
    while messages and _is_paused(engine):
        if not _take(engine, messages[0]):
            break
        del messages[0]
    engine.desk.coming.put_back(number, messages)


def _take(engine: Pausable, message: Message) -> bool:
    """Take one message; whether it is one that a paused run takes."""
    try:
        command = take_while_paused(engine.graph, message)
    except CommandError as error:
        engine.settle(Verdict(message, "refused", str(error)))
        return True
    if command is None:
        return False
    if command.name == "checkpoint":
        engine.settle(engine.desk.keep(message))
        return True
    taken = take(engine.graph, engine.state, (message,), engine.desk.able)
    if taken.stop is not None:
        commands = replace(taken.state.commands, paused=None)
        taken = replace(taken, state=replace(taken.state, commands=commands))
        engine.carry_out(Decision((), engine.state.blocked, "stopped"), taken)
        return True
    engine.settle(*taken.verdicts)
    engine.state = taken.state
    return True
