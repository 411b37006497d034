"""Lines of a journal: how one is written with its checksum, and read back with it verified."""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from stagegraph.errors import RunFolderError
from stagegraph.runs.durable import unreadable

__all__ = [
    "FORMAT",
    "MAX_LINE",
    "NO_SUM",
    "RESERVED",
    "Mark",
    "Raw",
    "Tail",
    "read_raw",
    "sealed_line",
]

FORMAT = 2
"""Said by the first line. Format 1 had no checksums; it is read still."""

MAX_LINE = 64 << 20
NO_SUM = "00000000"
"""What the first line's checksum begins with."""

RESERVED = frozenset({"format", "sum"})

_SUM = re.compile(rb',"sum":"([0-9a-f]{8})"\}\n')
_SUM_LENGTH = len(',"sum":"00000000"}\n')


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a journal.

    Attributes:
        records: How many lines are before it.
        bytes: How many bytes.
        sum: The checksum of the last line before it.
    """

    records: int
    bytes: int
    sum: str


@dataclass(frozen=True, slots=True)
class Tail:
    """What a journal has after a mark.

    Attributes:
        records: The records that count, up to the first damage.
        damage: The first damage, in words; ``None`` if there is none.
        torn: How many bytes of a last line that a crash cut off.
    """

    records: tuple[dict[str, Any], ...]
    damage: str | None
    torn: int


@dataclass(frozen=True, slots=True)
class Line:
    """One line.

    Attributes:
        record: What it says, without what the journal adds.
        before: The line that counts before it; 0 is none.
        end: Where it ends, in bytes.
        sum: Its checksum as written; ``None`` if it has none.
        damage: What is wrong with it.
    """

    record: dict[str, Any]
    before: int
    end: int
    sum: str | None
    damage: str | None


@dataclass(frozen=True, slots=True)
class Raw:
    """All lines of a journal.

    Attributes:
        path: The file.
        format: The format that its first line says.
        lines: The lines, in the order of the file.
        torn: How many bytes of a last line that a crash cut off.
    """

    path: Path
    format: int
    lines: list[Line]
    torn: int

    def record(self, number: int) -> dict[str, Any]:
        """The record in a line; lines are counted from 1."""
        return self.lines[number - 1].record

    def mark(self, number: int) -> Mark:
        """The place after a line."""
        if number == 0:
            return Mark(0, 0, NO_SUM)
        line = self.lines[number - 1]
        return Mark(number, line.end, line.sum or "")

    def require(self, mark: Mark) -> None:
        """See that a mark is one of this journal.

        Raises:
            RunFolderError: It is not.
        """
        if mark.records > len(self.lines):
            raise RunFolderError(
                f"{self.path} ends after line {len(self.lines)}, and the checkpoint was made after "
                f"line {mark.records}: lines were lost, or it is another run's journal; resume "
                "from an older checkpoint, or bring the journal back"
            )
        for number in self._history(mark.records):
            self.require_whole(number)
        if self.mark(mark.records) != mark:
            raise RunFolderError(
                f"{self.path}:{mark.records}: this is not the line after which the checkpoint was "
                "made: it is another run's journal; bring the right one back"
            )

    def require_whole(self, number: int) -> None:
        """See that a line is not damaged.

        Raises:
            RunFolderError: It is.
        """
        if self.lines[number - 1].damage is not None:
            raise RunFolderError(self.told(number))

    def told(self, number: int) -> str:
        """A line's damage with its place and the way out."""
        return (
            f"{self.path}:{number}: {self.lines[number - 1].damage}; bring the file back as it was,"
            " or take the checkpoints away that were saved after this line, and resume from an "
            "older one"
        )

    def first_damage(self) -> str | None:
        """The first damaged line that counts, in words; ``None`` if there is none."""
        number = next((n for n in self.history() if self.lines[n - 1].damage is not None), None)
        return None if number is None else self.told(number)

    def whole_history(self) -> list[int]:
        """The lines that count, up to the first damaged one."""
        history = self.history()
        damaged = (at for at, n in enumerate(history) if self.lines[n - 1].damage is not None)
        return history[: next(damaged, None)]

    def history(self) -> list[int]:
        """The lines that count, in order."""
        return self._history(len(self.lines))

    def _history(self, number: int) -> list[int]:
        numbers = []
        while number:
            numbers.append(number)
            number = self.lines[number - 1].before
        return numbers[::-1]


