"""Lives: one call of the training function, looked at after each update, ended where it is said."""

from __future__ import annotations

import inspect
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from io import FileIO
from pathlib import Path
from types import FrameType, FunctionType, MethodType
from typing import Any, Literal, TypeVar

from torch import nn

from stagegraph.actions.companions import Stateful
from stagegraph.actions.data.exactness import Exactness, exactness
from stagegraph.actions.optimizing.optimizers import innermost
from stagegraph.actions.randomness import seed_all
from stagegraph.engine.ports import Actor, Record
from stagegraph.errors import StageGraphError
from stagegraph.runs.disk import Disk
from stagegraph.runs.folder import RunFolder
from stagegraph.schema.stagegraph import StageGraph
from stagegraph.session.checkpoints import Checkpoints
from stagegraph.session.engine import Engine
from stagegraph.session.following import Following
from stagegraph.session.job import Job
from stagegraph.session.passes import Epoch
from stagegraph.session.preemption import Preempted
from stagegraph.session.recording import Recording
from stagegraph.testing.fingerprints import fingerprint
from stagegraph.testing.parts import (
    Kind,
    Part,
    Reading,
    read_engine,
    read_model,
    read_optimizers,
    read_random,
    read_state,
)
from stagegraph.testing.surroundings import read_surroundings

__all__ = ["How", "Life", "Plan", "Task", "live"]

T = TypeVar("T")

Task = Callable[[Any], Any]
"""What ``stagegraph run`` takes: a function of the job that trains."""

How = Literal["die", "preempt"]

_DECISIONS = frozenset(
    {"move", "growth", "roll_back", "metric", "verdict", "event", "error", "blocked", "end"}
)
_NOT_COMPARED = frozenset({"loader", "began"})
"""Of the data's position: a loader's own words for it, which may say the same otherwise, and the
random numbers at the pass's beginning, unseeded ones that nobody uses among them."""


@dataclass
class Life:
    """What was seen of one life.

    Attributes:
        began: The update that it began or was resumed at.
        at_start: What the run was then.
        readings: What it was after each update; updates count on at a rollback.
        clocks: The engine's own step after each update; it goes back at a rollback.
        kinds: The kinds of the stages after each update.
        structural: The updates whose boundary changed the model's structure.
        epochs: Passes over the data after each update.
        loader: How exactly the loader can be gone on with; ``None`` if none was seen.
        ended: Whether it came to the end of the run.
    """

    began: int = -1
    at_start: Reading = field(default_factory=dict)
    readings: dict[int, Reading] = field(default_factory=dict)
    clocks: dict[int, int] = field(default_factory=dict)
    kinds: dict[int, tuple[str, ...]] = field(default_factory=dict)
    structural: list[int] = field(default_factory=list)
    epochs: dict[int, Fraction] = field(default_factory=dict)
    loader: Exactness | None = None
    ended: bool = False

    @property
    def last(self) -> int:
        """Its last update."""
        return max(self.readings, default=self.began)


class _Over(BaseException):
    """The life is over. Not an ``Exception``: nobody should take it for one that can be mended."""


@dataclass(frozen=True, slots=True)
class Plan:
    """When a life is ended, and how.

    Attributes:
        cut: After which update to end it.
        how: ``die``: by an exception, once the update's boundary has been decided; ``preempt``: as
            a signal would, with a checkpoint.
        steps: After which update the run is not looked at any more.
        checkpoints: When checkpoints are saved; ``None``: every so many steps as ``every`` says.
        every: Steps; 0: only where one is saved in any case.
    """

    cut: int | None = None
    how: How = "die"
    steps: int | None = None
    checkpoints: Checkpoints | None = None
    every: int = 0


