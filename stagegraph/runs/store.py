"""The checkpoint store: whole checkpoints or none, whatever fails and whenever it stops.

A checkpoint, here called a generation, is a directory ``gen-<number>``. It is written aside, each
file synced, its manifest last; then it is given its name. There is no pointer to the newest one:
that is found by looking, and verified.
"""

from __future__ import annotations

import contextlib
import math
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

from stagegraph.errors import RunFolderError
from stagegraph.runs.disk import DISK, Disk
from stagegraph.runs.durable import Written, refused, remove_tree, unreadable, write_new
from stagegraph.runs.generation import Damaged, Generation, Unread, open_generation
from stagegraph.runs.lines import Mark
from stagegraph.runs.manifest import MANIFEST, Manifest, refuse_names

__all__ = ["CheckpointStore", "Generation", "Passed", "Writer"]

Writer = Callable[[BinaryIO], None]
"""Writes one file's content, front to back, into what it is given."""

_GENERATION = re.compile(r"gen-([0-9]{8,12})")
_ASIDE = re.compile(r"\.(?:new|old)-[0-9]{8,12}-[0-9a-f]{8}")

HEADROOM = 1.2
"""How much must be free before a save, in sizes of the last checkpoint."""


@dataclass(frozen=True, slots=True)
class Passed:
    """A checkpoint that was passed over.

    Attributes:
        number: Its number.
        reason: Why it is not whole.
    """

    number: int
    reason: str

    def __str__(self) -> str:
        return f"checkpoint {self.number}: {self.reason}"


