"""Leaving: a run that was told to go goes at its next boundary, on all ranks at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stagegraph.engine.core import Core
from stagegraph.session.preemption import watch_signals
from stagegraph.session.together import Together

__all__ = ["Leaving"]


class Leaving:
    """Whether an engine was told to go.

    Args:
        core: The engine's core.
        together: The ranks that it runs on, or ``None``.
    """

    def __init__(self, core: Core, together: Together | None) -> None:
        self._core = core
        self._together = together
        self._told: str | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, SIGTERM and Ctrl-C are wishes to go at the next boundary."""
        if self._told is not None:
            yield
            return
        self._told = ""
        try:
            with watch_signals(self.be_told):
                yield
        finally:
            self._told = None

    def be_told(self, signal: str) -> None:
        """Go at the next boundary: at once known here, and at the next exchange to all ranks."""
        if self._together is not None:
            self._together.told = signal
            return
        self.go(signal)
        self._core.desk.nudge()

    def go(self, signal: str) -> None:
        """All ranks know that they are to go."""
        self._told = signal

    def take(self) -> str:
        """The signal by which to go, once; empty if nobody has said so."""
        reason, self._told = self._told or "", None if self._told is None else ""
        return reason