def sealed_line(body: bytes, before: str) -> tuple[bytes, str]:
    """A line with its checksum.

    Args:
        body: A JSON object with at least one key.
        before: The checksum of the line that counts before it.

    Returns:
        The line, and its checksum.
    """
    own = _checksum(body[:-1], before)
    return body[:-1] + f',"sum":"{own}"}}\n'.encode(), own


def _checksum(content: bytes, before: str) -> str:
    return f"{zlib.crc32(content, int(before, 16)):08x}"


def read_raw(path: Path) -> Raw:
    """Read a journal, line by line; what is damaged is told, not raised.

    Raises:
        RunFolderError: It cannot be read, or a newer version wrote it.
    """
    try:
        with path.open("rb") as file:
            return _read(path, file)
    except OSError as error:
        raise unreadable(path, error) from error


def _read(path: Path, file: BufferedReader) -> Raw:
    raw = Raw(path, FORMAT, [], 0)
    end = 0
    while content := file.readline(MAX_LINE + 1):
        if len(content) > MAX_LINE:
            raise RunFolderError(
                f"{path}:{len(raw.lines) + 1}: this line is longer than {MAX_LINE:,} bytes; this "
                "is no journal"
            )
        if not content.endswith(b"\n"):
            return Raw(path, raw.format, raw.lines, len(content))
        end += len(content)
        if not raw.lines:
            raw = Raw(path, _format(path, content), [], 0)
        raw.lines.append(_line(raw, content, end))
    return raw


def _format(path: Path, content: bytes) -> int:
    """The format that a first line says; one that says none is of the first."""
    record, _ = _parse(content)
    found = record.get("format", 1)
    own = _SUM.fullmatch(content[-_SUM_LENGTH:])
    changed = own and _checksum(content[:-_SUM_LENGTH], NO_SUM).encode() != own[1]
    if type(found) is int and found > FORMAT and not changed:
        raise RunFolderError(
            f"{path} was made by a newer stagegraph (format {found}; this one reads {FORMAT}); "
            "update stagegraph"
        )
    return 1 if found == 1 and own is None else FORMAT


def _line(raw: Raw, content: bytes, end: int) -> Line:
    above = len(raw.lines)
    record, damage = _parse(content)
    found = _SUM.fullmatch(content[-_SUM_LENGTH:])
    own = found[1].decode() if found else None
    before = above
    if raw.format == 1:
        if damage is None and own is not None:
            damage = "this line is damaged: it has a checksum, and the first line has none"
        return Line(record, before, end, None, damage or _no_record(record))
    keep = record.get("keep")
    if record.get("type") == "resume" and type(keep) is int and 0 <= keep <= above:
        before = keep
    damage = damage or _sum_damage(raw, content, own, before) or _no_record(record)
    if damage is not None:
        return Line({}, above, end, own, damage)
    record = {key: value for key, value in record.items() if key not in RESERVED}
    return Line(record, before, end, own, None)


def _sum_damage(raw: Raw, content: bytes, own: str | None, before: int) -> str | None:
    if own is None:
        return "this line is damaged: its end, with the checksum, is not as it was written"
    expected = raw.lines[before - 1].sum if before else NO_SUM
    if expected is not None and _checksum(content[:-_SUM_LENGTH], expected) != own:
        return (
            "this line is damaged: its checksum does not fit, so that it was changed, or a line "
            "before it is missing, doubled or in another place"
        )
    return None


def _parse(content: bytes) -> tuple[dict[str, Any], str | None]:
    try:
        record = json.loads(content)
    except (ValueError, RecursionError, MemoryError) as error:
        return {}, f"this line is damaged: {error}"
    if not isinstance(record, dict):
        return {}, "this line is no record"
    return record, None


_KEYS = {
    "move": ("region", "edge", "source", "via", "target"),
    "metric": ("name", "value"),
    "blocked": ("edge", "reason"),
    "unblocked": ("edge",),
    "error": ("action", "reason"),
    "roll_back": ("snapshot", "to"),
    "reference": ("because", "restarted"),
    "decay": ("guard", "told"),
    "baseline": ("name",),
    "saved": ("name", "of_step", "path"),
    "end": ("reason",),
}
"""What a record of a type has for certain."""


def _no_record(record: dict[str, Any]) -> str | None:
    kind = record.get("type")
    if (
        isinstance(kind, str)
        and type(record.get("step")) is int
        and all(key in record for key in _KEYS.get(kind, ()))
    ):
        return None
    return "this line is no record"
