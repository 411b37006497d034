"""Commands: what can be asked of a run from outside, read against its graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stagegraph.errors import CommandError, did_you_mean
from stagegraph.graph.compiled import BACK, CompiledGraph
from stagegraph.progress import Duration

__all__ = ["COMMANDS", "Command", "Message", "read_command", "read_event"]

COMMANDS: Mapping[str, str] = {
    "pause": "",
    "continue": "[REGION]",
    "hold": "[REGION]",
    "force": "[REGION:]STAGE",
    "extend": "AMOUNT [REGION]",
    "checkpoint": "",
    "stop": "",
}
"""Every command, with the argument that it takes."""


@dataclass(frozen=True, slots=True)
class Message:
    """One piece of mail for a run.

    Attributes:
        id: Its own id; empty for an event that the program itself sent.
        kind: Whether it is an event of the graph, or a command.
        name: Of the event or of the command.
        argument: What the command is given, as text.
        author: Who sent it: ``user@host``.
        replayed: Whether it comes out of the journal, to be taken again at its boundary.
    """

    id: str
    kind: Literal["event", "command"]
    name: str
    argument: str = ""
    author: str = ""
    replayed: bool = False

    def to_json(self) -> dict[str, Any]:
        """The message as JSON data."""
        keys = ("id", "kind", "name", "argument", "author")
        return {key: getattr(self, key) for key in keys}


@dataclass(frozen=True, slots=True)
class Command:
    """A command whose words are known.

    Attributes:
        name: Which.
        region: Whom it is for; ``None``: all regions.
        target: Of ``force``: a stage's key, or ``back``.
        amount: Of ``extend``.
    """

    name: str
    region: str | None = None
    target: str = ""
    amount: Duration | None = None


def read_event(graph: CompiledGraph, name: str) -> str:
    """An event's name, if the graph declares it.

    Raises:
        CommandError: It does not.
    """
    if name not in graph.graph.events:
        known = did_you_mean(name, graph.graph.events)
        raise CommandError(f"event {name!r} is not declared in 'events'{known}")
    return name


def read_command(graph: CompiledGraph, name: str, argument: str = "") -> Command:
    """A command's words against a graph: its regions, its stages, an amount.

    >>> from stagegraph.graph.compile import compile_graph
    >>> from stagegraph.schema.load import load
    >>> graph, _ = compile_graph(load('''{"stagegraph": 1, "name": "x", "initial": "a",
    ...     "stages": {"a": {"kind": "train"}, "b": {"kind": "final"}}}'''))
    >>> read_command(graph, "force", "b")
    Command(name='force', region='main', target='main:b', amount=None)

    Raises:
        CommandError: A word is not known, missing, or one too many.
    """
    if name not in COMMANDS:
        raise CommandError(f"there is no command {name!r}{did_you_mean(name, COMMANDS)}")
    words = argument.split()
    match name:
        case "hold" | "continue":
            if len(words) > 1:
                raise CommandError(f"{name} takes one region or none, got {argument!r}")
            return Command(name, _region(graph, words[0]) if words else None)
        case "force":
            if len(words) != 1:
                got = f"got {argument!r}" if words else "got none"
                raise CommandError(f"force takes one stage, like 'force warmup'; {got}")
            return _force(graph, words[0])
        case "extend":
            return _extend(graph, argument.strip())
    if words:
        raise CommandError(f"{name} takes no argument, got {argument!r}")
    return Command(name)


def _region(graph: CompiledGraph, name: str) -> str:
    if name not in graph.by_name:
        raise CommandError(f"there is no region {name!r}{did_you_mean(name, graph.by_name)}")
    return name


def _force(graph: CompiledGraph, text: str) -> Command:
    region, _, name = text.rpartition(":")
    if region:
        _region(graph, region)
    regions = [region] if region else list(graph.by_name)
    if name == BACK:
        if len(regions) > 1:
            known = ", ".join(f"{one}:back" for one in sorted(regions))
            raise CommandError(f"every region has a way back; say which: {known}")
        return Command("force", regions[0], BACK)
    found = [one for one in regions if f"{one}:{name}" in graph.stages]
    if len(found) > 1:
        known = ", ".join(f"{one}:{name}" for one in sorted(found))
        raise CommandError(f"several regions have a stage {name!r}; say which: {known}")
    if not found:
        names = [stage.name for stage in graph.stages.values() if stage.region in regions]
        where = f" in region {region!r}" if region else ""
        raise CommandError(f"there is no stage {name!r}{where}{did_you_mean(name, names)}")
    return Command("force", found[0], f"{found[0]}:{name}")


def _extend(graph: CompiledGraph, argument: str) -> Command:
    if not argument:
        raise CommandError("extend takes an amount with its unit, like 'extend 500 steps'")
    amount, _, last = argument.rpartition(" ")
    region = None
    try:
        duration = Duration.parse(argument)
    except ValueError as error:
        try:
            duration = Duration.parse(amount)
        except ValueError:
            raise CommandError(f"extend: {error}") from error
        region = _region(graph, last)
    if region is None:
        if len(graph.regions) > 1:
            known = ", ".join(sorted(graph.by_name))
            raise CommandError(f"extend which region's stage? add one of {known}")
        region = graph.regions[0].name
    return Command("extend", region, amount=duration)
