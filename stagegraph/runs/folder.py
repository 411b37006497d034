"""A run's folder: which run it is, its graph, its journal, its checkpoints, its report."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from stagegraph.errors import DocumentError, RunFolderError
from stagegraph.runs.disk import DISK, Disk
from stagegraph.runs.durable import make_directories, put_file, put_text, refused, unreadable
from stagegraph.runs.identity import Identity
from stagegraph.runs.journal import Journal, read_journal
from stagegraph.runs.lines import read_raw
from stagegraph.runs.lock import FolderLock
from stagegraph.runs.saved import SavedModels
from stagegraph.runs.store import CheckpointStore
from stagegraph.schema.dump import digest, dump
from stagegraph.schema.load import load
from stagegraph.schema.stagegraph import StageGraph

__all__ = ["REPORT", "RunFolder"]

IDENTITY = "run.json"
JOURNAL = "journal.jsonl"
NORMALISED = "graph.json"
AUTHORS = ("author.yaml", "author.json")
CHECKPOINTS = "checkpoints"
REPORT = "report.html"

_EDITED = re.compile(r"graph-([1-9][0-9]{0,8})\.json")
_ASIDE = re.compile(r"\.tmp-[0-9a-f]{8}-[a-z.]{1,20}")


class RunFolder:
    """One run on disk.

    ``run.json`` says which run it is and with what it was made; ``graph.json`` is the graph that
    ran; ``author.yaml`` or ``author.json`` its author's own text; ``journal.jsonl`` what happened;
    ``checkpoints/`` has what it can be resumed from, ``saved/`` the models that the graph saves;
    ``report.html`` is how it looked. ``lock`` is held by the process that writes.

    A run that goes on under an edited graph keeps every graph it ran under: ``graph-2.json`` and
    ``author-2.yaml`` are the second, and so on. Each checkpoint and each ``resume`` of the journal
    has the digest of its own; a graph that was written and that none of them names never ran.

    A run has begun when its journal has a line. What stopped before that is made anew.

    Args:
        path: The folder; nothing is touched before :meth:`create` or :meth:`open`.
        disk: Where.
    """

    def __init__(self, path: str | os.PathLike[str], *, disk: Disk = DISK) -> None:
        self.path = Path(path)
        self._disk = disk
        self._lock: FolderLock | None = None

    @property
    def journal(self) -> Path:
        """The journal's file."""
        return self.path / JOURNAL

    @property
    def is_used(self) -> bool:
        """Whether a run has begun in it.

        Raises:
            RunFolderError: That cannot be read.
        """
        try:
            with self.journal.open("rb") as file:
                if any(b"\n" in part for part in iter(lambda: file.read(1 << 20), b"")):
                    return True
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise unreadable(self.journal, error) from error
        return CheckpointStore(self.path / CHECKPOINTS).is_used

    @property
    def is_locked(self) -> bool:
        """Whether this object holds the folder's lock."""
        return self._lock is not None and self._lock.held

    # Writing

    def create(self, graph: StageGraph) -> Journal:
        """Make the folder and its journal; the folder is locked from here on.

        Raises:
            RunFolderError: It holds a run already, is in use, or cannot be written.
        """
        try:
            make_directories(self.path, disk=self._disk)
        except OSError as error:
            raise refused(self.path, error) from error
        self._refuse_if_used()
        self._take_lock()
        try:
            self._refuse_if_used()  # by whom the lock was held until now
            self._refuse_others()
            return self._fill(graph)
        except BaseException:
            self.close()
            raise

    def _fill(self, graph: StageGraph) -> Journal:
        # First its identity: by it, the next start knows that what else is here was made for a run.
        put_file(self.path / IDENTITY, Identity.new(graph).to_bytes(), disk=self._disk)
        try:
            for name in (JOURNAL, *AUTHORS):
                if os.path.lexists(self.path / name):
                    self._disk.remove(self.path / name)
            self._clean()
        except OSError as error:
            raise refused(self.path, error) from error
        self._put_graph(graph, "")
        journal = Journal(self.journal, disk=self._disk)
        try:
            self._disk.sync_directory(self.path)
        except BaseException as error:
            journal.close()
            if isinstance(error, OSError):
                raise refused(self.path, error) from error
            raise
        return journal

    def open(self) -> Journal:
        """Go on with the run that it holds; the folder is locked from here on.

        What a process that died has left half written is removed, a torn last line of the journal
        is cut off (``journal.cut`` says how much).

        Raises:
            RunFolderError: It holds no run, or one of a version that cannot be gone on with; it is
                in use, damaged, or cannot be written.
        """
        self._require_run()
        self._take_lock()
        try:
            self._clean()
            self.checkpoints().clean()
            self.saved_models().clean()
            return Journal(self.journal, resume=True, disk=self._disk)
        except OSError as error:
            self.close()
            raise refused(self.path, error) from error
        except BaseException:
            self.close()
            raise

    def keep_graph(self, graph: StageGraph) -> Path:
        """Keep an edited graph beside those that ran, before the run goes on under it.

        Returns:
            Its file; the one that is there, if it ran before.

        Raises:
            RunFolderError: It cannot be written.
        """
        wanted = digest(graph)
        for path in self._graphs():
            if _digest_of(path) == wanted:
                return path
        number = 2
        while os.path.lexists(self.path / _numbered(NORMALISED, str(number))):
            number += 1
        return self._put_graph(graph, str(number))

    def _put_graph(self, graph: StageGraph, number: str) -> Path:
        if graph.source.text:
            author = AUTHORS[graph.source.file.endswith(".json")]
            put_text(self.path / _numbered(author, number), graph.source.text, disk=self._disk)
        path = self.path / _numbered(NORMALISED, number)
        put_text(path, dump(graph, "json"), disk=self._disk)
        return path

    def checkpoints(
        self, *, keep: int = 3, best: tuple[str, Literal["min", "max"]] | None = None
    ) -> CheckpointStore:
        """The run's checkpoints.

        Args:
            keep: How many of the newest are kept, at least 2.
            best: A metric and its goal: the best checkpoint by it is kept too.

        Raises:
            RunFolderError: The folder holds no run, or ``keep`` is too small.
        """
        return CheckpointStore(
            self.path / CHECKPOINTS, keep=keep, best=best, run=self.identity().id, disk=self._disk
        )

    def saved_models(self) -> SavedModels:
        """The models that the run's graph has saved.

        Raises:
            RunFolderError: The folder holds no run.
        """
        return SavedModels(self.path, run=self.identity().id, disk=self._disk)

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def write_report(self, html: str) -> Path:
        """Put the report into the folder.

        Raises:
            RunFolderError: It cannot be written.
        """
        path = self.path / REPORT
        put_text(path, html, disk=self._disk)
        return path

    # Reading

    def identity(self) -> Identity:
        """Which run it is.

        Raises:
            RunFolderError: It does not say, or a newer version wrote it.
        """
        identity = Identity.read(self.path / IDENTITY)
        if identity is None:
            raise RunFolderError(f"{self.path} holds no run: there is no {IDENTITY} in it")
        return identity

    def environment(self) -> dict[str, str]:
        """With what the run was begun; each resume's own is in the journal.

        Raises:
            RunFolderError: As for :meth:`identity`.
        """
        return dict(self.identity().environment)

    def graph(self, of: str | None = None) -> StageGraph:
        """A graph that the run ran under.

        Args:
            of: Its digest; ``None``: the newest, by what the journal says.

        Raises:
            RunFolderError: The folder holds no run, or the graph's file is not as it was written.
            DocumentError: The graph's file is damaged.
        """
        identity = Identity.read(self.path / IDENTITY)
        path = self.path / NORMALISED
        if not path.is_file():
            raise RunFolderError(f"{self.path} holds no run: there is no {NORMALISED} in it")
        if identity is None:
            return load(path)
        wanted = of or self._newest_digest() or identity.digest
        if wanted != identity.digest:
            return self._edited_graph(wanted)
        graph = load(path)
        if digest(graph) != wanted:
            raise RunFolderError(
                f"{path} is not the graph of this run, {identity.graph!r}: it was changed "
                f"(digest {digest(graph)[:12]}…, not {wanted[:12]}…); bring it back as it was"
            )
        return graph

    def _edited_graph(self, wanted: str) -> StageGraph:
        paths = self._graphs()
        for path in paths:
            if _digest_of(path) == wanted:
                return load(path)
        known = ", ".join(path.name for path in paths)
        raise RunFolderError(
            f"{self.path}: none of {known} is the graph that the run went on under (digest "
            f"{wanted[:12]}…): it is missing or was changed; bring it back as it was"
        )

    def _graphs(self) -> list[Path]:
        """The files of all graphs that it keeps, the first one first."""
        numbers = {
            int(found[1]): path
            for path in self.path.iterdir()
            if (found := _EDITED.fullmatch(path.name)) is not None
        }
        return [self.path / NORMALISED, *(numbers[number] for number in sorted(numbers))]

    def _newest_digest(self) -> str | None:
        """The digest in the last ``resume`` that counts; older versions wrote none."""
        if not self.journal.is_file():
            return None
        raw = read_raw(self.journal)
        for number in reversed(raw.whole_history()):
            record = raw.record(number)
            if record["type"] == "resume" and "digest" in record:
                return str(record["digest"])
        return None

    def records(self) -> list[dict[str, Any]]:
        """The journal's records that count.

        Raises:
            RunFolderError: There is none, or it is damaged, or a newer version wrote it.
        """
        Identity.read(self.path / IDENTITY)
        if not os.path.lexists(self.journal):
            raise RunFolderError(f"{self.path} holds no run: there is no {JOURNAL} in it")
        return read_journal(self.journal)

    # Within

    def _refuse_if_used(self) -> None:
        if self.is_used:
            raise RunFolderError(f"{self.path} holds an earlier run already; choose another folder")

    def _refuse_others(self) -> None:
        """Write over nothing that is not a run's."""
        if os.path.lexists(self.path / IDENTITY):
            return
        for name in (NORMALISED, JOURNAL, *AUTHORS):
            if os.path.lexists(self.path / name):
                raise RunFolderError(
                    f"{self.path / name} cannot be written: it is there already, and there is no "
                    f"{IDENTITY} that says it is a run's; choose another folder"
                )

    def _require_run(self) -> Identity:
        identity = Identity.read(self.path / IDENTITY)
        if identity is None and self.is_used:
            raise RunFolderError(
                f"{self.path} was made by an older stagegraph, which kept no checkpoints: it can "
                "be looked at, but not gone on with; choose another folder"
            )
        if not self.is_used:
            raise RunFolderError(f"{self.path} holds no run to go on with: none has begun in it")
        if not self.journal.is_file():
            raise RunFolderError(
                f"{self.path} has checkpoints, but its {JOURNAL} is missing; bring it back"
            )
        return self.identity()

    def _take_lock(self) -> None:
        if not self.is_locked:
            self._lock = FolderLock(self.path)

    def _clean(self) -> None:
        """Remove what a process that died was writing aside."""
        for path in self.path.iterdir():
            if _ASIDE.fullmatch(path.name):
                self._disk.remove(path)


def _numbered(name: str, number: str) -> str:
    """``graph.json`` as ``graph-2.json``; with no number as it is."""
    stem, dot, suffix = name.partition(".")
    return f"{stem}-{number}{dot}{suffix}" if number else name


def _digest_of(path: Path) -> str | None:
    """The digest of the graph in a file; ``None`` if that holds none."""
    try:
        return digest(load(path))
    except DocumentError:
        return None
