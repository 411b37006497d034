"""TensorBoard: markers as texts, numbers as scalars."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stagegraph.engine.follower import Figures, Past
from stagegraph.errors import RunFolderError
from stagegraph.trackers.ledger import Entry, Ledger
from stagegraph.trackers.markers import PREFIX, Marker
from stagegraph.trackers.tracker import Tracker

__all__ = ["TensorBoard"]

_TEXT = "/text_summary"
"""What ``add_text`` puts behind a name."""

_SUFFIX = ".stagegraph"
"""How the files of our own writers end."""


class TensorBoard(Tracker):
    """Shows a run in TensorBoard.

    Args:
        where: A folder, in which a file of our own is written; on a resume that file is written
            anew without what came after the boundary from which the run goes on. Or a
            ``SummaryWriter``, which stays the caller's to close; on a resume its folder is read,
            and what is there already is not written again.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, where: Any) -> None:
        super().__init__()
        try:
            import tensorboard  # noqa: F401 - whether it is there
        except ModuleNotFoundError as error:
            raise ImportError(
                "stagegraph.trackers.TensorBoard needs tensorboard, which is not installed; "
                "install it: pip install 'stagegraph[tensorboard]'"
            ) from error
        self._path = Path(where) if isinstance(where, str | os.PathLike) else None
        self._writer: Any = None if self._path is not None else where
        self._ledger = Ledger()

    def open(self, past: Past) -> None:
        """Make the writer, or read what the given one has written.

        Raises:
            RunFolderError: The run begins, and the folder has one already.
        """
        if self._path is not None:
            self.close()
            self._writer, kept = _reopen(self._path, past)
            self._ledger = Ledger(kept)
            return
        self._writer.flush()
        folder = Path(getattr(self._writer, "log_dir", None) or self._writer.logdir)
        events = _events(sorted(folder.glob("*tfevents*"))) if past.goes_on else ()
        self._ledger = Ledger(entry for event in events for entry in _entries(event))

    def mark(self, markers: Sequence[Marker]) -> None:
        """One text each; indented, so that it is shown as it is."""
        for marker in markers:
            text = "\n".join(f"    {line}" for line in marker.text.splitlines())
            if self._ledger.lacks(marker.tag, marker.boundary, text):
                self._writer.add_text(marker.tag, text, marker.boundary)
        self._writer.flush()

    def plot(self, figures: Figures, values: Mapping[str, float]) -> None:
        """One scalar each."""
        for name, value in values.items():
            if self._ledger.lacks(name, figures.boundary, _as_float32(value)):
                self._writer.add_scalar(name, value, figures.boundary)
        self._writer.flush()

    def close(self) -> None:
        """Close a writer of our own."""
        if self._path is not None and self._writer is not None:
            self._writer.close()
            self._writer = None


def _reopen(folder: Path, past: Past) -> tuple[Any, list[Entry]]:
    """A writer whose file has what counts of the earlier ones, and what that is.

    TensorBoard's readers do not agree on what a writer hides that goes back (``purge_step``): some
    keep the texts. So nothing is left to be hidden.
    """
    from torch.utils.tensorboard import SummaryWriter

    old = sorted(folder.glob(f"*tfevents*{_SUFFIX}"))
    if old and not past.goes_on:
        raise RunFolderError(
            f"{folder} holds a TensorBoard file of an earlier run ({old[0].name}), and this run "
            "begins; choose another folder, or take the file away"
        )
    events = [event for event in _events(old) if event.step < past.start]
    # A board that is open forgets what it has of the earlier files.
    writer: Any = SummaryWriter(str(folder), purge_step=0 if old else None, filename_suffix=_SUFFIX)
    kept: list[Entry] = []
    for event in events:
        entries = list(_entries(event))
        if entries and entries[0] not in kept:  # a crash may have left two files with the same
            kept += entries
            writer.file_writer.event_writer.add_event(event)
    writer.flush()
    for path in old:
        path.unlink()
    return writer, kept


def _events(paths: Sequence[Path]) -> Iterator[Any]:
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    for path in paths:
        yield from LegacyEventFileLoader(str(path)).Load()  # as they were written


def _entries(event: Any) -> Iterator[Entry]:
    """What an event shows of ours."""
    for value in event.summary.value:
        if not value.tag.startswith(PREFIX):
            continue
        if value.HasField("simple_value"):
            yield value.tag, event.step, float(value.simple_value)
        elif value.tensor.string_val:
            text = value.tensor.string_val[0].decode()
            yield value.tag.removesuffix(_TEXT), event.step, text


def _as_float32(value: float) -> float:
    """The number as an event file keeps it."""
    return float(struct.unpack("f", struct.pack("f", value))[0])
