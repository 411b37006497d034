"""Counting what an update makes Python do: the same on a calm machine and on a busy one."""

from __future__ import annotations

import statistics
import sys
from types import FrameType
from typing import Any

from benchmarks.trainers.turns import Loop, Turn

FIRST, UPDATES = 110, 30
"""The update with which counting begins, between two evaluations; and how many are counted."""


class Work(Turn):
    """Counts the bytecodes and the calls of Python functions from batch to batch."""

    def __init__(self) -> None:
        super().__init__(0, 1)
        self.per_update: list[tuple[int, int]] = []
        self._batches = self._codes = self._calls = 0

    def fetched(self) -> None:
        """A batch is fetched: an update is over."""
        self._batches += 1
        if self._batches == FIRST:
            self._begin()
        elif FIRST < self._batches <= FIRST + UPDATES:
            self.per_update.append((self._codes, self._calls))
        if self._batches == FIRST + UPDATES:
            sys.settrace(None)
        self._codes = self._calls = 0

    def _begin(self) -> None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:  # those that run already are not traced of themselves
            frame.f_trace, frame.f_trace_opcodes = self._in_frame, True
            frame = frame.f_back
        sys.settrace(self._called)

    def _called(self, frame: FrameType, event: str, arg: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self._calls += 1
        return self._in_frame

    def _in_frame(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode":
            self._codes += 1
        return self._in_frame


def count(loop: Loop) -> tuple[float, float]:
    """Bytecodes and calls of one update, medians."""
    work = Work()
    loop(work)
    codes, calls = zip(*work.per_update, strict=True)
    return statistics.median(codes), statistics.median(calls)
