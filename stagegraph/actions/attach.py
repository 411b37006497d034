"""Attaching a graph to a model: what it asks for, and whether it can be had here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from stagegraph.actions.actor import TorchActor
from stagegraph.actions.attributing import unmeasured
from stagegraph.actions.companions import Companions
from stagegraph.actions.data.steering import data_refusals
from stagegraph.actions.monitoring import Measure, Monitor
from stagegraph.actions.optimizing.optimizers import innermost
from stagegraph.actions.parameters import unwrapped
from stagegraph.actions.probes import Probe, run_probe
from stagegraph.actions.ranks.replicated import replicated_in, why_not_followed
from stagegraph.actions.support import inspect, remarks, unsupported
from stagegraph.actions.undo import untouched
from stagegraph.errors import UnsupportedError
from stagegraph.graph.compiled import CompiledGraph, CompiledStage, PlacedAction
from stagegraph.graph.needs import needs
from stagegraph.schema.actions import Attribute, GrowthAction
from stagegraph.schema.activities import Activity, Freeze

__all__ = [
    "Misfit",
    "all_actions",
    "all_activities",
    "inspect_data",
    "inspect_model",
    "is_held",
    "release",
    "torch_actor",
]


_ATTACHED: WeakSet[nn.Module] = WeakSet()
"""Models that an engine holds."""


def torch_actor(
    graph: CompiledGraph,
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    monitor: Measure | None = None,
    seed: int = 0,
    **companions: Any,
) -> TorchActor:
    """An actor for a model, after refusing what the graph asks for and cannot have here.

    Args:
        graph: The graph.
        model: The model.
        optimizer: Its optimizer, or several.
        monitor: A function of the model that measures metrics.
        seed: The run's seed.
        companions: The rest that :class:`TorchActor` takes.

    Raises:
        UnsupportedError: All that does not fit the model or cannot be had, each with its place.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedError(f"model= is a {type(model).__name__}, not an nn.Module")
    if unwrapped(model) in _ATTACHED:
        raise UnsupportedError(
            "another engine holds this model: two would cut each other's learning rates and grow "
            "past each other; close() the other one first"
        )
    misfits = inspect_model(graph, model, optimizer, **companions)
    refused = [f"{misfit.place}: {misfit.message}" for misfit in misfits if misfit.refused]
    if refused:
        raise UnsupportedError("\n".join(refused))
    watch = None if monitor is None else _monitor(graph, unwrapped(model), monitor, seed)
    _refuse_unmonitored(graph, watch)
    growths = {place: g for s in graph.stages.values() for place, g in s.priced.items()}
    if growths:
        _try_probe(unwrapped(model), companions["probe"])
    actor = TorchActor(
        model,
        optimizer,
        growths,
        spaces=graph.graph.spaces,
        monitor=watch,
        counts_flops="flops" in needs(graph).facts,
        **companions,
    )
    _ATTACHED.add(unwrapped(model))
    return actor


def _monitor(graph: CompiledGraph, model: nn.Module, measure: Measure, seed: int) -> Monitor:
    return Monitor(measure, model, graph.graph.metrics, seed=seed)


def _refuse_unmonitored(graph: CompiledGraph, monitor: Monitor | None) -> None:
    """Refuse attributions of metrics that the engine cannot measure itself.

    Raises:
        UnsupportedError: All of them, each with its place.
    """
    known = frozenset() if monitor is None else monitor.names
    problems = [
        f"{placed.place}: {unmeasured(placed.action.metric, monitor)}"
        for placed in all_actions(graph)
        if isinstance(placed.action, Attribute) and placed.action.metric not in known
    ]
    if problems:
        raise UnsupportedError("\n".join(problems))


def _try_probe(model: nn.Module, probe: Probe) -> None:
    """See before the run that the model takes its probe; nothing of it stays."""
    try:
        with untouched(model), torch.no_grad():
            run_probe(model, probe)
    except UnsupportedError:
        raise
    except Exception as error:
        raise UnsupportedError(
            f"the model cannot be run on its probe ({type(error).__name__}: {error}); give probe= "
            "as a batch that the model takes, or as a function of the model"
        ) from error


def release(model: nn.Module) -> None:
    """A model's engine is closed; another may hold it."""
    _ATTACHED.discard(unwrapped(model))


def is_held(model: nn.Module) -> bool:
    """Whether an engine holds this model."""
    return unwrapped(model) in _ATTACHED


def all_actions(graph: CompiledGraph) -> Iterator[PlacedAction]:
    """Every action of a graph, once."""
    for stage in graph.stages.values():
        yield from stage.actions
        for option in stage.options:
            yield from option.actions
    for edge in graph.edges.values():
        yield from edge.actions


def all_activities(graph: CompiledGraph) -> Iterator[tuple[str, Activity]]:
    """Every activity of a graph with its place; a named one once."""
    seen: set[str] = set()
    for stage in graph.stages.values():
        for held in stage.during:
            if held.place not in seen:
                seen.add(held.place)
                yield held.place, held.activity


@dataclass(frozen=True, slots=True)
class Misfit:
    """Something in a graph that does not fit a model.

    Attributes:
        place: Where it is written, as the journal names it.
        pointer: JSON pointer into the document; empty if it is about no one place.
        message: What is wrong.
        may_come: Whether a growth of the graph may still bring what is missing.
        remark: Whether it keeps nothing from running and is only worth knowing.
    """

    place: str
    pointer: str
    message: str
    may_come: bool = False
    remark: bool = False

    @property
    def refused(self) -> bool:
        """Whether a run cannot begin with it."""
        return not (self.may_come or self.remark)

    @property
    def remedy(self) -> str:
        """What to do about it."""
        if self.remark:
            return "nothing, if the run is to be read back through its own folder"
        if self.may_come:
            return "see that a growth brings it before it is needed"
        return "change the graph, or give what it is about"


