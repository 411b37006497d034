"""The journal: an append-only file of JSON lines, one per record."""

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

__all__ = ["Journal", "read_journal"]

Record = Mapping[str, Any]

_DURABLE = frozenset({"run", "move", "growth", "roll_back", "error", "end"})
"""Records that are on the disk, not only with the operating system, when ``write`` returns."""


class Journal:
    """A journal that is being written.

    Args:
        path: The file; it is made, and must not be there yet unless ``resume``.
        resume: Go on with a file that is there.

    Raises:
        RunFolderError: The file is there already, or cannot be written.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.path = path
        try:
            # Unbuffered: what could not be written must not come back with the next record.
            self._file = path.open("r+b" if resume else "xb", buffering=0)
            self._end = _whole_lines(self._file)
        except FileExistsError as error:
            raise RunFolderError(
                f"{path} holds the journal of an earlier run; choose another folder"
            ) from error
        except OSError as error:
            raise RunFolderError(f"{path} cannot be written: {error}") from error

    def write(self, records: tuple[Record, ...]) -> None:
        """Append records, all or none.

        Raises:
            RunFolderError: They could not be written; none of them counts.
        """
        lines = b"".join(_line(record) for record in records)
        try:
            self._file.seek(self._end)
            rest = memoryview(lines)
            while rest:
                rest = rest[self._file.write(rest) :]
            if any(record["type"] in _DURABLE for record in records):
                os.fsync(self._file.fileno())
        except OSError as error:
            self._take_back()
            raise RunFolderError(f"{self.path} cannot be written: {error}") from error
        self._end += len(lines)

    def _take_back(self) -> None:
        """Cut off what was half written; what cannot be cut now, the next record overwrites."""
        with contextlib.suppress(OSError):
            self._file.truncate(self._end)

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


def _whole_lines(file: FileIO) -> int:
    """Where the last whole line ends; what a crash has left after it is cut off."""
    content = file.readall() if file.readable() else b""
    end = content.rfind(b"\n") + 1
    if end < len(content):
        file.truncate(end)
    return end


def _line(record: Record) -> bytes:
    try:
        text = _to_json(record)
    except ValueError:
        text = _to_json(_finite(record))
    return text.encode(errors="backslashreplace") + b"\n"


def _to_json(record: Record) -> str:
    return json.dumps(record, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


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


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All records of a journal; a last line without an end is one that a crash cut off.

    Raises:
        RunFolderError: There is no such file, or a line in it is damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error
    *lines, _torn = content.split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RunFolderError(f"{path}:{number}: this line is damaged: {error}") from error
        if not _is_record(record):
            raise RunFolderError(f"{path}:{number}: this line is no record")
        records.append(record)
    if not records:
        raise RunFolderError(f"{path} holds no record: the run never began, or this is no journal")
    return records


_KEYS = {
    "move": ("region", "edge", "source", "via", "target"),
    "metric": ("name", "value"),
    "blocked": ("edge", "reason"),
    "unblocked": ("edge",),
    "error": ("action", "reason"),
    "roll_back": ("snapshot", "to"),
    "end": ("reason",),
}
"""What a record of a type has for certain."""


def _is_record(record: object) -> bool:
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return False
    kind = record.get("type")
    return isinstance(kind, str) and all(key in record for key in _KEYS.get(kind, ()))
