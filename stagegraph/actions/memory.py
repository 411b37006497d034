"""Memory: how much something took at its height, above what was in use when it began."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["Height"]

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class _Gauge:
    """What is in use, and the most that ever was, in bytes."""

    used: int
    highest: int


class Height:
    """How far memory rises from now on.

    On CUDA it is the allocator's, on Linux else the resident set of the whole process; elsewhere it
    is not known. Both keep the highest point they ever saw. Nothing is reset, for that point is the
    user's too; so what rises, and stays below an earlier point, is known to be less than the room
    below it, and no more.

    Args:
        tensors: Tensors that say on which devices things happen, such as a model's parameters.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        devices = {tensor.device for tensor in tensors}
        self._devices = sorted((d for d in devices if d.type == "cuda"), key=str)
        self._before = self._read()

    def as_json(self) -> dict[str, Any]:
        """``peak_bytes``, ``None`` if it is not known, and in words how it was measured."""
        if not self._before:
            return {"peak_bytes": None, "how": "not measured on this system"}
        pairs = list(zip(self._before, self._read(), strict=True))
        if all(now.highest > before.highest for before, now in pairs):
            peak = sum(now.highest - before.used for before, now in pairs)
            return {"peak_bytes": peak, "how": self._how}
        room = sum(max(now.highest, before.highest) - before.used for before, now in pairs)
        return {
            "peak_bytes": None,
            "how": f"{self._how}: stayed under an earlier peak, {room} bytes above the start",
        }

    @property
    def _how(self) -> str:
        return "torch.cuda.max_memory_allocated" if self._devices else "resident set of the process"

    def _read(self) -> list[_Gauge]:
        if self._devices:
            return [
                _Gauge(torch.cuda.memory_allocated(d), torch.cuda.max_memory_allocated(d))
                for d in self._devices
            ]
        return _resident()


def _resident() -> list[_Gauge]:
    """The resident set of this process, as Linux tells it; ``ru_maxrss`` has its parent's in it."""
    try:
        text = _STATUS.read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    try:
        used, highest = (int(lines[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
    except (KeyError, ValueError, IndexError):
        return []
    return [_Gauge(used, highest)]
