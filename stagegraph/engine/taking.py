"""Taking mail at a boundary, before it is decided: what the messages come to. Pure.

What can be said of a message at once, is; whether an event was heard and whether a stage could be
forced, the boundary tells.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from stagegraph.engine.commands import Command, Message, read_command, read_event
from stagegraph.engine.extending import extend
from stagegraph.engine.state import PendingEvent, State
from stagegraph.errors import CommandError
from stagegraph.graph.compiled import CompiledGraph

__all__ = ["Force", "Status", "Taken", "Verdict", "take", "take_while_paused"]

Status = Literal["taken", "ignored", "refused"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a message: ``text`` says what was done, or why it was not."""

    message: Message
    status: Status
    text: str


@dataclass(frozen=True, slots=True)
class Force:
    """A region that is to move, whatever its guards say.

    Attributes:
        message: The command.
        target: A stage's key, or ``back``.
        lifts: Whether it ends a ``hold`` of the region; not one that was said after it.
    """

    message: Message
    target: str
    lifts: bool = True


@dataclass(frozen=True, slots=True)
class Taken:
    """The mail of one boundary.

    Attributes:
        state: The state to decide on: events and commands in it.
        messages: All of the mail.
        verdicts: On those messages of which all is known.
        forced: Per region, where it must go.
        stop: The command that ends the run, or ``None``.
        checkpoints: Commands to keep a checkpoint.
    """

    state: State
    messages: tuple[Message, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    forced: Mapping[str, Force] = field(default_factory=dict)
    stop: Message | None = None
    checkpoints: tuple[Message, ...] = ()

    @property
    def events(self) -> tuple[Message, ...]:
        """The events that are seen at this boundary."""
        refused = {id(verdict.message) for verdict in self.verdicts}
        return tuple(m for m in self.messages if m.kind == "event" and id(m) not in refused)


def take(
    graph: CompiledGraph, state: State, messages: Sequence[Message], able: Collection[str]
) -> Taken:
    """What the messages come to, in their order.

    Args:
        graph: The graph.
        state: The state at the boundary.
        messages: The mail.
        able: Of ``pause`` and ``checkpoint``, those that somebody can carry out.
    """
    taken = Taken(state, tuple(messages))
    for message in messages:
        try:
            if message.kind == "event":
                event = PendingEvent(read_event(graph, message.name))
                state = taken.state
                taken = replace(taken, state=replace(state, events=(*state.events, event)))
                continue
            command = read_command(graph, message.name, message.argument)
            taken = _carried(graph, taken, message, command, able)
        except CommandError as error:
            taken = _said(taken, message, str(error), "refused")
    return taken


def take_while_paused(graph: CompiledGraph, message: Message) -> Command | None:
    """The command in a message, if it is one that a run takes while it is paused.

    Raises:
        CommandError: It is one of them, with an argument that it does not take.
    """
    if message.kind != "command" or message.name not in ("continue", "stop", "checkpoint", "pause"):
        return None
    command = read_command(graph, message.name, message.argument)
    return None if command.region is not None else command


def _said(taken: Taken, message: Message, text: str, status: Status = "taken") -> Taken:
    return replace(taken, verdicts=(*taken.verdicts, Verdict(message, status, text)))


def _carried(
    graph: CompiledGraph,
    taken: Taken,
    message: Message,
    command: Command,
    able: Collection[str],
) -> Taken:
    match command.name:
        case "pause":
            if "pause" not in able:
                raise CommandError("this engine has no inbox from which it could be continued")
            commands = replace(taken.state.commands, paused=message.author or "somebody")
            taken = replace(taken, state=replace(taken.state, commands=commands))
            return _said(taken, message, "paused at this boundary, until 'continue' or 'stop'")
        case "continue":
            return _continued(taken, message, command)
        case "hold":
            return _held(graph, taken, message, command)
        case "extend":
            return _extended(graph, taken, message, command)
        case "checkpoint":
            if "checkpoint" not in able:
                raise CommandError("this engine keeps no checkpoints")
            return replace(taken, checkpoints=(*taken.checkpoints, message))
        case "stop":
            taken = replace(taken, stop=message)
            return _said(taken, message, "the run ends at this boundary")
    return _forced(taken, message, command)


def _forced(taken: Taken, message: Message, command: Command) -> Taken:
    assert command.region is not None
    earlier = taken.forced.get(command.region)
    if earlier is not None:
        text = f"{message.author or 'somebody'} forces {command.region!r} elsewhere just after"
        taken = _said(taken, earlier.message, text, "refused")
    return replace(taken, forced={**taken.forced, command.region: Force(message, command.target)})


def _continued(taken: Taken, message: Message, command: Command) -> Taken:
    """Go on after a pause; else let regions go that are held."""
    state = taken.state
    commands = state.commands
    if commands.paused is not None and command.region is None:
        state = replace(state, commands=replace(commands, paused=None))
        return _said(replace(taken, state=state), message, "the run goes on")
    freed = [r for r in commands.held if command.region in (None, r)]
    if not freed:
        whom = "the run is" if command.region is None else f"region {command.region!r} is"
        raise CommandError(f"{whom} neither paused nor held")
    held = {region: by for region, by in commands.held.items() if region not in freed}
    state = replace(state, commands=replace(commands, held=held))
    return _said(replace(taken, state=state), message, f"held no more: {', '.join(freed)}")


def _held(graph: CompiledGraph, taken: Taken, message: Message, command: Command) -> Taken:
    state = taken.state
    stages = state.stages
    _refuse_in_trial(state, "hold")
    wanted = [command.region] if command.region is not None else list(stages)
    going = [region for region in wanted if not graph.stages[stages[region]].final]
    if not going:
        raise CommandError(f"{', '.join(wanted)}: already in a final stage, which is never left")
    author = message.author or "somebody"
    held = {**state.commands.held, **dict.fromkeys(going, author)}
    state = replace(state, commands=replace(state.commands, held=held))
    forced = {
        region: replace(force, lifts=force.lifts and region not in going)
        for region, force in taken.forced.items()
    }
    taken = replace(taken, state=state, forced=forced)
    where = ", ".join(stages[region] for region in going)
    return _said(taken, message, f"held in {where}, until 'continue' or a 'force'")


def _refuse_in_trial(state: State, command: str) -> None:
    """While growths are tried nothing else moves, and each is tried for as long as the others."""
    if state.trial is not None:
        raise CommandError(
            f"{state.trial.stage} is trying growths; {command} when it is over, or stop the run"
        )


def _extended(graph: CompiledGraph, taken: Taken, message: Message, command: Command) -> Taken:
    assert command.region is not None and command.amount is not None
    state = taken.state
    _refuse_in_trial(state, "extend")
    region = state.regions[command.region]
    author = message.author or "somebody"
    extension, text = extend(graph.stages[region.stage], state, command.amount, author)
    regions = {**state.regions, command.region: replace(region, extended=extension)}
    return _said(replace(taken, state=replace(state, regions=regions)), message, text)
