"""Status: a run's sign of life, written over about once a second, for whoever watches."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stagegraph.runs.inbox import write_aside

__all__ = ["STALE", "Place", "Presence", "presence", "read_status", "write_status"]

STATUS = "status.json"
VERSION = 1
MOST_BYTES = 1024 * 1024
STALE = 40.0
"""Seconds without a sign of life after which nobody is believed to run a folder."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run goes on."""

    host: str
    pid: int

    @classmethod
    def here(cls) -> Place:
        """This process."""
        return cls(socket.gethostname(), os.getpid())

    def to_json(self) -> dict[str, Any]:
        """The place as JSON data."""
        return {"version": VERSION, "host": self.host, "pid": self.pid}


@dataclass(frozen=True, slots=True)
class Presence:
    """Whether somebody runs a folder.

    Attributes:
        running: Whether a process is believed to.
        ended: Why the run has ended for good, or ``None``.
        silent: Seconds since the last sign of life; ``None`` if there never was one.
        words: All this in a few words.
    """

    running: bool
    ended: str | None
    silent: float | None
    words: str


def write_status(run: Path, data: Mapping[str, Any]) -> None:
    """Write a run's status; it need not survive the power.

    Raises:
        OSError: It cannot be written.
    """
    write_aside(run / STATUS, finite(data), sync=False)


def read_status(run: Path) -> dict[str, Any] | None:
    """A run's last status; ``None`` if there is none that can be read."""
    path = run / STATUS
    try:
        if path.stat().st_size > MOST_BYTES:
            return None
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def presence(status: Mapping[str, Any] | None, *, now: float | None = None) -> Presence:
    """Whether somebody runs a folder, by its status.

    Args:
        status: What :func:`read_status` gave.
        now: The time of day, in seconds.
    """
    if status is None:
        return Presence(False, None, None, "no process has run it since it was made or moved")
    written = status.get("written")
    silent = math.inf
    if isinstance(written, int | float) and math.isfinite(written):
        silent = max(0.0, (time.time() if now is None else now) - written)
    state = status.get("state")
    if state == "done":
        reason = str(status.get("ended"))
        return Presence(False, reason, silent, f"the run has ended ({reason})")
    if state == "closed":
        return Presence(False, None, silent, "its process has left it")
    if silent > STALE:
        return Presence(False, None, silent, f"no sign of life for {silent:,.0f} s")
    if not _lives(status):
        return Presence(False, None, silent, "its process is gone")
    return Presence(True, None, silent, "it runs" if state != "paused" else "it is paused")


def _lives(status: Mapping[str, Any]) -> bool:
    """Whether the process is there; of another host nobody knows, so it is believed."""
    pid = status.get("pid")
    if status.get("host") != socket.gethostname() or type(pid) is not int or pid <= 0:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def finite(value: Any) -> Any:
    """The same data with text for every number that JSON does not know."""
    match value:
        case Mapping():
            return {str(key): finite(inner) for key, inner in value.items()}
        case list() | tuple():
            return [finite(inner) for inner in value]
        case float() if not math.isfinite(value):
            return str(value)
        case None | bool() | int() | float() | str():
            return value
    return str(value)
