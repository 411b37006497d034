"""Replay: what came from outside since a checkpoint, out of the journal, to come again.

A run that goes on from a checkpoint makes the updates after it anew. For it to decide as it did,
commands, events and the readings of the wall clock must be what they were.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stagegraph.engine.commands import Message
from stagegraph.engine.ports import Record

__all__ = ["Coming", "Outside", "Reading", "known_ids", "outside"]

Reading = tuple[int, int, float]
"""A boundary, 0 or 1 for before or after it was decided, and the clock's seconds then."""

_DECIDING = frozenset({"move", "blocked", "unblocked", "growth", "roll_back", "error", "reading"})
"""Records that are written when a boundary is decided, with the clock that it was decided by."""

_ONCE = frozenset({"checkpoint"})
"""Commands that decide nothing, and need not be carried out again."""


@dataclass(frozen=True, slots=True)
class Outside:
    """What came from outside.

    Attributes:
        mail: Per boundary, the messages that it was decided with, in their order.
        readings: Of the wall clock, in the order of the boundaries.
    """

    mail: Mapping[int, tuple[Message, ...]] = field(default_factory=dict)
    readings: tuple[Reading, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What is still to come, as JSON data."""
        return {
            "mail": [
                [number, [m.to_json() for m in messages]] for number, messages in self.mail.items()
            ],
            "readings": [list(reading) for reading in self.readings],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Outside:
        """The inverse of :meth:`to_json`."""
        return cls(
            {
                int(number): tuple(Message(**m, replayed=True) for m in messages)
                for number, messages in data["mail"]
            },
            tuple((int(at), int(late), float(s)) for at, late, s in data["readings"]),
        )

    def __add__(self, other: Outside) -> Outside:
        """Both; what is in both comes once."""
        mail = {number: list(messages) for number, messages in self.mail.items()}
        known = {m.id for messages in mail.values() for m in messages if m.id}
        for number, messages in other.mail.items():
            own = Counter(m.name for m in mail.get(number, ()) if not m.id)
            for message in messages:
                if message.id in known or (not message.id and own[message.name] > 0):
                    own[message.name] -= not message.id
                    continue
                mail.setdefault(number, []).append(message)
        readings = {reading[:2]: reading for reading in (*self.readings, *other.readings)}
        return Outside(
            {number: tuple(mail[number]) for number in sorted(mail)},
            tuple(readings[key] for key in sorted(readings)),
        )

    def without_pauses(self) -> Outside:
        """The same without pauses that were over before the next update: nothing hangs on them."""
        return Outside(
            {number: _unpaused(messages) for number, messages in self.mail.items()}, self.readings
        )


def _unpaused(messages: Sequence[Message]) -> tuple[Message, ...]:
    kept: list[Message] = []
    pauses: list[Message] = []
    for message in messages:
        if message.name == "pause" and message.kind == "command":
            pauses.append(message)
        elif pauses and message.name in ("continue", "stop") and not message.argument.strip():
            kept = [earlier for earlier in kept if earlier not in pauses]
            pauses = []
            if message.name == "continue":
                continue
        kept.append(message)
    return tuple(kept)


def outside(records: Iterable[Record]) -> Outside:
    """What came from outside, by the journal's records.

    Args:
        records: All lines after a checkpoint's mark, in the order of the file. Lines that a
            ``resume`` record took back are among them: what came from outside then, came. Where
            two stretches tell of the same boundary, the later one's clock counts.
    """
    found = Outside()
    for stretch in _stretches(records):
        found = found + _of_one(stretch)
    return found


def _stretches(records: Iterable[Record]) -> list[list[Record]]:
    """The records of each life of the run."""
    stretches: list[list[Record]] = [[]]
    for record in records:
        if record.get("type") == "resume":
            stretches.append([])
        else:
            stretches[-1].append(record)
    return stretches


def _of_one(records: Sequence[Record]) -> Outside:
    mail: dict[int, list[Message]] = {}
    readings: dict[tuple[int, int], float] = {}
    first = _first_decided(records)
    for record in records:
        boundary = record.get("boundary")
        if type(boundary) is not int:
            continue
        message = _message(record)
        if message is not None:
            at = record.get("seen_at", boundary + 1) if message.kind == "event" else boundary
            at = first.get(message.id, at)
            mail.setdefault(int(at), []).append(message)
        seconds = dict(record.get("progress") or {}).get("seconds")
        late = _late(record)
        if late is not None and isinstance(seconds, int | float) and math.isfinite(seconds):
            readings[boundary, late] = float(seconds)
    return Outside(
        {number: tuple(messages) for number, messages in sorted(mail.items())},
        tuple((*key, readings[key]) for key in sorted(readings)),
    )


def _first_decided(records: Sequence[Record]) -> dict[str, int]:
    """Mail that a boundary was decided with that failed, and which that was, by its id.

    It waited, and was told of only where it held; but it had a part in what failed.
    """
    first: dict[str, int] = {}
    for record in records:
        mail, boundary = record.get("mail"), record.get("boundary")
        if record.get("type") == "error" and isinstance(mail, list) and type(boundary) is int:
            for id_ in mail:
                first.setdefault(str(id_), boundary)
    return first


def _message(record: Record) -> Message | None:
    match record.get("type"):
        case "event" if record.get("status") == "sent":
            kind, argument = "event", ""
        case "command" if record.get("status") == "taken" and record.get("name") not in _ONCE:
            kind, argument = "command", str(record.get("argument", ""))
        case _:
            return None
    return Message(
        str(record.get("id", "")),
        "event" if kind == "event" else "command",
        str(record.get("name", "")),
        argument,
        str(record.get("author", "")),
        replayed=True,
    )


def _late(record: Record) -> int | None:
    """0 if the record was written when its boundary was decided, 1 if after, else ``None``."""
    if record.get("type") in _DECIDING:
        return 0
    if record.get("type") == "metric":
        return 1 if record.get("late") else 0
    return None


def known_ids(records: Iterable[Record]) -> frozenset[str]:
    """The ids of all messages that a journal tells of: they have been taken.

    Args:
        records: All lines of the journal, those that a ``resume`` record took back included.
    """
    return frozenset(
        str(record["id"])
        for record in records
        if record.get("type") in ("event", "command") and record.get("id")
    )


class Coming:
    """The mail of a replay that is still to come."""

    def __init__(self) -> None:
        self._mail: dict[int, list[Message]] = {}

    def expect(self, mail: Mapping[int, Sequence[Message]]) -> None:
        """So much mail is to come, and no other."""
        self._mail = {number: list(messages) for number, messages in mail.items() if messages}

    def left(self) -> dict[int, tuple[Message, ...]]:
        """What is still to come."""
        return {number: tuple(self._mail[number]) for number in sorted(self._mail)}

    @property
    def next(self) -> float:
        """The boundary at which something comes next; infinity if nothing does."""
        return min(self._mail, default=math.inf)

    def take(self, boundary: int) -> list[Message]:
        """What comes at a boundary, or should have come before it."""
        due = sorted(number for number in self._mail if number <= boundary)
        return [message for number in due for message in self._mail.pop(number)]

    def put_back(self, boundary: int, messages: Sequence[Message]) -> None:
        """The boundary was undone; it is decided with the same mail again."""
        if messages:
            self._mail[boundary] = [*messages, *self._mail.get(boundary, ())]

    def sent_again(self, event: str, boundary: int) -> None:
        """The program itself sends an event that would have come out of the journal."""
        messages = self._mail.get(boundary, [])
        for index, message in enumerate(messages):
            if message.kind == "event" and not message.id and message.name == event:
                del messages[index]
                break
        if not messages:
            self._mail.pop(boundary, None)
