"""The journal: an append-only file of JSON lines, one per record, each with a checksum.

A line's last key is ``sum``: the CRC-32 of the line before that key, begun with the sum of the line
that counts before it. So a changed, missing, doubled or displaced line shows.

After a resume the journal goes on behind whatever it had come to. The line ``{"type": "resume",
"keep": n}`` follows line ``n``, not the line above it: what lies between was lost or is repeated,
and does not count, whole or damaged.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stagegraph.errors import RunFolderError
from stagegraph.runs.disk import DISK, Disk
from stagegraph.runs.durable import refused
from stagegraph.runs.lines import (
    FORMAT,
    MAX_LINE,
    NO_SUM,
    RESERVED,
    Mark,
    Tail,
    read_raw,
    sealed_line,
)

__all__ = ["Journal", "Mark", "Tail", "read_journal", "read_tail"]

Record = Mapping[str, Any]

_DURABLE = frozenset({"run", "resume", "move", "growth", "roll_back", "error", "end"})
"""Records that are on the disk, not only with the operating system, when ``write`` returns."""


class Journal:
    """A journal that is being written.

    Args:
        path: The file; it is made, and must not be there yet unless ``resume``.
        resume: Go on with a file that is there; a torn last line is cut off.
        disk: Where.

    Raises:
        RunFolderError: The file is there already, or cannot be written, or is of another format.
    """

    def __init__(self, path: Path, *, resume: bool = False, disk: Disk = DISK) -> None:
        self.path = path
        self.cut = 0
        """How many bytes of a torn last line were cut off."""
        self._disk = disk
        self._damage: str | None = None
        self._mark = Mark(0, 0, NO_SUM)
        self._clean = False  # whether the file ends at the mark, and is written from there on
        try:
            if resume:
                self._file = FileIO(path, "r+b")
                self._go_on()
            else:
                # Unbuffered: what could not be written must not come back with the next record.
                self._file = disk.create(path)
        except FileExistsError as error:
            raise RunFolderError(
                f"{path} holds the journal of an earlier run; choose another folder"
            ) from error
        except OSError as error:
            raise refused(path, error) from error

    def _go_on(self) -> None:
        """Find where the last whole line ends, and cut off what a crash has left after it."""
        try:
            raw = read_raw(self.path)
            if raw.lines and raw.format < FORMAT:
                raise RunFolderError(
                    f"{self.path} is of format {raw.format}, which can be read but not gone on "
                    "with; choose another folder"
                )
            self.cut = raw.torn
            self._mark = raw.mark(len(raw.lines))
            self._damage = raw.first_damage()
            if self.cut:
                self._disk.truncate(self._file, self._mark.bytes)
        except BaseException:
            self._file.close()
            raise

    @property
    def mark(self) -> Mark:
        """Where the journal is now: what was written, if not synced."""
        return self._mark

    def sync(self) -> Mark:
        """See that all records are on the disk, before something is saved that refers to them.

        Raises:
            RunFolderError: They cannot be brought there.
        """
        try:
            self._disk.sync(self._file)
        except OSError as error:
            raise refused(self.path, error) from error
        return self._mark

    def write(self, records: tuple[Record, ...]) -> None:
        """Append records, all or none.

        Raises:
            RunFolderError: They could not be written; none of them counts.
            TypeError: One is no JSON data.
            ValueError: One has a key that the journal keeps for itself.
        """
        if self._damage is not None and records:
            raise RunFolderError(f"{self._damage}; the journal goes on only from before that line")
        self._append(records, before=self._mark.sum)

    def resume(self, mark: Mark, record: Record) -> None:
        """Go on from a mark: of all the lines so far, only those up to it count from here on.

        Args:
            mark: Where the journal was when that was saved from which the run resumes.
            record: What to say of it; ``type`` and ``keep`` are set here.

        Raises:
            RunFolderError: The mark is not one of this journal, or it cannot be written.
        """
        read_raw(self.path).require(mark)
        own = {"type": "resume", "keep": mark.records}
        self._append(({**own, **record, **own},), before=mark.sum)
        self._damage = None

    def _append(self, records: tuple[Record, ...], *, before: str) -> None:
        lines: list[bytes] = []
        for record in records:
            if not RESERVED.isdisjoint(record):
                raise ValueError(f"the keys {sorted(RESERVED)} of a record are the journal's own")
            first = not lines and not self._mark.records
            line, before = sealed_line(
                _body({"format": FORMAT, **record} if first else record), before
            )
            if len(line) > MAX_LINE:
                raise RunFolderError(
                    f"{self.path} takes no record of {len(line):,} bytes (type "
                    f"{record['type']!r}); {MAX_LINE:,} are the most"
                )
            lines.append(line)
        content = b"".join(lines)
        end = self._mark.bytes + len(content)
        try:
            if not self._clean:
                self._clear(len(content))
            self._clean = False
            rest = memoryview(content)
            while rest:
                rest = rest[self._disk.write(self._file, rest) :]
            if any(record["type"] in _DURABLE for record in records):
                self._disk.sync(self._file)
        except OSError as error:
            self._take_back()
            raise refused(self.path, error) from error
        self._mark = Mark(self._mark.records + len(records), end, before)
        self._clean = True

    def _clear(self, coming: int) -> None:
        """Cut off what a failed write has left, unless what is coming covers it."""
        self._file.seek(self._mark.bytes)
        found = os.fstat(self._file.fileno()).st_size
        if found <= self._mark.bytes:
            return
        try:
            self._disk.truncate(self._file, self._mark.bytes)
        except OSError:
            if found > self._mark.bytes + coming:
                raise

    def _take_back(self) -> None:
        """Cut off what was half written; what cannot be cut now, the next write sees to."""
        with contextlib.suppress(OSError):
            self._disk.truncate(self._file, self._mark.bytes)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


_ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _body(record: Record) -> bytes:
    try:
        text = _to_json(record)
    except ValueError:
        text = _to_json(_finite(record))
    return text.encode(errors="backslashreplace")


def _to_json(record: Record) -> str:
    return _ENCODER.encode(record)


def _finite(value: Any) -> Any:
    """The same data with null for every number that JSON does not know."""
    match value:
        case Mapping():
            return {key: _finite(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_finite(inner) for inner in value]
        case float() if not math.isfinite(value):
            return None
    return value


def read_journal(path: Path, *, everything: bool = False) -> list[dict[str, Any]]:
    """The records that count; a last line without an end is one that a crash cut off.

    Args:
        path: The file.
        everything: All lines, those too that a resume left behind.

    Raises:
        RunFolderError: There is no such file, or a line that counts is damaged.
    """
    raw = read_raw(path)
    if not raw.lines:
        raise RunFolderError(f"{path} holds no record: the run never began, or this is no journal")
    numbers = range(1, len(raw.lines) + 1) if everything else raw.history()
    for number in numbers:
        raw.require_whole(number)
    return [raw.record(number) for number in numbers]


def read_tail(path: Path, mark: Mark) -> Tail:
    """What the journal has after a mark, as far as it can be read.

    Args:
        path: The file.
        mark: Where the journal was when something was saved.

    Raises:
        RunFolderError: There is no such file, or the mark is not one of it.
    """
    raw = read_raw(path)
    raw.require(mark)
    whole = raw.whole_history()
    after = [n for n in whole if n > mark.records] if mark.records in {0, *whole} else []
    records = tuple(raw.record(number) for number in after)
    return Tail(records, damage=raw.first_damage(), torn=raw.torn)
