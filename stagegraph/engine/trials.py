"""Trials: which growth is tried next, and which is kept (rule S13). Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from stagegraph.engine.decision import Move, Turn
from stagegraph.engine.options import usable, why_none
from stagegraph.engine.ports import Deed, Restore
from stagegraph.engine.slots import stage_completed
from stagegraph.engine.state import Options, SnapshotState, State, TrialState, Tried
from stagegraph.engine.ways_back import brought_back, taken_after
from stagegraph.errors import ActionError
from stagegraph.graph.compiled import CompiledGraph, CompiledStage, Option, PlacedAction
from stagegraph.schema.actions import SnapshotAction
from stagegraph.schema.stages import Trial

__all__ = [
    "begun",
    "given_up",
    "lasting",
    "opening",
    "restart",
    "split",
    "start_of",
    "turn",
    "wants_evaluation",
    "without_failed",
]


def opening(turn: Turn) -> Deed:
    """The snapshot from which every option starts."""
    action = SnapshotAction.model_construct(type="snapshot", name=_name_of(turn.stage))
    return Deed(f"{turn.stage}.start", action, None, _snapshot_of(turn), 0)


def _name_of(stage: str) -> str:
    """What the snapshot of a trial is called: no author can take the name."""
    return f"trial:{stage}"


def _snapshot_of(turn: Turn) -> str:
    return f"{_name_of(turn.stage)}@{turn.started}"


def start_of(state: State, trial: TrialState) -> State:
    """Where every option starts."""
    return brought_back(state, _kept(state, trial.snapshot))


def restart(state: State, turn: Turn) -> tuple[State, Restore, tuple[str, ...]]:
    """The state that an option starts from, what to restore, and snapshots that go.

    When the trial is over its own snapshot goes too.
    """
    snapshot = _kept(state, turn.snapshot)
    restored, forget = brought_back(state, snapshot), taken_after(state, snapshot)
    if turn.ends:
        restored = replace(restored, snapshots=restored.snapshots[:-1])
        forget = (turn.snapshot, *forget)
    restore = Restore(turn.stage, turn.snapshot, rewind_data=True, lr_factor=None, fork=None)
    return restored, restore, forget


def _kept(state: State, snapshot: str) -> SnapshotState:
    return next(kept for kept in state.snapshots if kept.id == snapshot)


def lasting(before: TrialState | None, turn: Turn | None) -> TrialState | None:
    """The trial that goes on after a boundary."""
    if turn is None:
        return before
    if turn.ends:
        return None
    option = None if turn.option is None else turn.option.name
    snapshot = turn.snapshot or _snapshot_of(turn)
    return TrialState(turn.stage, snapshot, turn.started, option, turn.tried)


def begun(graph: CompiledGraph, state: State, move: Move) -> Move:
    """A move into a trial, with the first of its options; any other move as it is."""
    stage = graph.stages[move.target]
    if not isinstance(stage.spec, Trial):
        return move
    passed_over = {
        option.name: reason
        for option, reason, _ in usable(graph, state, stage)
        if reason is not None
    }
    started = state.spent.step
    first = next(_candidates(graph, state, stage), None)
    if first is None or not any(o.name not in passed_over for o in stage.options):
        failure = why_none(stage, passed_over)
        return replace(move, turn=Turn(stage.key, None, started=started, failure=failure))
    option = first[0]
    found = Turn(stage.key, option, started=started, passed_over=passed_over)
    growing = () if option is None else option.actions
    return replace(move, actions=(*move.actions, *growing), turn=found)


def split(move: Move) -> tuple[tuple[PlacedAction, ...], tuple[PlacedAction, ...]]:
    """A move's actions: those on the way into a trial, and those of the option that it begins."""
    turn = move.turn
    if turn is None or not turn.begins or turn.option is None:
        return move.actions, ()
    ahead = len(move.actions) - len(turn.option.actions)
    return move.actions[:ahead], move.actions[ahead:]


def _candidates(
    graph: CompiledGraph, state: State, stage: CompiledStage
) -> Iterator[tuple[Option | None]]:
    """What is to be tried from a state, in order; without growth first, if that is compared."""
    if isinstance(stage.spec, Trial) and stage.spec.worth is not None:
        yield (None,)
    yield from ((option,) for option, reason, _ in usable(graph, state, stage) if reason is None)


def wants_evaluation(graph: CompiledGraph, state: State) -> str | None:
    """The metric that an option is compared by, if it is due and has not come here."""
    trial = state.trial
    if trial is None or not stage_completed(graph.stages[trial.stage], state):
        return None
    spec = graph.stages[trial.stage].spec
    assert isinstance(spec, Trial)
    metric = state.metrics.get(spec.metric)
    evaluated = graph.graph.metrics[spec.metric].every is not None
    missing = metric is None or metric.boundary != state.spent.step
    return spec.metric if evaluated and missing else None


def turn(graph: CompiledGraph, state: State, trial: TrialState) -> Turn | None:
    """What a trial comes to at this boundary; ``None`` while an option is still trained."""
    stage = graph.stages[trial.stage]
    if not stage_completed(stage, state):
        return None
    tried = (*trial.tried, Tried(trial.option, _value(stage, state)))
    done = {one.option for one in tried}
    start = start_of(state, trial)
    going_on = Turn(trial.stage, None, False, tried, trial.snapshot, trial.started)
    for (option,) in _candidates(graph, start, stage):
        if (None if option is None else option.name) not in done:
            return replace(going_on, option=option)
    return _decided(graph, stage, replace(going_on, ends=True))


def given_up(trial: TrialState) -> Turn:
    """A trial whose run ends before it does: model and stages are those from before it."""
    return Turn(trial.stage, None, True, trial.tried, trial.snapshot, trial.started)


def without_failed(state: State, turn: Turn | None, error: ActionError) -> State | None:
    """The state that knows that an option cannot be carried out; ``None``: none has failed."""
    option = None if turn is None else turn.option
    if turn is None or option is None or turn.ends:
        return None
    if not error.action.startswith(f"{option.place}.actions["):
        return None
    known = state.options.get(turn.stage, Options())
    failed = {**known.failed, option.name: error.reason}
    return replace(state, options={**state.options, turn.stage: replace(known, failed=failed)})


def _value(stage: CompiledStage, state: State) -> float | None:
    """The newest value of a trial's metric since its present option began, if it is finite."""
    assert isinstance(stage.spec, Trial)
    metric = state.metrics.get(stage.spec.metric)
    began = max(state.regions[stage.region].since, state.disturbed)
    return metric.value if metric is not None and metric.seen > began else None


def _decided(graph: CompiledGraph, stage: CompiledStage, ending: Turn) -> Turn:
    """The end of a trial: the best option is kept, if it is good enough."""
    spec = stage.spec
    assert isinstance(spec, Trial)
    sign = 1.0 if graph.graph.metrics[spec.metric].goal == "minimize" else -1.0
    losses = {one.option: sign * one.value for one in ending.tried if one.value is not None}
    options = {name: loss for name, loss in losses.items() if name is not None}
    best = min(options, key=options.__getitem__, default=None)
    kept = None if best is None else stage.option(best)
    if kept is not None and spec.worth is not None and None in losses:
        without = losses[None]
        if without - options[kept.name] < spec.worth * abs(without):
            kept = None
    if kept is None and stage.otherwise is None:
        failure = (
            f"none of the options of {stage.name!r} can be kept: {spec.metric!r} was not finite, "
            "or did not come, at the end of each; add 'otherwise', the stage to enter then"
        )
        return replace(ending, failure=failure)
    return replace(ending, option=kept)
