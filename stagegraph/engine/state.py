"""State: everything the engine remembers between two boundaries, as frozen data.

Nothing else in the engine remembers anything that matters: a state taken to JSON and back goes on
exactly as the original would have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import Any

from stagegraph.engine.attributions import Attribution
from stagegraph.engine.conforming import check_conforms
from stagegraph.engine.host_rates import HostRate, rates_from_json, rates_to_json
from stagegraph.engine.memories import Memory, memory_from_json, memory_to_json
from stagegraph.engine.ports import Facts
from stagegraph.engine.references import BaselineState, recent_from_json, recent_to_json
from stagegraph.engine.standing import Commands, Extension
from stagegraph.engine.unstable import Recent
from stagegraph.errors import ProgressError, SnapshotError, another_version
from stagegraph.progress import Progress

__all__ = [
    "DAMAGE",
    "VERSION",
    "Asked",
    "BackSlot",
    "MetricState",
    "Options",
    "PendingEvent",
    "RegionState",
    "SnapshotState",
    "State",
    "TrialState",
    "Tried",
]

DAMAGE = (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What Python raises when data is not what it was taken for."""

VERSION = 2
"""The version of the JSON form. Version 1 knew no commands."""


@dataclass(frozen=True, slots=True)
class BackSlot:
    """What an interrupt left, for ``target: back``.

    Attributes:
        stage: The stage.
        elapsed: How long the region had been in it.
        held: How long each of its activities had been in force, by place.
        memories: Its guard memories, by key.
        extended: How much longer a command makes it last.
        open: Whether the region was open.
    """

    stage: str
    elapsed: Progress
    held: Mapping[str, Progress]
    memories: Mapping[str, Memory]
    extended: Extension | None = None
    open: bool = False


@dataclass(frozen=True, slots=True)
class RegionState:
    """Where one region is.

    Attributes:
        stage: Key of its stage.
        entered: The clock when it entered.
        since: How many observations had come when it entered.
        open: Whether a growth of it has not been consolidated yet.
        grown: The cohorts of its last growth.
        held: When each activity of its stage began, by place.
        by_interrupt: Whether the stage was entered by an interrupt.
        back: What the last interrupt left.
        extended: How much longer a command makes the stage last.
    """

    stage: str
    entered: Progress
    since: int = 0
    open: bool = False
    grown: tuple[str, ...] = ()
    held: Mapping[str, Progress] = field(default_factory=dict)
    by_interrupt: bool = False
    back: BackSlot | None = None
    extended: Extension | None = None


@dataclass(frozen=True, slots=True)
class MetricState:
    """What is known of one metric.

    Attributes:
        value: Its newest value, or ``None`` if that was not finite.
        last: Its last finite value.
        best: Its best finite value, by its goal.
        seen: The count of observations when it came.
        nonfinite: How many values in a row, up to the newest, were not finite.
        cell: In which of its ``look_every`` intervals it was last looked at.
        came: The count of observations when a value last came, looked at or not.
        boundary: Updates ever made when the newest value came.
    """

    value: float | None
    last: float | None
    best: float | None
    seen: int
    nonfinite: int = 0
    cell: int | None = None
    came: int = 0
    boundary: int = -1


@dataclass(frozen=True, slots=True)
class Asked:
    """An evaluation of a metric that was asked for.

    Attributes:
        seen: The count of observations at the boundary where it was asked for.
        missed: How many in a row brought no value of the metric, this one included.
        told: Whether the journal says so.
    """

    seen: int
    missed: int = 0
    told: bool = False


@dataclass(frozen=True, slots=True)
class PendingEvent:
    """An event that was sent and not seen yet; ``kept`` if it was already kept once."""

    name: str
    kept: bool = False


@dataclass(frozen=True, slots=True)
class SnapshotState:
    """A snapshot on the present branch.

    Attributes:
        name: Its name in the graph.
        id: Its own id.
        state: The engine at the start of its boundary, without snapshots.
        returns: How often a rollback has returned to it.
    """

    name: str
    id: str
    state: State
    returns: int = 0

    @property
    def metrics(self) -> Mapping[str, MetricState]:
        """The metrics as they were just before it was taken."""
        return self.state.metrics


@dataclass(frozen=True, slots=True)
class Options:
    """What became of the options of a stage, in the whole run.

    Attributes:
        taken: Those that were taken, in order.
        excluded: Those that a rollback has excluded.
        failed: Those that a trial could not carry out, and why.
    """

    taken: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tried:
    """What one option of a trial came to.

    Attributes:
        option: Its name; ``None``: training went on without growth.
        value: The metric at its end, or ``None`` if that was not finite or did not come.
    """

    option: str | None
    value: float | None