class CheckpointStore:
    """The checkpoints of one run, in one directory.

    Only one process at a time may save; the folder's lock sees to that.

    Args:
        path: The directory; it is made with the first checkpoint.
        keep: How many of the newest are kept, at least 2; ``None``: all, but for one of the same
            boundary as a later one, which was saved again.
        best: A metric and its goal: the best checkpoint by it is kept too.
        run: The run that they belong to; those of another are passed over. ``None`` for any.
        disk: Where.

    Raises:
        RunFolderError: ``keep`` is less than 2.
    """

    def __init__(
        self,
        path: Path,
        *,
        keep: int | None = 3,
        best: tuple[str, Literal["min", "max"]] | None = None,
        run: str | None = None,
        disk: Disk = DISK,
    ) -> None:
        if keep is not None and keep < 2:
            raise RunFolderError(
                f"keep={keep} would leave no checkpoint to fall back to when the newest is damaged;"
                " keep at least 2"
            )
        if best is not None and best[1] not in ("min", "max"):
            raise ValueError(f"best={best!r}: the goal is 'min' or 'max'")
        self.path = path
        self.keep = keep
        self.best = best
        self.unremoved: tuple[str, ...] = ()
        """What retention could not remove at the last save; the next save tries again."""
        self._run = run
        self._disk = disk
        self._made = False
        self._parent: int | None = None
        self._damaged: set[int] = set()

    # Reading

    @property
    def is_used(self) -> bool:
        """Whether anything was saved, whole or not.

        Raises:
            RunFolderError: The directory cannot be read.
        """
        return bool(self._numbers())

    def newest(self) -> tuple[Generation | None, tuple[Passed, ...]]:
        """The newest whole checkpoint, every byte of it verified.

        Returns:
            It, and every newer one that is not whole. ``(None, ())`` is a run that has saved
            nothing yet; ``None`` with some passed over is one whose checkpoints are all damaged,
            and must not begin from zero without anybody being told.

        Raises:
            RunFolderError: The directory cannot be read, or a newer version wrote in it.
        """
        passed: list[Passed] = []
        for number in reversed(self._numbers()):
            try:
                generation = self._open(number)
                generation.verify()
            except Damaged as error:
                passed.append(Passed(number, str(error)))
                if not isinstance(error, Unread):
                    self._damaged.add(number)
                continue
            self._parent = number
            return generation, tuple(passed)
        return None, tuple(passed)

    def generations(self) -> list[Generation]:
        """The checkpoints, oldest first, whose manifest is whole and whose files have their sizes.

        Raises:
            RunFolderError: The directory cannot be read, or a newer version wrote in it.
        """
        return self.survey()[0]

    def survey(self) -> tuple[list[Generation], tuple[Passed, ...]]:
        """As :meth:`generations`, and what of all there is was passed over.

        Raises:
            RunFolderError: The directory cannot be read, or a newer version wrote in it.
        """
        found: list[Generation] = []
        passed: list[Passed] = []
        for number in self._numbers():
            try:
                generation = self._open(number)
                generation.verify_sizes()
            except Damaged as error:
                passed.append(Passed(number, str(error)))
            else:
                found.append(generation)
        return found, tuple(passed)

    def place(self, number: int) -> Path:
        """The directory of the one of this number."""
        return self.path / _name(number)

    def _open(self, number: int) -> Generation:
        return open_generation(self.place(number), number, self._run)

    def _numbers(self) -> list[int]:
        if self.path.is_symlink():
            raise RunFolderError(
                f"{self.path} is a symbolic link, and nothing outside of a run's folder is touched;"
                " put the whole folder where the link leads"
            )
        try:
            names = [entry.name for entry in self.path.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise unreadable(self.path, error) from error
        found = (_GENERATION.fullmatch(name) for name in names)
        return sorted({int(match[1]) for match in found if match and _is_name(match)})

    # Writing

    def save(
        self,
        files: Mapping[str, Writer],
        *,
        step: int,
        boundary: int,
        why: str,
        metrics: Mapping[str, float],
        journal: Mark,
        about: Mapping[str, Any],
    ) -> Generation:
        """Save a checkpoint; it is on the disk when this returns.

        Args:
            files: A writer for each file.
            step: The clock of the present branch.
            boundary: Updates ever made.
            why: What it is made for.
            metrics: Metrics known now.
            journal: Where the journal is, synced up to there (:meth:`Journal.sync`).
            about: What else to keep of it, as JSON data.

        Raises:
            RunFolderError: It could not be written. Nothing half written is left of it, and all
                that was saved before is as it was.
            ValueError: A file's name, or ``about``, is not fit for it.
            TypeError: ``about`` is no JSON data.
        """
        refuse_names(files)
        numbers = self._numbers()
        manifest = Manifest(
            number=numbers[-1] + 1 if numbers else 1,
            parent=self._parent,
            run=self._run or "",
            step=step,
            boundary=boundary,
            why=why,
            metrics=metrics,
            journal=journal,
            about=about,
        )
        manifest.to_bytes()  # what cannot be written is refused before anything is
        generation = self._write(files, manifest)
        self._parent = generation.number
        self._retain()
        return generation

    def _write(self, files: Mapping[str, Writer], manifest: Manifest) -> Generation:
        aside = self.path / _aside("new", manifest.number)
        target = self.path / _name(manifest.number)
        at = self.path
        try:
            self._make()
            self.clean()  # what a failed save could not take back may fill the disk
            self._require_room()
            at = aside
            try:
                self._disk.make_directory(aside)
                whole = replace(manifest, files=self._write_files(files, aside))
                self._write_manifest(whole, aside)
                self._disk.sync_directory(aside)
                self._disk.rename(aside, target)
            except BaseException:
                self._discard(aside)
                raise
            at = self.path
            self._disk.sync_directory(self.path)
        except OSError as error:
            raise refused(_place(error, at), error) from error
        return Generation(target, whole)

    def _make(self) -> None:
        """Make the directory, and see once that it is durable, whoever has made it."""
        if not self.path.is_dir():
            self._disk.make_directory(self.path)
        elif self._made:
            return
        self._disk.sync_directory(self.path.parent)
        self._made = True

    def _require_room(self) -> None:
        last = self._last()
        wanted = 0 if last is None else math.ceil(HEADROOM * last.size)
        free = self._disk.free(self.path)
        if free < wanted:
            raise RunFolderError(
                f"{self.path} has no room for a checkpoint: the last one took "
                f"{_megabytes(wanted / HEADROOM)}, and {_megabytes(free)} are free where "
                f"{_megabytes(wanted)} should be; free some space there (older checkpoints are not "
                "removed to make room)"
            )

    def _last(self) -> Generation | None:
        for number in reversed(self._numbers()):
            with contextlib.suppress(Damaged):
                return self._open(number)
        return None

    def _write_files(self, files: Mapping[str, Writer], aside: Path) -> dict[str, Written]:
        return {
            name: write_new(aside / name, write, disk=self._disk) for name, write in files.items()
        }

    def _write_manifest(self, manifest: Manifest, aside: Path) -> None:
        content = manifest.to_bytes()
        write_new(aside / MANIFEST, lambda file: _put(file, content), disk=self._disk)

    def _discard(self, aside: Path) -> None:
        """Remove what a failed save has written; what cannot be removed, the next save will."""
        with contextlib.suppress(OSError):
            remove_tree(aside, disk=self._disk)

    # Removing

    def clean(self) -> tuple[str, ...]:
        """Remove what a process that died has left half written or half removed.

        Only for who holds the folder's lock.

        Returns:
            What could not be removed, and why.
        """
        complaints: list[str] = []
        try:
            paths = [path for path in self.path.iterdir() if _ASIDE.fullmatch(path.name)]
        except FileNotFoundError:
            paths = []
        except OSError as error:
            return (str(refused(self.path, error)),)
        for path in paths:
            try:
                if path.is_symlink() or not path.is_dir():
                    self._disk.remove(path)
                else:
                    remove_tree(path, disk=self._disk)
            except OSError as error:
                complaints.append(str(refused(_place(error, path), error)))
        return tuple(complaints)

    def _retain(self) -> None:
        """Remove what is neither among the newest nor the best.

        Each loses its name first, durably, so that nothing with the name of a checkpoint is ever
        half removed.
        """
        complaints: list[str] = []
        try:
            victims = self._victims()
            for number in victims:
                aside = self.path / _aside("old", number)
                self._disk.rename(self.path / _name(number), aside)
            if victims:
                self._disk.sync_directory(self.path)
        except (OSError, RunFolderError) as error:
            complaints.append(str(error))
        else:
            complaints += self.clean()
        self.unremoved = tuple(complaints)

    def _victims(self) -> list[int]:
        if self.keep is None:
            return self._superseded()
        whole: list[Generation] = []
        spared: set[int] = set()
        for number in self._numbers():
            try:
                generation = self._open(number)
                generation.verify_sizes()
            except Unread:
                spared.add(number)  # it may be whole, and the best
            except Damaged:
                continue
            else:
                if number not in self._damaged:
                    whole.append(generation)
        if len(whole) <= self.keep:
            return []
        kept = whole[-self.keep :]
        spared |= {generation.number for generation in [*kept, *self._best(whole)]}
        return [n for n in self._numbers() if n < kept[0].number and n not in spared]

    def _superseded(self) -> list[int]:
        """Those that the newest has saved again: of its own boundary."""
        *older, newest = self.generations()
        return [one.number for one in older if one.boundary == newest.boundary]

    def _best(self, whole: list[Generation]) -> list[Generation]:
        """The best one by the metric, of equals the first; none where nobody knows the metric."""
        if self.best is None:
            return []
        name, goal = self.best
        known = [g for g in whole if math.isfinite(g.metrics.get(name, math.nan))]
        pick = min if goal == "min" else max
        return [pick(known, key=lambda g: g.metrics[name])] if known else []


def _put(file: BinaryIO, content: bytes) -> None:
    file.write(content)


def _name(number: int) -> str:
    return f"gen-{number:08d}"


def _aside(kind: Literal["new", "old"], number: int) -> str:
    return f".{kind}-{number:08d}-{secrets.token_hex(4)}"


def _is_name(match: re.Match[str]) -> bool:
    return match[0] == _name(int(match[1]))


def _place(error: OSError, otherwise: Path) -> Path:
    """The path that an error names, or else the one at hand."""
    return Path(error.filename) if isinstance(error.filename, str) else otherwise


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"
