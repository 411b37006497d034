"""Capabilities: what a graph asks of the trainer that runs it, and which trainer cannot give it.

A table without torch and without any trainer, so that a graph can be checked for a trainer that
is not even installed here. What hangs on a run's own settings (sharding, several processes, an
optimizer that cannot grow) only the trainer's adapter can see; it refuses that before the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from stagegraph.errors import StageGraphError, did_you_mean
from stagegraph.graph.compiled import CompiledGraph
from stagegraph.schema.actions import RollBack, SaveAction
from stagegraph.schema.activities import Hyper
from stagegraph.schema.data_activities import DataActivity

__all__ = ["TRAINERS", "Capabilities", "Lack", "Need", "actions_of", "capabilities_of", "lacks"]


class Need(StrEnum):
    """What a graph may ask of its trainer beyond a step, a metric and a model."""

    STEER_DATA = "steer the data"
    REWIND_DATA = "take the data back to where it was"
    READ_KNOBS = "read hyper-parameters of its own loop from the graph"
    SAVE_MODELS = "keep models in the run's folder"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a trainer cannot do for a graph.

    Attributes:
        name: As ``check(graph, trainer=...)`` takes it.
        title: What people call it.
        cannot: Each need that it cannot meet, with why, in words that follow "the NAME cannot".
        strategies: The strategies under which its adapter runs graphs; ``None``: any.
        instead: What to do about a need, where it is not what it is for other trainers.
    """

    name: str
    title: str
    cannot: Mapping[Need, str] = field(default_factory=lambda: MappingProxyType({}))
    strategies: frozenset[str] | None = None
    instead: Mapping[Need, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Lack:
    """One thing that a graph asks for in vain.

    Attributes:
        need: What.
        place: Where it is written, as the journal names it.
        pointer: JSON pointer into the compiled graph's document.
        message: What is asked for, and why it cannot be had.
        remedy: What to do.
    """

    need: Need
    place: str
    pointer: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}; {self.remedy}"


_LOOP = Capabilities("loop", "plain loop")

_HUGGINGFACE = Capabilities(
    "huggingface",
    "Hugging Face Trainer",
    MappingProxyType(
        {
            Need.STEER_DATA: "its loop makes its own loader once and keeps it to itself",
            Need.REWIND_DATA: "its loop counts batches forward only",
            Need.READ_KNOBS: "it reads its hyper-parameters from TrainingArguments",
            Need.SAVE_MODELS: "its own checkpoints are the only ones of such a run",
        }
    ),
    strategies=frozenset({"ddp"}),
)

_ACCELERATE = Capabilities("accelerate", "Accelerate")

_LIGHTNING = Capabilities(
    "lightning",
    "Lightning Trainer",
    MappingProxyType(
        {
            Need.STEER_DATA: "its loop fetches from loaders that it keeps to itself",
            Need.REWIND_DATA: "its loop counts batches forward only",
            Need.SAVE_MODELS: "its own checkpoints are the only ones of such a run",
        }
    ),
    strategies=frozenset(),  # one process
    instead=MappingProxyType({Need.SAVE_MODELS: "let ModelCheckpoint save, and leave it out"}),
)

TRAINERS: Mapping[str, Capabilities] = MappingProxyType(
    {one.name: one for one in (_LOOP, _HUGGINGFACE, _LIGHTNING, _ACCELERATE)}
)
"""Every trainer that there is an adapter for; one more is one more row."""


def capabilities_of(trainer: str) -> Capabilities:
    """A trainer's row.

    Raises:
        StageGraphError: There is no adapter for such a trainer.
    """
    try:
        return TRAINERS[trainer]
    except (KeyError, TypeError):
        known = did_you_mean(str(trainer), TRAINERS)
        raise StageGraphError(
            f"there is no trainer {trainer!r}{known}; there are {', '.join(TRAINERS)}"
        ) from None


def lacks(graph: CompiledGraph, trainer: Capabilities) -> list[Lack]:
    """What a graph asks for that a trainer cannot do, each place once, in document order."""
    return [
        Lack(
            need,
            place,
            pointer,
            f"{what} asks the {trainer.title} to {need}, which it cannot: {trainer.cannot[need]}",
            trainer.instead.get(need, remedy),
        )
        for need, place, pointer, what, remedy in _asked(graph)
        if need in trainer.cannot
    ]


_Asked = tuple[Need, str, str, str, str]

_IN_A_LOOP = "run this graph in a plain loop over engine.epochs(loader)"


def _asked(graph: CompiledGraph) -> Iterator[_Asked]:
    seen: set[str] = set()
    for key, stage in graph.stages.items():
        if stage.kind == "trial":
            remedy = f"take one growth instead of trying several, or {_IN_A_LOOP}"
            yield Need.REWIND_DATA, key, stage.pointer, "a trial", remedy
        for held in stage.during:
            if held.place not in seen:
                seen.add(held.place)
                asked = _of_activity(held.activity)
                if asked is not None:
                    yield asked[0], held.place, held.pointer, *asked[1:]
    for placed in actions_of(graph):
        asked = _of_action(placed.action)
        if asked is not None:
            yield asked[0], placed.place, placed.pointer, *asked[1:]


def actions_of(graph: CompiledGraph) -> Iterator[Any]:
    """Every action of a graph with its place: of stages, of their options, of ways out."""
    for stage in graph.stages.values():
        yield from stage.actions
        for option in stage.options:
            yield from option.actions
    for edge in graph.edges.values():
        yield from edge.actions


def _of_activity(activity: Any) -> tuple[Need, str, str] | None:
    if isinstance(activity, DataActivity):
        remedy = f"leave it out and order the data beforehand, or {_IN_A_LOOP}"
        return Need.STEER_DATA, activity.writes, remedy
    if isinstance(activity, Hyper) and activity.knob is not None:
        remedy = "hold 'optimizer' or 'attribute' instead of 'knob'"
        return Need.READ_KNOBS, f"hyper with knob {activity.knob!r}", remedy
    return None


def _of_action(action: Any) -> tuple[Need, str, str] | None:
    if isinstance(action, RollBack):
        if action.skip_batches is not None:
            remedy = f"leave skip_batches out, or {_IN_A_LOOP}"
            return Need.REWIND_DATA, "roll_back with skip_batches", remedy
        if action.data == "rewind":
            remedy = "write data: skip, with what else will differ this time"
            return Need.REWIND_DATA, "roll_back with data: rewind", remedy
    if isinstance(action, SaveAction):
        remedy = "let the trainer save (save_strategy, load_best_model_at_end), and leave it out"
        return Need.SAVE_MODELS, "save", remedy
    return None