@dataclass(frozen=True, slots=True)
class TrialState:
    """A trial that goes on.

    Attributes:
        stage: Key of its stage.
        snapshot: Id of the snapshot from which every option starts.
        started: Updates ever made when it began.
        option: The option that is trained now; ``None``: none, without growth.
        tried: What those before came to.
    """

    stage: str
    snapshot: str
    started: int
    option: str | None = None
    tried: tuple[Tried, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """The engine, whole.

    Attributes:
        clock: Progress on the present branch.
        spent: All progress ever paid for, abandoned branches included.
        regions: Every region's state; empty before boundary 0.
        observations: How many metric values have come.
        disturbed: The count of observations when the curves were last bent.
        data_changed: The same when an activity that changes the data last began or ended.
        memories: Guard memories, by ``scope|leaf``.
        visits: How often each stage was entered.
        fired: How often each edge was taken.
        errors: How many times in a row each edge's actions have failed.
        metrics: Every metric seen.
        wanted: Per metric, how many of its ``every`` intervals have been asked for.
        asked: Per metric, the last evaluation that was asked for.
        events: Events to be seen at the next boundary.
        snapshots: Those that can be returned to, oldest first.
        cohorts: Every growth on the present branch.
        alphas: Alpha of every cohort where it is not 1.
        blocked: Edges that a lock holds back, with the reason.
        facts: What is known of the model.
        ended: Why the run ended, or ``None``.
        teachers: Per name of a teacher, the id of the newest on the present branch.
        commands: What was commanded from outside and is in force.
        options: Per stage with options, what became of them.
        trial: The trial that goes on, or ``None``.
        baselines: The metrics that were remembered under a name.
        recent: The newest values of metrics whose level and spread a guard asks for, by key.
        host: The host's learning rate, as it changed.
        attributions: Per region and metric the newest since the structure last changed, the newest
            last.
        pruned: Growths on the present branch of which nothing is left, and at which boundary the
            last of it was pruned.
        unblended: Growths that added no block, where the graph has the same growth add some too:
            alpha ramps leave them out.
    """

    clock: Progress = Progress()
    spent: Progress = Progress()
    regions: Mapping[str, RegionState] = field(default_factory=dict)
    observations: int = 0
    disturbed: int = 0
    data_changed: int = -1
    memories: Mapping[str, Memory] = field(default_factory=dict)
    visits: Mapping[str, int] = field(default_factory=dict)
    fired: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, MetricState] = field(default_factory=dict)
    wanted: Mapping[str, int] = field(default_factory=dict)
    asked: Mapping[str, Asked] = field(default_factory=dict)
    events: tuple[PendingEvent, ...] = ()
    snapshots: tuple[SnapshotState, ...] = ()
    cohorts: tuple[str, ...] = ()
    alphas: Mapping[str, float] = field(default_factory=dict)
    blocked: Mapping[str, str] = field(default_factory=dict)
    facts: Facts = Facts()
    ended: str | None = None
    teachers: Mapping[str, str] = field(default_factory=dict)
    commands: Commands = field(default_factory=Commands)
    options: Mapping[str, Options] = field(default_factory=dict)
    trial: TrialState | None = None
    baselines: Mapping[str, BaselineState] = field(default_factory=dict)
    recent: Mapping[str, Recent] = field(default_factory=dict)
    host: tuple[HostRate, ...] = ()
    attributions: tuple[Attribution, ...] = ()
    pruned: Mapping[str, int] = field(default_factory=dict)
    unblended: tuple[str, ...] = ()

    @property
    def stages(self) -> dict[str, str]:
        """The configuration: each region's stage."""
        return {name: region.stage for name, region in self.regions.items()}

    def snapshot(self, name: str) -> SnapshotState | None:
        """The newest snapshot of a name on the present branch."""
        return next((s for s in reversed(self.snapshots) if s.name == name), None)

    def all_teachers(self) -> frozenset[str]:
        """Ids of the teachers that somebody can learn from: now, or after a rollback."""
        later = (snapshot.state.teachers.values() for snapshot in self.snapshots)
        return frozenset(self.teachers.values()).union(*later)

    def learnt(self, facts: Facts, attributions: tuple[Attribution, ...] = ()) -> State:
        """The state that knows what a boundary's transaction has brought."""
        newest: dict[tuple[str, str], Attribution] = {}
        for one in (*self.attributions, *attributions):
            newest.pop((one.region, one.metric), None)
            newest[one.region, one.metric] = one
        return replace(self, facts=facts, attributions=tuple(newest.values()))

    def without_snapshots(self) -> State:
        """The state as a snapshot keeps it."""
        return replace(self, snapshots=())

    def to_json(self, digest: str) -> dict[str, Any]:
        """The state as JSON data, stamped with the graph's digest."""
        return {"version": VERSION, "graph": digest, **_state_to_json(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], digest: str) -> State:
        """The inverse of :meth:`to_json`.

        Raises:
            SnapshotError: The data is of another graph or version, or is no state.
        """
        if not isinstance(data, Mapping):
            raise SnapshotError(f"an engine state is a mapping, got {type(data).__name__}")
        version = data.get("version")
        if type(version) is not int or version not in range(1, VERSION + 1):
            raise SnapshotError(another_version("this engine state", version, newest=VERSION))
        if data.get("graph") != digest:
            raise SnapshotError(
                "this engine state belongs to another graph: its digest is "
                f"{str(data.get('graph'))[:12]!r}, this graph's is {digest[:12]!r}; to go on under "
                "an edited graph, give the one it was saved under as edited_from="
            )
        try:
            state = _state_from_json(data if version == VERSION else _without_commands(data))
            check_conforms(state)
        except (*DAMAGE, ProgressError) as error:
            raise SnapshotError(f"this engine state is damaged: {error!r}") from error
        return state


