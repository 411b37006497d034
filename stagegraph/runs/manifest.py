"""The manifest: what a checkpoint is made of, and of which moment it is."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stagegraph.runs.durable import Written
from stagegraph.runs.lines import Mark
from stagegraph.runs.sealed import Unsealed, seal, unseal

__all__ = ["DEVICES", "FORMAT", "MANIFEST", "Manifest", "NewerFormat", "refuse_names"]

FORMAT = 1
MANIFEST = "manifest.json"

MAX_BYTES = 64 << 20
"""A manifest that is larger is none."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}(?:\.[A-Za-z0-9][A-Za-z0-9_-]{0,15}){0,3}")
DEVICES = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)[0-9])", re.IGNORECASE)
"""Names that some systems take for devices, whatever follows a dot."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


class NewerFormat(Exception):
    """A manifest of a format that this version does not know; the argument is the format."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint says of itself.

    Attributes:
        number: Its number; each checkpoint has the next.
        parent: The one it came after: the last that was saved, or resumed from.
        run: The run it belongs to.
        step: The clock of the present branch.
        boundary: Updates ever made.
        why: What it was made for.
        metrics: The metrics known then; one that was not finite is not a number.
        journal: Where the journal was.
        about: What its writer wanted to keep, as JSON data.
        files: Its files.
    """

    number: int
    parent: int | None
    run: str
    step: int
    boundary: int
    why: str
    metrics: Mapping[str, float]
    journal: Mark
    about: Mapping[str, Any]
    files: Mapping[str, Written] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """As a file.

        Raises:
            TypeError: ``about`` is no JSON data.
            ValueError: A number in ``about`` is not finite.
        """
        return seal(
            {
                "format": FORMAT,
                "generation": self.number,
                "parent": self.parent,
                "run": self.run,
                "step": self.step,
                "boundary": self.boundary,
                "why": self.why,
                "metrics": {
                    name: float(value) if math.isfinite(value) else None
                    for name, value in self.metrics.items()
                },
                "journal": {
                    "records": self.journal.records,
                    "bytes": self.journal.bytes,
                    "sum": self.journal.sum,
                },
                "about": dict(self.about),
                "files": {
                    name: {"size": written.size, "sha256": written.sha256}
                    for name, written in self.files.items()
                },
            }
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> Manifest:
        """The inverse of :meth:`to_bytes`.

        Raises:
            Unsealed: It is not as it was written.
            NewerFormat: A newer version wrote it.
        """
        data = unseal(content)
        known = data.get("format")
        if type(known) is int and known > FORMAT:
            raise NewerFormat(known)
        try:
            return cls._of(data)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise Unsealed(f"it does not say what a manifest says: {error!r}") from error

    @classmethod
    def _of(cls, data: Mapping[str, Any]) -> Manifest:
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']!r}")
        files = {
            name: Written(_count(entry["size"]), _digest(entry["sha256"]))
            for name, entry in data["files"].items()
        }
        refuse_names(files)
        mark = data["journal"]
        return cls(
            number=_count(data["generation"]),
            parent=None if data["parent"] is None else _count(data["parent"]),
            run=_text(data["run"]),
            step=_count(data["step"]),
            boundary=_count(data["boundary"]),
            why=_text(data["why"]),
            metrics={
                _text(name): math.nan if value is None else float(value)
                for name, value in data["metrics"].items()
            },
            journal=Mark(_count(mark["records"]), _count(mark["bytes"]), _text(mark["sum"])),
            about=dict(data["about"]),
            files=files,
        )


def refuse_names(names: Iterable[str]) -> None:
    """See that files of a checkpoint can have these names on every system.

    Raises:
        ValueError: One cannot, or two are one to a file system that does not tell cases apart.
    """
    seen = {MANIFEST}
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} can be no file's name in a checkpoint; use letters, digits, '_' and "
                "'-', up to 64, and an ending such as '.json'"
            )
        if DEVICES.fullmatch(name.partition(".")[0]):
            raise ValueError(f"{name!r} is a device's name on some systems; choose another")
        if name.lower() in seen:
            raise ValueError(f"{name!r} is taken in this checkpoint; choose another name")
        seen.add(name.lower())


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _digest(value: object) -> str:
    text = _text(value)
    if not _DIGEST.fullmatch(text):
        raise ValueError(f"{value!r} is no digest")
    return text
