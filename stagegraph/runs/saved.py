"""Saved models: the weights that a run's graph has said to keep, one store for each name.

They stay for ever. One that was saved again at the same boundary, as after a crash, takes the
place of the one before.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stagegraph.errors import RunFolderError
from stagegraph.runs.disk import DISK, Disk
from stagegraph.runs.durable import make_directories, refused, unreadable
from stagegraph.runs.generation import Generation
from stagegraph.runs.lines import Mark
from stagegraph.runs.manifest import DEVICES
from stagegraph.runs.store import CheckpointStore, Writer

__all__ = ["Broken", "Saved", "SavedModels", "directory_of", "relative"]

SAVED = "saved"
"""The directory in a run's folder."""

_PLAIN = re.compile(r"[a-z][a-z0-9_.]{0,99}")


@dataclass(frozen=True, slots=True)
class Saved:
    """A model that a run has saved.

    Attributes:
        name: What the graph calls it; one of a template or a group of stages has its prefix,
            ``"lr.anneal1"``.
        step: The clock of the branch that it is of.
        boundary: Updates ever made then, those of abandoned branches included.
        stages: Each region's stage then: the one that was left.
        metrics: The newest finite value of each metric then.
        progress: The whole clock, as JSON data.
        graph: The graph's name.
        digest: The graph's digest.
        bytes: What it takes on the disk.
        path: Its directory: safetensors files and JSON.
    """

    name: str
    step: int
    boundary: int
    stages: Mapping[str, str]
    metrics: Mapping[str, float]
    progress: Mapping[str, Any]
    graph: str
    digest: str
    bytes: int
    path: Path

    @classmethod
    def of(cls, generation: Generation) -> Saved:
        """What a manifest says.

        Raises:
            ValueError: It is none of a saved model.
        """
        about = generation.about
        try:
            return cls(
                name=str(about["name"]),
                step=generation.step,
                boundary=generation.boundary,
                stages=dict(about["stages"]),
                metrics=dict(generation.metrics),
                progress=dict(about["progress"]),
                graph=str(about["graph"]),
                digest=str(about["digest"]),
                bytes=generation.size,
                path=generation.path,
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"its manifest is none of a saved model: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Broken:
    """A saved model that is not whole.

    Attributes:
        number: Its number among those of its name.
        path: Its directory.
        reason: Why it is not whole.
    """

    number: int
    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path} is not whole: {self.reason}"


class SavedModels:
    """The models that one run has saved.

    Args:
        path: The run's folder.
        run: The run; what belongs to another is not whole.
        disk: Where.
    """

    def __init__(self, path: Path, *, run: str, disk: Disk = DISK) -> None:
        self.path = path / SAVED
        self._run = run
        self._disk = disk

    def save(
        self,
        name: str,
        files: Mapping[str, Writer],
        *,
        step: int,
        boundary: int,
        metrics: Mapping[str, float],
        journal: Mark,
        about: Mapping[str, Any],
    ) -> Saved:
        """Save a model; it is on the disk when this returns.

        Args:
            name: Its name.
            files: A writer for each file.
            step: The clock of its branch.
            boundary: Updates ever made then. What was saved there before under this name goes.
            metrics: Metrics known then.
            journal: Where the journal is, synced up to there.
            about: ``stages``, ``progress``, ``graph`` and ``digest``.

        Raises:
            RunFolderError: It could not be written; nothing half written is left of it.
        """
        try:
            make_directories(self.path, disk=self._disk)
        except OSError as error:
            raise refused(self.path, error) from error
        store = self._store(self.path / directory_of(name))
        generation = store.save(
            files,
            step=step,
            boundary=boundary,
            why="save",
            metrics=metrics,
            journal=journal,
            about={"name": name, **about},
        )
        return Saved.of(generation)

    def _store(self, path: Path) -> CheckpointStore:
        return CheckpointStore(path, keep=None, run=self._run, disk=self._disk)

    def all(self) -> list[Saved]:
        """Those that are whole by their manifest and the sizes of their files, the oldest first.

        Raises:
            RunFolderError: The folder cannot be read, or a newer version wrote in it.
        """
        whole, _ = self.survey()
        return whole

    def survey(self) -> tuple[list[Saved], list[Broken]]:
        """As :meth:`all`, and those that are not whole.

        Raises:
            RunFolderError: The folder cannot be read, or a newer version wrote in it.
        """
        found: dict[tuple[str, int], Saved] = {}
        broken: list[Broken] = []
        for path in self._directories():
            store = self._store(path)
            whole, passed = store.survey()
            broken += [Broken(p.number, store.place(p.number), p.reason) for p in passed]
            for generation in whole:
                try:
                    saved = Saved.of(generation)
                except ValueError as error:
                    broken.append(Broken(generation.number, generation.path, str(error)))
                else:
                    found[saved.name, saved.boundary] = saved  # of one boundary, the newest
        return sorted(found.values(), key=lambda one: (one.boundary, one.name)), broken

    def clean(self) -> None:
        """Remove what a process that died has left half written; for who holds the lock."""
        for path in self._directories():
            self._store(path).clean()

    def _directories(self) -> Iterator[Path]:
        if self.path.is_symlink():
            raise RunFolderError(
                f"{self.path} is a symbolic link, and nothing outside of a run's folder is touched;"
                " put the whole folder where the link leads"
            )
        try:
            yield from sorted(one for one in self.path.iterdir() if one.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise unreadable(self.path, error) from error


def directory_of(name: str) -> str:
    """What to call the directory of a name, on every system.

    Systems that do not tell cases apart, that cannot have long names, or that take some for
    devices get one of small letters that ends with a digest.

    >>> directory_of("lr.anneal1")
    'lr.anneal1'
    >>> directory_of("Annealed")
    'annealed-e67bd7ad'

    Args:
        name: Letters, digits, ``_``, and ``.`` between the parts.
    """
    if _PLAIN.fullmatch(name) and not DEVICES.fullmatch(name.partition(".")[0]):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name.lower().replace('.', '-')[:80]}-{digest}"


def relative(saved: Saved, run: Path) -> str:
    """Where it lies in the run's folder, the same on every system."""
    return Path(os.path.relpath(saved.path, run)).as_posix()
