"""JSON lines: every record, for an engine without a folder, or for other programs to read."""

from __future__ import annotations

import json
import os
import weakref
from pathlib import Path
from typing import Any, TextIO

from stagegraph.engine.follower import Figures, Follower, Past
from stagegraph.engine.ports import Record
from stagegraph.runs.journal import Journal, read_journal
from stagegraph.runs.lines import read_raw

__all__ = ["JsonLines"]


class JsonLines(Follower):
    """Writes every record as a line of JSON.

    To a path it writes what a run's folder has as its journal, checksums and all: after a resume
    the line ``{"type": "resume", "keep": n}`` says that of the lines so far the first ``n`` count,
    and :meth:`read` gives those that do. To a stream it writes plain lines, and each is flushed.

    Args:
        out: The path of a file that is not there yet, unless the run goes on; or a text stream.
    """

    def __init__(self, out: str | os.PathLike[str] | TextIO) -> None:
        self._path = Path(out) if isinstance(out, str | os.PathLike) else None
        self._stream: Any = None if self._path is not None else out
        self._journal: Journal | None = None

    def take_up(self, past: Past) -> None:
        """Open the file, and write what of the past it lacks.

        Raises:
            RunFolderError: The run begins, and the file is there already; or it cannot be written.
        """
        if self._path is None:
            return
        self.close()
        if not (past.goes_on and self._path.exists()):
            self._journal = self._opened(Journal(self._path))
            self._journal.write(tuple(r for r in past.records if r["type"] != "resume"))
            return
        raw = read_raw(self._path)
        kept = [n for n in raw.whole_history() if raw.record(n).get("boundary", 0) < past.start]
        self._journal = self._opened(Journal(self._path, resume=True))
        self._journal.resume(
            raw.mark(kept[-1] if kept else 0),
            {"step": 0 if past.figures is None else past.figures.step, "boundary": past.start},
        )

    def _opened(self, journal: Journal) -> Journal:
        weakref.finalize(self, journal.close)
        return journal

    def write(self, records: tuple[Record, ...]) -> None:
        """A line for each."""
        if self._journal is not None:
            self._journal.write(records)
        elif self._stream is not None:
            self._stream.writelines(f"{json.dumps(record)}\n" for record in records)
            self._stream.flush()

    def show(self, figures: Figures) -> None:
        """Nothing: records have what is worth keeping."""

    def close(self) -> None:
        """Close the file; a stream is the caller's."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    @staticmethod
    def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
        """The records of a file that count.

        Raises:
            RunFolderError: There is no such file, or a line that counts is damaged.
        """
        return read_journal(Path(path))
