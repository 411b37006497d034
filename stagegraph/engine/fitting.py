"""Fitting: whether a saved state belongs to a graph, before anything goes on from it.

The digest says that it was saved of this graph; that it was not changed since, it does not say.
What would make the engine stumble later is refused here, by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stagegraph.engine.comparing import ComparedMemory, ComparedSpec
from stagegraph.engine.memories import Memory, MemoryLeaf
from stagegraph.engine.plans import Plans
from stagegraph.engine.plateau import (
    PatienceMemory,
    PatienceSpec,
    PlateauMemory,
    PlateauSpec,
    in_order,
)
from stagegraph.engine.state import RegionState, State
from stagegraph.engine.unstable import KEPT_BEFORE, PER_WINDOW, UnstableMemory, UnstableSpec
from stagegraph.errors import SnapshotError, did_you_mean
from stagegraph.graph.compiled import CompiledStage
from stagegraph.progress import Progress

__all__ = ["check_fits"]


def check_fits(plans: Plans, state: State) -> None:
    """Refuse a state that the graph cannot be in.

    Raises:
        SnapshotError: With the first thing that does not fit.
    """
    graph = plans.graph
    document = graph.graph
    if state.regions:
        _same("region", state.regions, (region.name for region in graph.regions))
    for name, region in state.regions.items():
        _region(plans, state, name, region)
    evaluated = [name for name, metric in document.metrics.items() if metric.every is not None]
    _known("metric", state.metrics, document.metrics)
    _known("metric with an 'every'", (*state.wanted, *state.asked), evaluated)
    _references(plans, state)
    _known("event", (event.name for event in state.events), document.events)
    _known("stage", state.visits, graph.stages)
    _known("edge", (*state.fired, *state.errors, *state.blocked), graph.edges)
    _known("growth", (*state.alphas, *state.unblended), state.cohorts)
    _known("metric", (one.metric for one in state.attributions), document.metrics)
    measured = (one for found in state.attributions for one in found.contributions)
    _known("growth", (one.cohort for one in measured), state.cohorts)
    if state.ended not in (None, "final", "stop", "budget", "stopped"):
        raise SnapshotError(f"this state has ended by {state.ended!r}, which is no end of a run")
    _options(plans, state)
    for snapshot in state.snapshots:
        check_fits(plans, snapshot.state)


def _options(plans: Plans, state: State) -> None:
    stages = plans.graph.stages
    trial = state.trial
    _known("stage with options", state.options, (k for k, s in stages.items() if s.options))
    for key, known in state.options.items():
        names = (*known.taken, *known.excluded, *known.failed)
        _known(f"option of {key}", names, (option.name for option in stages[key].options))
    if trial is None:
        return
    _known("trial", [trial.stage], (key for key, s in stages.items() if s.kind == "trial"))
    told = (trial.option, *(one.option for one in trial.tried))
    options = [option.name for option in stages[trial.stage].options]
    _known(f"option of {trial.stage}", (name for name in told if name is not None), options)
    _known("snapshot", [trial.snapshot], (kept.id for kept in state.snapshots))
    if state.stages.get(stages[trial.stage].region) != trial.stage:
        raise SnapshotError(f"this state is trying growths in {trial.stage}, and is not there")


def _region(plans: Plans, state: State, name: str, region: RegionState) -> None:
    stages = plans.graph.by_name[name].stages
    back = region.back
    for key in (region.stage, *(() if back is None else (back.stage,))):
        if key not in stages or stages[key].instant:
            raise SnapshotError(
                f"this state has region {name!r} in {key!r}, which is no stage of the graph that "
                "it can be in"
            )
    _held(stages[region.stage], region.held)
    _memories(plans[region.stage].leaves, state.memories, state.clock)
    if back is not None:
        _held(stages[back.stage], back.held)
        _memories(plans[back.stage].leaves, back.memories, state.clock)
    _known("growth", region.grown, state.cohorts)


def _held(stage: CompiledStage, held: Mapping[str, Progress]) -> None:
    missing = {one.place for one in stage.during} - set(held)
    if missing:
        raise SnapshotError(
            f"this state is in {stage.key!r} and does not say since when {min(missing)!r} is held"
        )


def _memories(
    leaves: Mapping[str, MemoryLeaf], memories: Mapping[str, Memory], clock: Progress
) -> None:
    for key, leaf in leaves.items():
        memory = memories.get(key)
        if memory is None:
            continue
        last: float | None
        match leaf.spec, memory:
            case PlateauSpec(), PlateauMemory(last=last):
                pass
            case PatienceSpec(), PatienceMemory(at=last):
                pass
            case ComparedSpec(), ComparedMemory(since=last):
                pass
            case UnstableSpec(), UnstableMemory(at=last):
                pass
            case _:
                raise SnapshotError(
                    f"what this state remembers for {key!r} is of another kind of guard"
                )
        if last is not None and last > float(clock.of(leaf.unit)):
            raise SnapshotError(f"what this state remembers for {key!r} lies in the future")
        if not _in_order(memory, leaf):
            raise SnapshotError(f"what this state remembers for {key!r} is not in order")


def _in_order(memory: Memory, leaf: MemoryLeaf) -> bool:
    """Whether a memory is one that observations can have left."""
    if isinstance(memory, PlateauMemory) and isinstance(leaf.spec, PlateauSpec):
        return in_order(memory, leaf.spec)
    if isinstance(memory, UnstableMemory):
        times = [at for at, _ in memory.values]
        return len(times) <= PER_WINDOW + 1 and times == sorted(times)
    return True


def _references(plans: Plans, state: State) -> None:
    """What guards compare with: no more values than are kept, and none from the future."""
    _known("reference", state.recent, plans.before)
    for name, baseline in state.baselines.items():
        _known(f"metric of the baseline {name!r:.80}", baseline.values, plans.graph.graph.metrics)
        _known("reference", baseline.recent, plans.before)
    for recent in (state.recent, *(one.recent for one in state.baselines.values())):
        for key, one in recent.items():
            now = float(state.clock.of(plans.before[key].unit))
            if len(one.values) > KEPT_BEFORE or (one.at is not None and one.at > now):
                raise SnapshotError(f"the values that this state keeps of {key!r} are not in order")


def _known(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            raise SnapshotError(
                f"this state knows of a {what} {name!r:.80}, and the graph does not"
                f"{did_you_mean(name, known)}"
            )


def _same(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    names, known = list(names), list(known)
    _known(what, names, known)
    for name in known:
        if name not in names:
            raise SnapshotError(f"this state says nothing of {what} {name!r}")
