"""Saving: writes a run's checkpoints, in the background, one at a time."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Thread
from typing import Any, BinaryIO, Literal, Protocol

from stagegraph.engine.core import Core
from stagegraph.engine.ports import Record
from stagegraph.engine.ranks import Group
from stagegraph.engine.records import record
from stagegraph.errors import MetricError, RunFolderError, did_you_mean
from stagegraph.progress import Unit
from stagegraph.runs.folder import RunFolder
from stagegraph.runs.journal import Journal
from stagegraph.runs.lines import Mark
from stagegraph.runs.saved import Saved, SavedModels
from stagegraph.runs.store import CheckpointStore, Generation
from stagegraph.schema.dump import digest
from stagegraph.session.checkpoints import Checkpoints
from stagegraph.session.saved import saved_record

__all__ = ["ENGINE_FILE", "Files", "Kept", "Saving"]

ENGINE_FILE = "engine.json"
"""The file of a checkpoint that holds the engine's own state."""

PATIENCE = 3
"""So many checkpoints in a row may fail before training is stopped."""

Files = Mapping[str, Callable[[BinaryIO], None]]
"""A writer for each file."""


class Kept(Protocol):
    """A model that is to be kept for good, in host memory."""

    @property
    def name(self) -> str:
        """What the graph calls it."""
        ...

    @property
    def moment(self) -> Mapping[str, Any]:
        """Where training stood: ``step``, ``boundary``, ``progress``, ``stages``, ``metrics``."""
        ...

    def files(self) -> Files:
        """Writers of its files."""
        ...


@dataclass(slots=True)
class _Writing:
    """A checkpoint that is being written, and before it the models that are kept for good."""

    thread: Thread | None
    why: str
    models: Sequence[Kept] = ()
    saved: list[Saved] = field(default_factory=list)
    generation: Generation | None = None
    unremoved: tuple[str, ...] = ()
    error: Exception | None = None


