"""The journal: an append-only file of JSON lines, one per record."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
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
            self._file = path.open("ab" if resume else "xb")
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
        start = self._file.tell()
        try:
            self._file.write(lines)
            self._file.flush()
            if any(record["type"] in _DURABLE for record in records):
                os.fsync(self._file.fileno())
        except OSError as error:
            self._take_back(start)
            raise RunFolderError(f"{self.path} cannot be written: {error}") from error

    def _take_back(self, start: int) -> None:
        """Cut a half-written tail off; a reader ignores what cannot even be cut."""
        try:
            os.ftruncate(self._file.fileno(), start)
            self._file.seek(start)
        except OSError:
            return

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


def _line(record: Record) -> bytes:
    text = json.dumps(record, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.encode() + b"\n"


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
        if not isinstance(record, dict) or not isinstance(record.get("type"), str):
            raise RunFolderError(f"{path}:{number}: this line is no record")
        records.append(record)
    return records