class _Observer:
    """Takes the readings of one life."""

    def __init__(self, life: Life, plan: Plan, file: str) -> None:
        self.life = life
        self._plan = plan
        self._file = file
        self._records: list[Record] = []
        self._batches: list[str] = []
        self._given: dict[str, Any] = {}
        self._watched: dict[str, Any] = {}

    def give(self, arguments: Mapping[str, Any]) -> None:
        """What the engine is given."""
        self._given = dict(arguments)

    def watch(self, things: Mapping[str, Any]) -> None:
        """What the task wants to be compared too."""
        self._watched |= things

    def write(self, records: tuple[Record, ...]) -> None:
        """What the engine records."""
        self._records += [record for record in records if record["type"] in _DECISIONS]

    def loader(self, loader: object) -> None:
        """What the batches come from."""
        self.life.loader = exactness(loader)

    def batch(self, batch: object) -> None:
        """A batch is handed out."""
        self._batches.append(fingerprint(batch))

    def begin(self, engine: _Engine, frame: FrameType | None) -> None:
        """The engine has begun, or stands where it was resumed."""
        self.life.at_start = self._read(engine, engine.state_dict(), frame)
        self.life.began = engine.updates
        self._note(engine.updates, engine)

    def wants_to_go(self, index: int) -> bool:
        """Whether the run is to be told to go in this update."""
        return self._plan.how == "preempt" and self._plan.cut == index

    def after(self, engine: _Engine, state: Mapping[str, Any], frame: FrameType | None) -> None:
        """A boundary has been decided."""
        index = engine.updates
        if index in self.life.readings or index == self.life.began:
            return  # a metric that came late, or a call after the end
        # A life that is going to be ended has nothing to be compared.
        doomed = self._plan.cut is not None
        self.life.readings[index] = {} if doomed else self._read(engine, state, frame)
        self._note(index, engine)
        if index in (self._plan.cut, self._plan.steps):
            raise _Over

    def _note(self, index: int, engine: _Engine) -> None:
        self.life.kinds[index] = engine.kinds
        self.life.clocks[index] = engine.progress.step
        self.life.epochs[index] = engine.progress.epoch
        if any(record["type"] in ("growth", "roll_back") for record in self._records):
            self.life.structural.append(index)
        self._records, self._batches = [], []

    def _read(self, engine: _Engine, state: Mapping[str, Any], frame: FrameType | None) -> Reading:
        reading: Reading = dict(read_engine(state, self._records))
        for key, value in engine.position.items():
            if key not in _NOT_COMPARED:
                reading[Part(Kind.POSITION, f"position in the data: {key}")] = fingerprint(value)
        if self._batches:
            reading[Part(Kind.BATCHES, "the batches")] = fingerprint(self._batches)
        reading.update(self._read_given())
        for name, thing in self._watched.items():
            found = thing.state_dict() if isinstance(thing, Stateful) else thing()
            reading.update(read_state(Kind.WATCHED, name, found))
        reading.update(read_surroundings(frame, self._file, self._known()))
        if self._given.get("model") is not None:
            reading.update(read_random())  # a run on numbers keeps none
        return reading

    def _read_given(self) -> Iterator[tuple[Part, str]]:
        model = self._given.get("model")
        if model is not None:
            yield from read_model(model)
            yield from read_optimizers(_several(self._given.get("optimizer")), model)
        for key in ("scheduler", "scaler", "ema"):
            things = _several(self._given.get(key))
            for number, thing in enumerate(things):
                name = key if len(things) == 1 else f"{key} {number}"
                kind = Kind.EMA if key == "ema" else Kind.COMPANION
                yield from read_state(kind, name, thing.state_dict())

    def _known(self) -> set[int]:
        known: set[int] = set()
        for thing in [*self._given.values(), *self._watched.values()]:
            for one in _several(thing):
                known.add(id(one))
                if isinstance(one, nn.Module):
                    known |= {id(module) for module in one.modules()}
        known |= {id(innermost(one)) for one in _several(self._given.get("optimizer"))}
        return known


def _several(given: Any) -> Sequence[Any]:
    if given is None:
        return ()
    return given if isinstance(given, list | tuple) else (given,)


