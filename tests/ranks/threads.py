"""Threads: ranks as threads of one process, for what needs no torch; they start at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

from stagegraph.engine.ranks import Parted

__all__ = ["ThreadGroup", "on_threads"]

SECONDS = 20
"""After so long a rank is taken to hang."""


class _Meeting:
    """Where threads exchange what they have; one that ends lets those who wait for it go."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._turn = threading.Condition()
        self._brought: dict[int, Any] = {}
        self._done: list[list[Any]] = []
        self._ended = False

    def exchange(self, rank: int, mine: Any) -> list[Any]:
        with self._turn:
            number = len(self._done)
            self._brought[rank] = mine
            if len(self._brought) == self.size:
                self._done.append([self._brought[one] for one in range(self.size)])
                self._brought = {}
                self._turn.notify_all()
            self._turn.wait_for(lambda: len(self._done) > number or self._ended, SECONDS)
            if len(self._done) <= number:
                raise Parted("a rank has ended" if self._ended else "a rank did not come")
            return self._done[number]

    def leave(self) -> None:
        with self._turn:
            self._ended = True
            self._turn.notify_all()


class ThreadGroup:
    """A group of threads, with the calls of a group of processes."""

    def __init__(self, meeting: _Meeting, rank: int) -> None:
        self._meeting = meeting
        self._rank = rank
        self.calls = 0

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def size(self) -> int:
        return self._meeting.size

    def _all(self, mine: Any) -> list[Any]:
        self.calls += 1
        return self._meeting.exchange(self._rank, mine)

    def gather(self, row: Sequence[float]) -> list[list[float]]:
        rows = self._all([float(one) for one in row])
        assert len({len(one) for one in rows}) == 1, "the ranks gather different things"
        return rows

    def gather_data(self, data: Any) -> list[Any]:
        return [json.loads(one) for one in self._all(json.dumps(data))]

    def gather_bytes(self, data: bytes) -> list[bytes]:
        return self._all(data)

    def share(self, data: Any) -> Any:
        return json.loads(self._all(json.dumps(data) if not self._rank else "")[0])


def on_threads(size: int, function: Callable[[ThreadGroup], Any]) -> list[Any]:
    """What a function returns on each rank; an error is returned too."""
    meeting, found = _Meeting(size), [None] * size

    def run(rank: int) -> None:
        try:
            found[rank] = function(ThreadGroup(meeting, rank))
        except Exception as error:  # noqa: BLE001 - the test is to see it
            found[rank] = error
        finally:
            meeting.leave()

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS + 10)
        assert not thread.is_alive(), "a rank hangs"
    return found