def _state_to_json(state: State) -> dict[str, Any]:
    return {
        "clock": state.clock.to_json(),
        "spent": state.spent.to_json(),
        "regions": {name: _region_to_json(region) for name, region in state.regions.items()},
        "observations": state.observations,
        "disturbed": state.disturbed,
        "data_changed": state.data_changed,
        "memories": _memories_to_json(state.memories),
        "visits": dict(state.visits),
        "fired": dict(state.fired),
        "errors": dict(state.errors),
        "metrics": {name: list(astuple(metric)) for name, metric in state.metrics.items()},
        "wanted": dict(state.wanted),
        "asked": {name: list(astuple(asked)) for name, asked in state.asked.items()},
        "events": [[event.name, event.kept] for event in state.events],
        "snapshots": [[s.name, s.id, _state_to_json(s.state), s.returns] for s in state.snapshots],
        "cohorts": list(state.cohorts),
        "alphas": dict(state.alphas),
        "blocked": dict(state.blocked),
        "facts": _facts_to_json(state.facts),
        "ended": state.ended,
        "teachers": dict(state.teachers),
        "commands": state.commands.to_json(),
        "options": {
            key: [list(known.taken), list(known.excluded), dict(known.failed)]
            for key, known in state.options.items()
        },
        "trial": None if state.trial is None else _trial_to_json(state.trial),
        "baselines": {name: one.to_json() for name, one in state.baselines.items()},
        "recent": recent_to_json(state.recent),
        "host": rates_to_json(state.host),
        "attributions": [one.to_json() for one in state.attributions],
        "pruned": dict(state.pruned),
        "unblended": list(state.unblended),
    }


def _facts_to_json(facts: Facts) -> dict[str, Any]:
    counted = {} if facts.flops is None else {"flops": list(facts.flops)}
    return {"params": facts.params, "costs": dict(facts.costs), **counted}


def _facts_from_json(data: Mapping[str, Any]) -> Facts:
    flops = data.get("flops")
    return Facts(data["params"], dict(data["costs"]), None if flops is None else tuple(flops))


def _trial_to_json(trial: TrialState) -> dict[str, Any]:
    return {
        "stage": trial.stage,
        "snapshot": trial.snapshot,
        "started": trial.started,
        "option": trial.option,
        "tried": [list(astuple(tried)) for tried in trial.tried],
    }


def _trial_from_json(data: Mapping[str, Any] | None) -> TrialState | None:
    if data is None:
        return None
    tried = tuple(Tried(*values) for values in data["tried"])
    return TrialState(**{**data, "tried": tried})