class Saving:
    """Writes the checkpoints of one run.

    Args:
        options: When.
        run: The run's folder.
        journal: Its journal.
        core: The engine's core.
        copy: Copies all that the engine's own state does not hold to host memory, and returns the
            writers of its files.
        kept: Takes the models that boundaries have kept for good since it was called last. They are
            written before the next checkpoint: no checkpoint lies behind one that is lost.

        group: The ranks, of which this is the first; the others are told when to hand over what
            is theirs, and when to look.

    Raises:
        MetricError: The metric to keep the best of is not declared.
        ProgressError: ``every`` is no amount with its unit.
        RunFolderError: Too few are to be kept.
    """

    def __init__(
        self,
        options: Checkpoints,
        run: RunFolder,
        journal: Journal,
        core: Core,
        copy: Callable[[], Files],
        kept: Callable[[], Sequence[Kept]],
        group: Group | None = None,
    ) -> None:
        self._group = group
        self._cadence = options.cadence
        self._best = best(options, core)
        self._background = options.background
        self._store = run.checkpoints(keep=options.keep, best=self._best)
        self._journal = journal
        self._core = core
        self._copy = copy
        self._kept = kept
        self._unsaved: tuple[Kept, ...] = ()
        self._models = run.saved_models()
        self._folder = run.path
        self._digest = digest(core.graph.graph)
        self._writing: _Writing | None = None
        self._failures = 0
        self.last: int | None = None
        """The number of the last one, unless it failed."""
        self._known_best: float | None = None
        self._next: float | None = None
        if self._cadence is not None:
            core.meter.read_by(self._cadence.unit)

    @property
    def store(self) -> CheckpointStore:
        """The run's checkpoints."""
        return self._store

    def take_up(self) -> None:
        """The engine stands at a checkpoint: the next is due a whole interval from here."""
        self._known_best = self._best_value()
        self._put_off()
        self._appoint()

    def at_boundary(self, why: str | None, *, wait: bool = False) -> None:
        """A boundary has been decided and has held: save, if one is wanted or due.

        Args:
            why: What a checkpoint is wanted for in any case, or ``None``.
            wait: Whether to come back only when it is on the disk.

        Raises:
            RunFolderError: Several in a row could not be written.
            UnsupportedError: Something cannot be kept in a checkpoint.
        """
        improved = self._improved()
        if why is None and improved:
            why = "best"
        if self._collect() and why is None:
            why = "saved"
        if why is None and not self.is_writing:
            self.settle()
            why = "due" if self._is_due() else None
        if self._group is not None:
            self._group.share(why)
        if why is not None:
            self.save(why, wait=wait, improved=improved)
        self._appoint()

    def _collect(self) -> bool:
        """Take over what boundaries have kept for good; whether there is any."""
        kept = tuple(self._kept())
        self._unsaved += kept
        return bool(kept)

    def save(self, why: str, *, wait: bool = False, improved: bool = False) -> None:
        """Save now.

        Args:
            why: What for.
            wait: Whether to come back only when it is on the disk.
            improved: Whether the metric to keep the best of is this good here.

        Raises:
            RunFolderError: It could not be written, and training should not go on without.
            UnsupportedError: Something cannot be kept in a checkpoint.
        """
        try:
            self.settle()
        except BaseException:
            self._say(saves=False)
            raise
        self._say(saves=True)
        self._collect()
        core = self._core
        text = json.dumps(core.state_dict(), allow_nan=False, separators=(",", ":")).encode()
        files: Files = {ENGINE_FILE: lambda out: _put(out, text), **self._copy()}
        value = self._best_value()
        metrics = {self._best[0]: value} if self._best and improved and value is not None else {}
        mark, state = self._journal.mark, core.state
        writing = _Writing(None, why, self._unsaved)
        # The thread holds no engine: what fails keeps its frame alive, and all that is in it.
        journal, store, models = self._journal, self._store, self._models
        of = {"graph": core.graph.graph.name, "digest": self._digest}

        def write() -> None:
            try:
                journal.sync()
                for one in writing.models:
                    writing.saved.append(_write_model(models, one, journal=mark, of=of))
                writing.generation = store.save(
                    files,
                    step=state.clock.step,
                    boundary=state.spent.step,
                    why=why,
                    metrics=metrics,
                    journal=mark,
                    about={"stages": state.stages, "progress": state.clock.to_json()},
                )
                writing.unremoved = store.unremoved
            except Exception as error:  # noqa: BLE001 - told by the thread that trains
                writing.error = error

        self._writing, self._unsaved = writing, ()
        self._put_off()
        if self._background and not wait:
            writing.thread = Thread(target=write, name="stagegraph checkpoint")
            writing.thread.start()
        else:
            write()
            self.settle()

    def _say(self, *, saves: bool) -> None:
        """Tell the other ranks whether to hand over what is theirs."""
        if self._group is not None:
            self._group.share(saves)

    @property
    def is_writing(self) -> bool:
        """Whether one is being written now."""
        thread = None if self._writing is None else self._writing.thread
        return thread is not None and thread.is_alive()

    def settle(self) -> None:
        """Wait for the one that is being written, and tell what has become of it.

        Raises:
            RunFolderError: Several in a row could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return
        if writing.thread is not None:
            writing.thread.join()
        self._unsaved = (*writing.models[len(writing.saved) :], *self._unsaved)
        told = tuple(saved_record(self._core.state, one, self._folder) for one in writing.saved)
        self._write(told)
        if writing.error is not None:
            self._failed(writing.why, writing.error)
        elif writing.generation is not None:
            self._failures = 0
            self.last = writing.generation.number
            number, at = writing.generation.number, writing.generation.step
            left = {"unremoved": list(writing.unremoved)} if writing.unremoved else {}
            state = self._core.state
            done = record("checkpoint", state, number=number, of_step=at, why=writing.why, **left)
            self._write((done,))
            if left:
                warnings.warn(
                    f"older checkpoints could not be removed: {'; '.join(writing.unremoved)}",
                    stacklevel=2,
                )

    def _failed(self, why: str, error: Exception) -> None:
        self._failures += 1
        self.last = None
        reason = str(error) if isinstance(error, RunFolderError) else repr(error)
        state = self._core.state
        self._write((record("checkpoint", state, number=None, why=why, error=reason),))
        if not isinstance(error, RunFolderError):
            raise error
        if self._failures >= PATIENCE:
            raise RunFolderError(
                f"{self._failures} checkpoints in a row could not be written; the last: {reason}"
            ) from error
        warnings.warn(f"a checkpoint could not be written: {reason}", stacklevel=2)

    def _write(self, records: tuple[Record, ...]) -> None:
        if self._core.sink is not None:
            self._core.sink.write(records)

    # When

    def _improved(self) -> bool:
        value = self._best_value()
        improved = value is not None and value != self._known_best
        self._known_best = value
        return improved

    def _best_value(self) -> float | None:
        metric = None if self._best is None else self._core.state.metrics.get(self._best[0])
        return None if metric is None else metric.best

    def _is_due(self) -> bool:
        if self._cadence is None:
            return False
        if self._next is None:
            self._put_off()
        now = float(self._core.state.clock.of(self._cadence.unit))
        return self._next is not None and now >= self._next

    def _put_off(self) -> None:
        if self._cadence is not None:
            unit, exact = self._cadence.unit, self._cadence.exact
            clock = self._core.state.clock.of(unit)
            # Multiples of the interval: where a run was resumed does not move them.
            times = clock // exact + 1 if unit is not Unit.SECONDS else clock / exact + 1
            self._next = float(times * exact)

    def _appoint(self) -> None:
        """Look when the next is due, and at each boundary while one is being written."""
        looks = {}
        if self._cadence is not None and self._next is not None:
            looks[self._cadence.unit] = self._next
        if self._writing is not None:
            looks[Unit.STEPS] = 0.0
        if self._group is not None:
            self._group.share({unit.value: at for unit, at in looks.items()})
        self._core.appointments = looks


def _write_model(models: SavedModels, one: Kept, *, journal: Mark, of: Mapping[str, Any]) -> Saved:
    moment = one.moment
    return models.save(
        one.name,
        one.files(),
        step=moment["step"],
        boundary=moment["boundary"],
        metrics=moment["metrics"],
        journal=journal,
        about={"stages": moment["stages"], "progress": moment["progress"], **of},
    )


def best(options: Checkpoints, core: Core) -> tuple[str, Literal["min", "max"]] | None:
    """The metric to keep the best of, with its goal.

    Raises:
        MetricError: The graph does not declare it, or it has no goal.
    """
    if options.best is None:
        return None
    metrics = core.graph.graph.metrics
    metric = metrics.get(options.best)
    if metric is None:
        known = did_you_mean(options.best, metrics)
        raise MetricError(
            f"Checkpoints(best={options.best!r}): the graph declares no such metric{known}"
        )
    return options.best, "min" if metric.goal == "minimize" else "max"


def _put(out: BinaryIO, content: bytes) -> Any:
    return out.write(content)
