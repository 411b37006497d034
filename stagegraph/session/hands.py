"""Hands: a run can be reached from outside while it goes on, through its folder.

A thread looks into the inbox and lays what it finds on the engine's desk; it decides nothing and
never touches the model. It also writes ``status.json``, for whoever watches.
"""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stagegraph.engine.commands import Message
from stagegraph.engine.core import Core
from stagegraph.engine.ports import Record
from stagegraph.engine.taking import Verdict
from stagegraph.runs.inbox import Answer, Inbox
from stagegraph.runs.status import Place, write_status
from stagegraph.session.status import Rate, status_of

__all__ = ["Hands"]

LOOK, WRITE = 0.5, 1.0
"""Seconds between two looks into the inbox, and between two signs of life."""
PAUSED_LOOK = 0.2
NOTED = 8
"""Happenings that the status tells of."""

_TOLD = frozenset(
    {"move", "roll_back", "error", "blocked", "unblocked", "growth", "command", "end", "trial"}
)


class Hands:
    """The inbox and the sign of life of one engine.

    It is a listener, too: it notes what happens, to tell it in the status.

    Args:
        run: The run's folder.
        core: The engine's core. Only a weak reference is kept, so that an engine that nobody
            holds any more goes, and this with it.
        known: Ids of messages that the run's journal tells of.

    Attributes:
        trouble: What the thread could not do last, in words; the run goes on without it.
    """

    def __init__(self, run: Path, core: Core, *, known: Iterable[str] = ()) -> None:
        self.trouble: str | None = None
        self._run = run
        self._core = weakref.ref(core)
        self._inbox = Inbox(run, known)
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._owner = os.getpid()
        self._thread: threading.Thread | None = None
        self._place = Place.here()
        self._rate = Rate()
        self._noted: deque[Record] = deque(maxlen=NOTED)
        self._vitals: Record = {}
        self._written = -math.inf
        core.desk.answer = self.answer
        core.desk.idle = self.idle

    @property
    def alive(self) -> bool:
        """Whether somebody looks into the inbox; not in a process forked off from this one."""
        return self._here and self._thread is not None and self._thread.is_alive()

    @property
    def _here(self) -> bool:
        return os.getpid() == self._owner

    def know(self, ids: Iterable[str]) -> None:
        """These messages have been taken before; to be said before :meth:`start`."""
        self._inbox.know(ids)

    def start(self) -> None:
        """Begin to look; once."""
        if self._thread is None and not self._stop.is_set():
            core = self._core()
            if core is not None:
                self._once(core)
            self._thread = threading.Thread(target=self._go, name="stagegraph hands", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop looking and say how things stand; an ended run answers what is left.

        In a forked process nothing is done: the inbox is the parent's.
        """
        if self._stop.is_set() or not self._here:
            self._stop.set()
            return
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5)
        core = self._core()
        if core is not None and self._thread is not None:
            with self._turn:
                self._collect(core)
                self._sign(core, "done" if core.done else "closed")

    def stop(self) -> None:
        """Stop looking; the engine has gone."""
        self._stop.set()

    # Asked by the engine, in its own thread

    def answer(self, verdict: Verdict) -> None:
        """Answer a message, once the journal tells of it."""
        core = self._core()
        boundary = None if core is None else core.state.spent.step
        if self._here and verdict.message.id:
            with self._turn:
                message = verdict.message
                self._inbox.answer(Answer(message.id, verdict.status, verdict.text, boundary))

    def idle(self) -> None:
        """The run is paused: wait a little, and look, whether the thread lives or not."""
        time.sleep(PAUSED_LOOK)
        core = self._core()
        if core is not None and self._here:
            self._once(core)

    def write(self, records: tuple[Record, ...]) -> None:
        """Note what happens."""
        for record in records:
            if record["type"] in _TOLD:
                self._noted.append(record)
            elif record["type"] == "vitals":
                self._vitals = record

    # The thread

    def _go(self) -> None:
        while not self._stop.wait(LOOK):
            core = self._core()
            if core is None:
                return
            self._once(core)
            if core.done:
                return
            del core

    def _once(self, core: Core) -> None:
        try:
            with self._turn:
                if self._stop.is_set():
                    return
                self._collect(core)
                if core.done or time.monotonic() - self._written >= WRITE:
                    self._sign(core)
        except Exception as error:  # noqa: BLE001 - what goes wrong here must not end the hands
            self.trouble = f"{type(error).__name__}: {error}"

    def _collect(self, core: Core) -> None:
        """New messages go on the desk; after the end nothing is taken any more."""
        found = self._inbox.read()
        if not core.done:
            core.desk.arrived.extend(found)
            return
        waiting: list[Message] = []
        for mail in (core.mail, core.desk.arrived):
            while mail:
                waiting.append(mail.popleft())
        for message in (*waiting, *found):
            if message.id:
                text = f"the run has ended ({core.state.ended})"
                self._inbox.answer(Answer(message.id, "refused", text))

    def _sign(self, core: Core, state: str | None = None) -> None:
        """Write the status."""
        now = time.monotonic()
        rate = self._rate.of(core.state.spent.step + core.unabsorbed, now)
        data: dict[str, Any] = {
            **self._place.to_json(),
            **status_of(core, vitals=self._vitals, noted=tuple(self._noted)),
            "steps_per_second": rate,
            "written": time.time(),
            "trouble": self.trouble,
        }
        if state is not None:
            data["state"] = state
        write_status(self._run, data)
        self._written = now