def _state_from_json(data: Mapping[str, Any]) -> State:
    return State(
        clock=Progress.from_json(data["clock"]),
        spent=Progress.from_json(data["spent"]),
        regions={name: _region_from_json(region) for name, region in data["regions"].items()},
        observations=data["observations"],
        disturbed=data["disturbed"],
        data_changed=data.get("data_changed", -1),
        memories=_memories_from_json(data["memories"]),
        visits=dict(data["visits"]),
        fired=dict(data["fired"]),
        errors=dict(data["errors"]),
        metrics={name: MetricState(*values) for name, values in data["metrics"].items()},
        wanted=dict(data["wanted"]),
        asked={n: Asked(*values) for n, values in data.get("asked", {}).items()},
        events=tuple(PendingEvent(name, kept) for name, kept in data["events"]),
        snapshots=tuple(
            SnapshotState(name, snapshot, _state_from_json(_alone(state)), *returns)
            for name, snapshot, state, *returns in data["snapshots"]  # earlier versions have none
        ),
        cohorts=tuple(data["cohorts"]),
        alphas=dict(data["alphas"]),
        blocked=dict(data["blocked"]),
        facts=_facts_from_json(data["facts"]),
        ended=data["ended"],
        teachers=dict(data.get("teachers", {})),  # states of earlier versions have none
        commands=Commands.from_json(data["commands"]),
        options={
            key: Options(tuple(taken), tuple(excluded), dict(failed))
            for key, (taken, excluded, failed) in data.get("options", {}).items()
        },
        trial=_trial_from_json(data.get("trial")),
        baselines={
            name: BaselineState.from_json(one) for name, one in data.get("baselines", {}).items()
        },
        recent=recent_from_json(data.get("recent", {})),
        host=rates_from_json(data.get("host", ())),
        attributions=tuple(map(Attribution.from_json, data.get("attributions", ()))),
        pruned=dict(data.get("pruned", {})),
        unblended=tuple(data.get("unblended", ())),
    )


def _without_commands(data: Mapping[str, Any]) -> dict[str, Any]:
    """A state of version 1 in today's form: nothing was commanded."""
    return {
        **data,
        "commands": Commands().to_json(),
        "regions": {name: _not_extended(region) for name, region in data["regions"].items()},
        "snapshots": [
            [name, snapshot, _without_commands(state)]
            for name, snapshot, state in data["snapshots"]
        ],
    }


def _not_extended(region: Mapping[str, Any]) -> dict[str, Any]:
    back = region["back"]
    back = None if back is None else {**back, "extended": None}
    return {**region, "extended": None, "back": back}


def _alone(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state in a snapshot, which holds no snapshots itself."""
    if data["snapshots"]:
        raise ValueError("there are snapshots inside a snapshot")
    return data


def _region_to_json(region: RegionState) -> dict[str, Any]:
    back = region.back
    return {
        "stage": region.stage,
        "entered": region.entered.to_json(),
        "since": region.since,
        "open": region.open,
        "grown": list(region.grown),
        "held": {place: start.to_json() for place, start in region.held.items()},
        "by_interrupt": region.by_interrupt,
        "back": None
        if back is None
        else {
            "stage": back.stage,
            "elapsed": back.elapsed.to_json(),
            "held": {place: elapsed.to_json() for place, elapsed in back.held.items()},
            "memories": _memories_to_json(back.memories),
            "extended": _extension_to_json(back.extended),
            "open": back.open,
        },
        "extended": _extension_to_json(region.extended),
    }


def _region_from_json(data: Mapping[str, Any]) -> RegionState:
    back = data["back"]
    return RegionState(
        stage=data["stage"],
        entered=Progress.from_json(data["entered"]),
        since=data["since"],
        open=data["open"],
        grown=tuple(data["grown"]),
        held={place: Progress.from_json(start) for place, start in data["held"].items()},
        by_interrupt=data["by_interrupt"],
        back=None
        if back is None
        else BackSlot(
            stage=back["stage"],
            elapsed=Progress.from_json(back["elapsed"]),
            held={place: Progress.from_json(e) for place, e in back["held"].items()},
            memories=_memories_from_json(back["memories"]),
            extended=_extension_from_json(back["extended"]),
            open=back.get("open", data["open"]),  # earlier versions went by the region alone
        ),
        extended=_extension_from_json(data["extended"]),
    )


def _extension_to_json(extension: Extension | None) -> list[Any] | None:
    return None if extension is None else extension.to_json()


def _extension_from_json(data: list[Any] | None) -> Extension | None:
    return None if data is None else Extension.from_json(data)


def _memories_to_json(memories: Mapping[str, Memory]) -> dict[str, Any]:
    return {key: memory_to_json(memory) for key, memory in memories.items()}


def _memories_from_json(data: Mapping[str, Any]) -> dict[str, Memory]:
    return {key: memory_from_json(memory) for key, memory in data.items()}
