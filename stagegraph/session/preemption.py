"""Preemption: a run that is told to go finishes its step, saves, and says that it can go on."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["PREEMPTED", "Preempted", "watch_signals"]

PREEMPTED = 75
"""The exit status of a process that was told to go and whose run can be resumed (EX_TEMPFAIL)."""


class Preempted(SystemExit):
    """The run was told to go: its state is saved, and it can be resumed.

    Nobody needs to catch it: it ends the process with status 75.

    Attributes:
        reason: The signal.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(PREEMPTED)
        self.reason = reason

    def __str__(self) -> str:
        return f"told to go ({self.reason}); the run can be resumed"


@contextmanager
def watch_signals(tell: Callable[[str], None]) -> Iterator[None]:
    """Pass SIGTERM and Ctrl-C on, for a while; a second Ctrl-C interrupts at once.

    Only the main thread gets signals; elsewhere nothing is watched. A signal that the process
    ignores, as one in the background ignores Ctrl-C, stays ignored.

    Args:
        tell: Called with the signal's name, between any two instructions of the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {}

    def told(number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
            sys.stderr.write("\nfinishing the step; once more interrupts at once\n")
        tell(name)

    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, told)
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: set by somebody who is not Python, and cannot be set again from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
