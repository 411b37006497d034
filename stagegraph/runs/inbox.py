"""Inbox: how messages from outside come into a run's folder, and answers go out of it.

One JSON file per message in ``inbox/``, one per answer in ``answers/``. Whoever writes, writes
aside and renames; whoever reads meets whole files only. There are no locks and no times of files,
so that it works on network file systems, from another host. A message stays until it has been
answered; its id is in the journal by then, so that it is never taken twice.
"""

from __future__ import annotations

import contextlib
import getpass
import heapq
import json
import os
import re
import socket
import stat
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from stagegraph.engine.commands import Message
from stagegraph.errors import RunFolderError

__all__ = ["Answer", "Inbox", "author_here", "post", "read_answer", "write_aside"]

INBOX, ANSWERS, REFUSED = "inbox", "answers", "refused"
VERSION = 1
MOST_BYTES = 64 * 1024
MOST_AT_ONCE = 64
MOST_ANSWERS = 256
"""Answers that stay, if nobody fetches them."""

_ID = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{32}")
_LONGEST = {"name": 128, "argument": 512, "author": 256, "sent": 64}


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a message.

    Attributes:
        id: The message's.
        status: What was done with it.
        text: What came of it, or why nothing did.
        boundary: At which boundary it was taken, if at any.
    """

    id: str
    status: Literal["taken", "ignored", "refused"]
    text: str
    boundary: int | None = None


def author_here() -> str:
    """Who writes: ``user@host``."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"[: _LONGEST["author"]]


def post(run: Path, message: Message) -> str:
    """Put a message into a run's inbox.

    Args:
        run: The run's folder.
        message: The message; its id is made here.

    Returns:
        Its id, by which the answer is found.

    Raises:
        RunFolderError: It cannot be written, or is too long.
    """
    now = datetime.now(UTC)
    own = f"{now:%Y%m%dT%H%M%S.%f}Z-{uuid.uuid4().hex}"
    data = {"version": VERSION, **message.to_json(), "id": own}
    data["sent"] = now.isoformat(timespec="seconds")
    reason = _wrong(data, own)
    if reason is not None:
        raise RunFolderError(f"this message cannot be sent: {reason}")
    inbox = run / INBOX
    try:
        inbox.mkdir(exist_ok=True)
        write_aside(inbox / f"{own}.json", data)
    except OSError as error:
        raise RunFolderError(f"{inbox} cannot be written: {error}") from error
    return own


def read_answer(run: Path, own: str) -> Answer | None:
    """The answer to a message, if it is there; whoever has read it, removes it."""
    path = run / ANSWERS / f"{own}.json"
    try:
        data = json.loads(_read(path))
        status = data["status"]
        if status not in ("taken", "ignored", "refused"):
            raise ValueError(f"no answer has the status {status!r}")
        answer = Answer(own, status, str(data["text"]), data.get("boundary"))
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None  # not there yet, or not all of it: the next look will tell
    with contextlib.suppress(OSError):
        path.unlink()
    return answer


