"""Counting what Python does: the same on a calm machine and on a busy one."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

__all__ = ["Counter", "Work", "work_of"]


class Work(NamedTuple):
    """What was run: bytecodes, and calls of Python functions."""

    codes: int
    calls: int


class Counter:
    """Counts in this thread, from :meth:`begin` to :meth:`end`.

    Attributes:
        codes: Bytecodes so far; may be written, to count from there.
        calls: Calls of Python functions so far; likewise.
    """

    def __init__(self) -> None:
        self.codes = self.calls = 0
        self._outer: Any = None

    def begin(self, *, running: FrameType | None = None) -> None:
        """Begin.

        Args:
            running: A frame that runs already, which is counted too, with all that called it.
        """
        self._outer = sys.gettrace()
        while running is not None:  # those are not traced of themselves
            running.f_trace, running.f_trace_opcodes = self._in_frame, True
            running = running.f_back
        self.codes = self.calls = 0
        sys.settrace(self._called)

    def end(self) -> None:
        """End, and let whoever traced before go on."""
        sys.settrace(self._outer)

    def _called(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.calls += 1
        return self._in_frame

    def _in_frame(self, _frame: FrameType, event: str, _arg: Any) -> Any:
        if event == "opcode":
            self.codes += 1
        return self._in_frame


def work_of(call: Callable[[], object]) -> Work:
    """What one call runs; no garbage is collected meanwhile, whose finalizers would count."""
    counter, collects = Counter(), gc.isenabled()
    gc.disable()
    counter.begin()
    try:
        call()
    finally:
        counter.end()
        if collects:
            gc.enable()
    return Work(counter.codes, counter.calls)