class _Engine(Engine):
    """An engine that is looked at after each update."""

    def __init__(self, graph: StageGraph, observer: _Observer, **arguments: Any) -> None:
        self._observer = observer
        observer.give(arguments)
        super().__init__(graph, **arguments)
        self.listen(observer)

    @property
    def updates(self) -> int:
        """Updates ever made, those of abandoned branches too."""
        return self._core.state.spent.step

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the present stages."""
        stages = self._core.graph.stages
        return tuple(str(stages[key].kind) for key in self._core.state.stages.values())

    @property
    def position(self) -> Mapping[str, Any]:
        """Where the run stands in its data."""
        state: Mapping[str, Any] = self._position.state()
        return state

    def epochs(self, loader: Iterable[T]) -> Iterator[Epoch[T]]:
        """As the engine's own; the batches are looked at."""
        self._observer.loader(loader)
        for epoch in super().epochs(loader):
            yield _SeenEpoch(epoch, self._observer)

    def step(self, **arguments: Any) -> None:
        """As the engine's own; then the run is looked at."""
        if not self.done and self._observer.wants_to_go(self.updates + 1):
            assert self._record is not None
            self._record.leaving.be_told("SIGTERM")
        super().step(**arguments)
        self._after()

    def observe(self, /, **metrics: Any) -> None:
        """As the engine's own; then the run is looked at."""
        super().observe(**metrics)
        self._after()

    def _open(
        self, run: RunFolder, options: Checkpoints | None, actor: Actor
    ) -> Recording | Following:
        # The process does not die with a life: nothing needs to be forced to the disk.
        return super()._open(RunFolder(run.path, disk=_Unsynced()), options, actor)

    def _after(self) -> None:
        if not self.wants_evaluation:
            self._observer.after(self, self.state_dict(), sys._getframe(2))


class _Unsynced(Disk):
    """The file system, without waiting for the disk."""

    def sync(self, file: FileIO) -> None:
        """Nothing."""

    def sync_directory(self, path: Path) -> None:
        """Nothing."""


class _SeenEpoch(Epoch[T]):
    """A pass whose batches are looked at."""

    def __init__(self, epoch: Epoch[T], observer: _Observer) -> None:
        self._epoch = epoch
        self._observer = observer

    @property
    def index(self) -> int:  # type: ignore[override]
        """Which pass, from 0."""
        return self._epoch.index

    @property
    def drawn(self) -> Any:
        """What is known of the batch in hand."""
        return self._epoch.drawn

    def __iter__(self) -> Iterator[T]:
        for batch in self._epoch:
            self._observer.batch(batch)
            yield batch


class _Job(Job):
    """A job whose engine is looked at."""

    def __init__(
        self,
        graph: StageGraph,
        folder: Path,
        *,
        resume: bool,
        observer: _Observer,
        plan: Plan,
    ) -> None:
        super().__init__(graph, folder, resume=resume, out=io.StringIO())
        self._observer = observer
        self._plan = plan

    def engine(self, **arguments: Any) -> Engine:
        """As the job's own."""
        given: Checkpoints = arguments.get("checkpoints", Checkpoints())
        every = f"{self._plan.every} steps" if self._plan.every else None
        arguments["checkpoints"] = self._plan.checkpoints or replace(
            given, every=every, keep=2, background=False
        )
        engine = super().engine(**arguments)
        assert isinstance(engine, _Engine)
        self._observer.begin(engine, sys._getframe(1))
        return engine

    def watch(self, **things: Any) -> None:
        """Compare these too."""
        self._observer.watch(things)

    def _make_engine(self, **arguments: Any) -> Engine:
        return _Engine(self.graph, self._observer, run=self.folder, **arguments)


def live(
    task: Task,
    graph: StageGraph,
    folder: Path,
    *,
    seed: int,
    resume: bool = False,
    plan: Plan = Plan(),
) -> Life:
    """One life of a run.

    Args:
        task: The function that trains.
        graph: The graph.
        folder: The run's folder.
        seed: What the global random numbers begin with, as they would in a new process.
        resume: Whether to go on with what the folder holds.
        plan: When to end it, and what to save.

    Raises:
        StageGraphError: The task made no engine with ``job.engine(...)``.
    """
    seed_all(seed)
    life = Life()
    observer = _Observer(life, plan, _file_of(task))
    job = _Job(graph, folder, resume=resume, observer=observer, plan=plan)
    try:
        task(job)
        life.ended = True
    except (_Over, Preempted):
        pass
    finally:
        job.close()
    if life.began < 0:
        raise StageGraphError(
            "the task returned without an engine; it takes the job and calls job.engine(...)"
        )
    return life


def _file_of(task: Task) -> str:
    """The file of the task's code; empty if it is not Python's."""
    inner: Any = task
    while True:
        if isinstance(inner, partial):
            inner = inner.func
        elif isinstance(inner, MethodType):
            inner = inner.__func__
        elif not isinstance(inner, FunctionType):
            inner = type(inner).__call__
            if not isinstance(inner, FunctionType):
                return ""
        elif inspect.unwrap(inner) is inner:
            return str(inner.__code__.co_filename)
        else:
            inner = inspect.unwrap(inner)