def write_aside(path: Path, data: Mapping[str, Any], *, sync: bool = True) -> None:
    """Write JSON so that whoever reads sees the old file or the new one, and never half of it.

    Raises:
        OSError: It cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        with aside.open("xb") as file:
            file.write(text.encode(errors="backslashreplace"))
            if sync:
                file.flush()
                os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise


class Inbox:
    """A run's inbox, as the run sees it.

    Args:
        run: The run's folder.
        known: Ids of messages that the journal tells of: taken before.
    """

    def __init__(self, run: Path, known: Iterable[str] = ()) -> None:
        self._run = run
        self._inbox, self._answers = run / INBOX, run / ANSWERS
        self._known = set(known)
        self._out: set[str] = set()
        self._damaged: set[str] = set()
        self._left_alone: set[str] = set()
        self._unanswered: list[Answer] = []

    def know(self, ids: Iterable[str]) -> None:
        """These messages have been taken."""
        self._known.update(ids)

    def read(self) -> list[Message]:
        """New messages, oldest first; each is given out once, and a bounded number at a time.

        What is no message is moved to ``inbox/refused``, with the reason. Nothing in the folder
        makes this fail.
        """
        self._retry()
        found: list[Message] = []
        for name in heapq.nsmallest(MOST_AT_ONCE, self._names()):
            message = self._message(name)
            if message is not None:
                self._out.add(message.id)
                found.append(message)
        return found

    def answer(self, answer: Answer) -> None:
        """Answer a message and remove it; what cannot be written now is tried again."""
        self._known.add(answer.id)
        self._unanswered.append(answer)
        self._retry()

    def _retry(self) -> None:
        waiting, self._unanswered = self._unanswered, []
        for answer in waiting:
            try:
                self._write_answer(answer)
            except OSError:
                self._unanswered.append(answer)

    def _write_answer(self, answer: Answer) -> None:
        self._answers.mkdir(exist_ok=True)
        data = {
            "version": VERSION,
            "id": answer.id,
            "status": answer.status,
            "text": answer.text,
            "boundary": answer.boundary,
            "answered": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_aside(self._answers / f"{answer.id}.json", data)
        (self._inbox / f"{answer.id}.json").unlink(missing_ok=True)
        self._out.discard(answer.id)
        self._sweep()

    def _sweep(self) -> None:
        """Nobody has fetched the oldest answers."""
        names = sorted(path.name for path in self._answers.iterdir() if _ID.match(path.name))
        for name in names[:-MOST_ANSWERS]:
            (self._answers / name).unlink(missing_ok=True)

    def _names(self) -> Iterator[str]:
        try:
            with os.scandir(self._inbox) as entries:
                for entry in entries:
                    name = entry.name
                    hidden = name.startswith(".") or name == REFUSED
                    if hidden or name in self._left_alone or name[:-5] in self._out:
                        continue
                    yield name
        except OSError:
            return  # no inbox yet, or a network file system that is away for a moment

    def _message(self, name: str) -> Message | None:
        own = name.removesuffix(".json")
        if not name.endswith(".json") or not _ID.fullmatch(own):
            self._refuse(name, "its name is not that of a message")
            return None
        if own in self._known:
            if own not in self._out:
                self._out.add(own)
                text = "it was taken before the run was interrupted; the journal tells of it"
                self.answer(Answer(own, "taken", text))
            return None
        try:
            content = _read(self._inbox / name)
        except ValueError as error:
            self._refuse(name, str(error))
            return None
        except OSError:
            return None  # gone, or away for a moment
        try:
            data = json.loads(content)
            reason = _wrong(data, own)
        except (ValueError, RecursionError) as error:
            reason = f"it is damaged: {error}"
        if reason is None:
            keys = ("id", "kind", "name", "argument", "author")
            return Message(**{key: data[key] for key in keys})
        if name not in self._damaged:
            self._damaged.add(name)  # a network file system may show it whole at the next look
            return None
        self._damaged.discard(name)
        self._refuse(name, reason)
        return None

    def _refuse(self, name: str, reason: str) -> None:
        """Move what is no message out of the way, and say why."""
        refused = self._inbox / REFUSED
        try:
            refused.mkdir(exist_ok=True)
            (self._inbox / name).rename(refused / name)
            write_aside(refused / f"{name}.reason", {"reason": reason})
        except OSError:
            self._left_alone.add(name)
        own = name.removesuffix(".json")
        if _ID.fullmatch(own):
            self.answer(Answer(own, "refused", reason))


def _read(path: Path) -> bytes:
    """A small, plain file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no plain file, or too large.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    if path.is_symlink():
        raise ValueError("it is a link")
    descriptor = os.open(path, flags)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is no plain file")
        if about.st_size > MOST_BYTES:
            raise ValueError(f"it is longer than {MOST_BYTES:,} bytes")
        return os.read(descriptor, MOST_BYTES)
    finally:
        os.close(descriptor)


def _wrong(data: Any, own: str) -> str | None:
    """Why something is no message; ``None`` if it is one."""
    if not isinstance(data, dict):
        return "it is no mapping"
    version = data.get("version")
    if version != VERSION:
        newer = type(version) is int and version > VERSION
        return f"its version is {str(version)[:20]}" + (", of a newer stagegraph" if newer else "")
    if data.get("id") != own:
        return "its id is not that of its name"
    if data.get("kind") not in ("event", "command"):
        return f"its kind is neither event nor command: {str(data.get('kind'))[:40]!r}"
    for key, longest in _LONGEST.items():
        value = data.get(key)
        if not isinstance(value, str):
            return f"{key!r} is no text"
        if len(value) > longest:
            return f"{key!r} is longer than {longest} characters"
    return None
