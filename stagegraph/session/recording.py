"""Recording: what an engine writes into its run's folder, and how it goes on from there."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any

from stagegraph.engine.core import Core
from stagegraph.engine.editing import Edit, edit_saved, graph_of
from stagegraph.engine.ports import Record
from stagegraph.engine.replay import Outside, known_ids, outside
from stagegraph.engine.weakly import weakly
from stagegraph.errors import RunFolderError, SnapshotError
from stagegraph.graph.compile import compile_graph
from stagegraph.runs.environment import differences as changes
from stagegraph.runs.environment import environment
from stagegraph.runs.folder import RunFolder
from stagegraph.runs.journal import Journal, Mark
from stagegraph.runs.lines import read_raw
from stagegraph.runs.store import Generation, Passed
from stagegraph.schema.differences import differences
from stagegraph.schema.dump import digest
from stagegraph.schema.stagegraph import StageGraph
from stagegraph.session.checkpoints import Checkpoints
from stagegraph.session.hands import Hands
from stagegraph.session.leaving import Leaving
from stagegraph.session.preemption import Preempted
from stagegraph.session.saved import saved_record
from stagegraph.session.saving import ENGINE_FILE, Files, Kept, Saving
from stagegraph.session.together import Together
from stagegraph.version import __version__

__all__ = ["Found", "Recording"]


@dataclass(frozen=True, slots=True)
class Found:
    """What a folder holds to go on from.

    Attributes:
        engine: The engine's own state; ``None`` if the run died before its first checkpoint.
        files: The other files of the checkpoint.
        outside: What came from outside after it, to come again.
        edit: What the journal says of the graph having been edited since; ``None`` if it was not.
        damage: Where the journal after it is damaged, in words.
    """

    engine: Mapping[str, Any] | None
    files: Mapping[str, bytes]
    outside: Outside
    damage: str | None
    edit: Mapping[str, Any] | None = None


class Recording:
    """One engine's hold on a run's folder.

    Args:
        folder: The folder; a run is begun in it, unless it holds one.
        graph: The graph.
        core: The engine's core.
        options: When checkpoints are written; ``None``: a host keeps them.
        copy: As for :class:`Saving`.
        kept: As for :class:`Saving`.
        seed: The run's seed.
        together: The ranks, of which this is the first; ``None``: there is one process.

    Raises:
        RunFolderError: The folder cannot be written or read, or is another process's.
    """

    def __init__(
        self,
        folder: RunFolder,
        graph: StageGraph,
        core: Core,
        options: Checkpoints | None,
        copy: Callable[[], Files],
        kept: Callable[[], Sequence[Kept]],
        seed: int,
        together: Together | None = None,
    ) -> None:
        self.folder = folder
        self._together = together
        self.leaving = Leaving(core, together)
        if together is not None:
            together.go = self.leaving.go
        self._graph = graph
        self._core = core
        self._options = options
        self._copy = copy
        self._kept = kept
        self._seed = seed
        self.journal: Journal | None = None
        self.saving: Saving | None = None
        self.holds_earlier = folder.is_used
        """Whether the folder holds a run that has not been taken up yet."""
        self.hands: Hands | None = None
        self._known: frozenset[str] = frozenset()
        core.beginning = weakly(self.require_taken_up)
        core.desk.checkpoint = weakly(self.save_now)
        core.desk.nudged = weakly(self._go)
        if not self.holds_earlier:
            self._begin(folder.create(graph))

    def _begin(self, journal: Journal) -> None:
        self.journal = journal
        try:
            self.saving = self._make_saving(journal)
        except BaseException:
            self.close()
            raise

    def _make_saving(self, journal: Journal) -> Saving | None:
        if self._options is None:
            return None
        group = None if self._together is None else self._together.group
        return Saving(
            self._options, self.folder, journal, self._core, self._copy, self._kept, group
        )

    def run_record(self, params: int | None) -> Record:
        """The journal's first record."""
        return {
            "type": "run",
            "step": 0,
            "boundary": 0,
            "progress": {},
            "graph": self._graph.name,
            "digest": digest(self._graph),
            "stagegraph": __version__,
            "seed": self._seed,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "params": params,
        }

    def require_taken_up(self) -> None:
        """Refuse to begin in a folder that holds a run.

        Raises:
            RunFolderError: It does.
        """
        if self.holds_earlier:
            raise RunFolderError(
                f"{self.folder.path} holds an earlier run already; call engine.resume() before "
                "anything else to go on with it, or choose another folder"
            )

    def reach_out(self) -> Hands:
        """Let the run be reached from outside; to be called once it has been taken up."""
        self.hands = Hands(self.folder.path, self._core, known=self._known)
        if self._together is not None:
            self._together.lead_pauses(self.hands.idle)
        self.hands.start()
        return self.hands

    # At boundaries

    def at_boundary(self, *, structural: bool) -> None:
        """A boundary has been decided and has held: save if it is time, and go if told to.

        Args:
            structural: Whether the model's structure has changed.

        Raises:
            Preempted: The process was told to go; all is saved.
            RunFolderError: Several checkpoints in a row could not be written.
            UnsupportedError: Something cannot be kept in a checkpoint.
        """
        if self.saving is None:
            return
        if self._core.done:
            self.saving.at_boundary("end", wait=True)
            return
        self._go()
        begun = self._core.state.spent.step > 0
        why = "structure" if structural else None if begun else "start"
        self.saving.at_boundary(why)

    @contextmanager
    def preemptible(self) -> Iterator[None]:
        """Inside, SIGTERM and Ctrl-C are wishes to go at the next boundary."""
        with self.leaving.watching():
            yield

    def _go(self) -> None:
        """Save and leave, if somebody has said so."""
        reason = self.leaving.take() if self.saving is not None else ""
        if not reason or self.saving is None:
            return
        self._core.tell("preempted", reason=reason)
        self.saving.save("preempted", wait=True)
        raise Preempted(reason)

    # Going on

    def find(self) -> Found:
        """Open the folder and read the newest whole checkpoint in it.

        A checkpoint of another graph is taken as one of this graph before it was edited.

        Raises:
            RunFolderError: It is of a newer version, all checkpoints in it are damaged, or it
                cannot be read or written.
            SnapshotError: The checkpoint cannot be read, or the edit contradicts what is past.
        """
        journal = self.folder.open()
        try:
            return self._find(journal)
        except BaseException:
            journal.close()
            self.folder.close()
            raise

    def told(self, found: Found) -> dict[str, Any]:
        """What was found, as the other ranks are told of it."""
        generation = self._generation
        return {
            "engine": found.engine,
            "outside": found.outside.to_json(),
            "path": None if generation is None else str(generation.path.resolve()),
            "generation": None if generation is None else generation.number,
        }

    def _find(self, journal: Journal) -> Found:
        self._open(journal)
        assert self.saving is not None
        generation, passed = self.saving.store.newest()
        self._passed, self._generation = passed, generation
        if generation is None:
            self._refuse_if_lost(passed)
            self._mark = read_raw(self.folder.journal).mark(1)
            edit = self._edited_before_all()
            return Found(None, {}, *_outside(self.folder, self._mark), edit)
        files = {name: generation.read(name) for name in generation.manifest.files}
        try:
            engine = json.loads(files.pop(ENGINE_FILE))
        except (KeyError, ValueError, RecursionError) as error:
            raise SnapshotError(f"{generation.path} cannot be read: {error!r}") from error
        self._mark = generation.journal
        engine, edit = self._under_this_graph(engine)
        return Found(engine, files, *_outside(self.folder, self._mark), edit)

    def find_at(self, engine: Any, mark: Mark) -> Found:
        """Open the folder of a run whose checkpoints a host keeps.

        Args:
            engine: The engine's own state, out of the host's checkpoint.
            mark: Where the journal was then.

        Raises:
            RunFolderError: It is of a newer version, cannot be read or written, or its journal is
                another's.
            SnapshotError: The graph was edited, and the edit contradicts what is past.
        """
        journal = self.folder.open()
        try:
            self._open(journal)
            self._passed, self._generation, self._mark = (), None, mark
            read_raw(self.folder.journal).require(mark)
            engine, edit = self._under_this_graph(engine)
            return Found(engine, {}, *_outside(self.folder, mark), edit)
        except BaseException:
            journal.close()
            self.folder.close()
            raise

    def _open(self, journal: Journal) -> None:
        self._begin(journal)
        self._known = known_ids([line.record for line in read_raw(self.folder.journal).lines])

    def _under_this_graph(self, engine: Any) -> tuple[Any, Mapping[str, Any] | None]:
        """A saved engine as this graph goes on with it, and what was edited since."""
        stamp = graph_of(engine)
        if stamp is None or stamp == digest(self._graph):
            return engine, None  # whatever else is wrong with it, loading it tells
        before = compile_graph(self.folder.graph(stamp))[0]
        engine, edit = edit_saved(engine, before, self._core.graph)
        return engine, edit.to_json()

    def _edited_before_all(self) -> Mapping[str, Any] | None:
        """Nothing of the run is left, so that any edit is one of the future."""
        before = self.folder.graph()
        if digest(before) == digest(self._graph):
            return None
        return Edit(self._core.state, tuple(differences(before, self._graph))).to_json()

    def _refuse_if_lost(self, passed: tuple[Passed, ...]) -> None:
        where = self.folder.path
        if passed:
            told = "\n".join(f"  {one}" for one in passed)
            raise RunFolderError(
                f"{where}: no checkpoint of this run is whole, and it does not begin from zero "
                f"unasked:\n{told}\nbring one back, or choose another folder"
            )
        lines = read_raw(self.folder.journal).lines
        saved = [r for line in lines if (r := line.record) and r["type"] == "checkpoint"]
        if any(record.get("number") is not None for record in saved):
            raise RunFolderError(
                f"{where}: the journal tells of checkpoints, and none is there; bring them back, "
                "or choose another folder"
            )

    def taken_up(self, found: Found) -> None:
        """The engine stands where the checkpoint was: write so, and go on recording.

        Raises:
            RunFolderError: The journal cannot be written.
        """
        assert self.journal is not None
        if found.edit is not None:
            self.folder.keep_graph(self._graph)  # before anything says that the run is under it
        now, generation, state = environment(), self._generation, self._core.state
        changed = changes(self.folder.environment(), now)
        passed = [str(one) for one in self._passed]
        self.journal.resume(
            self._mark,
            {
                "step": state.clock.step,
                "boundary": state.spent.step,
                "progress": state.clock.to_json(),
                "generation": None if generation is None else generation.number,
                "passed_over": passed,
                "damage": found.damage,
                "torn": self.journal.cut,
                "stagegraph": __version__,
                "graph": self._graph.name,
                "digest": digest(self._graph),
                "edited": found.edit,
                "changed": changed,
                "resumed": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )
        self._tell_of_saved()
        self.holds_earlier = False
        if self.saving is not None:
            self.saving.take_up()
        anew = found.engine is None
        for text in _worth_saying(self.folder, generation, passed, found.damage, changed, anew):
            warnings.warn(text, stacklevel=4)

    def _tell_of_saved(self) -> None:
        """Journal again what was saved up to here: its records came after the checkpoint's mark."""
        assert self.journal is not None
        if self._generation is None:
            return  # all is done again
        state, last = self._core.state, self._generation.boundary
        saved = [one for one in self.folder.saved_models().all() if one.boundary <= last]
        if not saved:
            return
        told = {r["path"] for r in self.folder.records() if r["type"] == "saved"}
        records = [saved_record(state, one, self.folder.path) for one in saved]
        self.journal.write(tuple(record for record in records if record["path"] not in told))

    def save_now(self) -> str:
        """Save a checkpoint because somebody asks for one.

        Returns:
            Which it is, in words.

        Raises:
            RunFolderError: It could not be written, or there is none to be written.
        """
        if self._options is None:
            raise RunFolderError("the trainer keeps this run's checkpoints; have it save one")
        if self.saving is None:
            raise RunFolderError("the run has not been taken up")
        self.saving.save("asked for", wait=True)
        number = self.saving.last
        if number is None:
            raise RunFolderError("it could not be written; the journal says why")
        return f"checkpoint {number}"

    def finish(self) -> None:
        """Save where training has been left, unless the run has ended and that is saved."""
        if self.saving is not None and not self._core.done:
            self.saving.save("finish", wait=True)

    def close(self) -> None:
        """Wait for what is being written, and let go of the folder.

        Raises:
            RunFolderError: What was being written could not be.
        """
        try:
            if self.hands is not None:
                self.hands.close()
            if self.saving is not None and self.journal is not None:
                self.saving.settle()
        finally:
            if self.journal is not None:
                self.journal.close()
            self.folder.close()


def _outside(folder: RunFolder, mark: Mark) -> tuple[Outside, str | None]:
    """What came from outside after a mark, up to the first damage; in all lives of the run."""
    lines = read_raw(folder.journal).lines[mark.records :]
    damage = next((line.damage for line in lines if line.damage is not None), None)
    whole = takewhile(lambda line: line.damage is None, lines)
    return outside([line.record for line in whole]), damage


def _worth_saying(
    folder: RunFolder,
    generation: Generation | None,
    passed: list[str],
    damage: str | None,
    changed: list[str],
    anew: bool,  # noqa: FBT001 - called once, just above
) -> list[str]:
    said = []
    if anew:
        said.append(f"{folder.path}: the run had died before its first checkpoint; it begins anew")
    elif passed and generation is not None:
        said.append(
            f"{folder.path}: resumed from checkpoint {generation.number} (step {generation.step}); "
            f"passed over: {'; '.join(passed)}"
        )
    if damage is not None:
        said.append(
            f"{folder.path}: the journal is damaged after the checkpoint ({damage}); events and "
            "commands that came after that are lost"
        )
    if changed:
        said.append(
            f"{folder.path}: resumed with another environment than the run began with, so that its "
            f"numbers may differ in their last bits: {'; '.join(changed)}"
        )
    return said