def inspect_model(  # noqa: PLR0913 - the same as the engine takes
    graph: CompiledGraph,
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    scheduler: object = None,
    scaler: object = None,
    ema: object = None,
    data: object = None,
    probe: Any = None,
    parts: Mapping[str, Any] | None = None,
) -> list[Misfit]:
    """What of a graph does not fit a model, or cannot be had with what is given."""
    wrapper, model = replicated_in(model), unwrapped(model)
    several = [innermost(one) for one in _several(optimizer)]
    actions = [(placed.place, placed.action) for placed in all_actions(graph)]
    later = _later_growths(graph)
    activities = list(all_activities(graph))
    companions = Companions.of(scheduler, scaler, ema, data)
    planned = inspect(
        model,
        actions=actions,
        optimizers=several,
        spaces=graph.graph.spaces,
        parts=parts,
        probe=probe,
    )
    fixed = unsupported(
        actions,
        activities,
        model=model,
        optimizers=several,
        companions=companions,
        probe=probe,
    )
    fixed += _of_trials(graph, companions)
    fixed += _of_replicas(graph, wrapper, ema)
    grows = any(stage.possible_growths for stage in graph.stages.values())
    pointers = {placed.place: placed.pointer for placed in all_actions(graph)}
    pointers |= {h.place: h.pointer for stage in graph.stages.values() for h in stage.during}
    pointers |= {key: stage.pointer for key, stage in graph.stages.items()}
    found = [_misfit(problem, pointers, may_come=False) for problem in dict.fromkeys(fixed)]
    found += [_misfit(p, pointers, may_come=p.partition(": ")[0] in later) for p in planned]
    told = {*planned, *fixed}
    patterns = inspect(model, activities=activities, beside=actions, optimizers=several)
    found += [_misfit(p, pointers, may_come=grows) for p in patterns if p not in told]
    noted = remarks(model, actions=actions, spaces=graph.graph.spaces, parts=parts)
    return found + [replace(_misfit(note, pointers, may_come=False), remark=True) for note in noted]


def _of_replicas(
    graph: CompiledGraph, wrapper: DistributedDataParallel | None, ema: object
) -> list[str]:
    """What keeps a wrapper from following the first place that changes what it reduces."""
    reasons = [] if wrapper is None else why_not_followed(wrapper)
    if isinstance(ema, AveragedModel) and replicated_in(ema.module) is not None:
        reasons.append(
            "ema= averages the DistributedDataParallel, which cannot be copied along with a "
            "growth; give AveragedModel(model.module)"
        )
    if not reasons:
        return []
    places = [placed.place for placed in all_actions(graph) if placed.action.structural]
    places += [place for place, one in all_activities(graph) if isinstance(one, Freeze)]
    return [f"{place}: {reason}" for place in places[:1] for reason in reasons]


def _of_trials(graph: CompiledGraph, companions: Companions) -> list[str]:
    if companions.data is not None:
        return []
    return [
        f"{key}: a trial returns the data too, so that every option sees the same batches; give "
        "data=... (something with state_dict and load_state_dict)"
        for key, stage in graph.stages.items()
        if stage.kind == "trial"
    ]


def inspect_data(graph: CompiledGraph, data: object) -> list[Misfit]:
    """What the data activities of a graph ask for and this data cannot do."""
    pointers = {h.place: h.pointer for stage in graph.stages.values() for h in stage.during}
    return [
        _misfit(f"{place}: {reason}", pointers, may_come=False)
        for place, activity in all_activities(graph)
        for reason in data_refusals(activity, data)
    ]


def _later_growths(graph: CompiledGraph) -> set[str]:
    """The places of growths that another may come before, and so may bring what they need."""
    growing = [stage for stage in graph.stages.values() if stage.possible_growths]
    later: set[str] = set()
    for stage in growing:
        first = _reached_ungrown(graph, stage)
        alone = all(other.region == stage.region for other in growing)
        for number, actions in enumerate(_alternatives(stage)):
            places = [a.place for a in actions if isinstance(a.action, GrowthAction)]
            tried_at_once = number == 0 or stage.kind == "trial"
            later |= set(places[1:] if first and alone and tried_at_once else places)
    return later


def _alternatives(stage: CompiledStage) -> list[tuple[PlacedAction, ...]]:
    """What an entry into a stage may do: its actions with each of its options."""
    return [(*stage.actions, *option.actions) for option in stage.options] or [stage.actions]


def _reached_ungrown(graph: CompiledGraph, wanted: CompiledStage) -> bool:
    """Whether a stage can only be entered for the first time before any growth of its region."""
    region = graph.by_name[wanted.region]
    waiting, seen, reached = [region.initial], set[str](), False
    while waiting:
        key = waiting.pop()
        stage = region.stages.get(key)
        if stage is None or key in seen:
            continue
        seen.add(key)
        if key == wanted.key:
            reached = True
        elif not stage.possible_growths:
            waiting += [edge.target for edge in stage.ways]
    return reached


def _misfit(problem: str, pointers: Mapping[str, str], *, may_come: bool) -> Misfit:
    place, _, message = problem.partition(": ")
    if place not in pointers:
        return Misfit("model", "", problem, may_come)
    return Misfit(place, pointers[place], message, may_come)


def _several(optimizer: Optimizer | Sequence[Optimizer]) -> list[Optimizer]:
    return list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
