"""Disks that fail, and what is kept on them."""

import errno
import os
import signal

from stagegraph.runs.disk import Disk
from stagegraph.runs.lines import Mark
from stagegraph.runs.store import CheckpointStore

CALLS = (
    "make_directory",
    "create",
    "write",
    "truncate",
    "sync",
    "close",
    "rename",
    "sync_directory",
    "remove",
    "remove_directory",
)
"""Every call by which a folder changes."""


class Death(BaseException):
    """The process is gone: nothing it would still do is done."""


class Quick(Disk):
    """A disk for what no power cut is going to hit."""

    def sync(self, file):
        pass

    def sync_directory(self, path):
        pass


QUICK = Quick()


class Watched(Quick):
    """A disk that says what it is asked for, before it does it.

    ``before(name, number)`` may raise, or return how many bytes of a write are to be taken.
    """

    def __init__(self, before):
        self.before = before
        self.number = 0
        self.calls = []


def _watched(name):
    plain = getattr(Quick, name)

    def call(self, *args):
        number, self.number = self.number, self.number + 1
        self.calls.append(name)
        try:
            taken = self.before(name, number)
        except BaseException as error:
            if name == "close":
                args[0].close()
            if name == "write" and not isinstance(error, Death):
                plain(self, args[0], memoryview(args[1])[: len(args[1]) // 2])
            raise
        if name == "write" and taken is not None:
            return plain(self, args[0], memoryview(args[1])[:taken])
        return plain(self, *args)

    return call


for _name in CALLS:
    setattr(Watched, _name, _watched(_name))


def counting():
    return Watched(lambda name, number: None)


def failing(at, code, times=1):
    def before(name, number):
        if at <= number < at + times:
            raise OSError(code, os.strerror(code))

    return Watched(before)


def interrupted(at):
    def before(name, number):
        if number == at:
            raise KeyboardInterrupt

    return Watched(before)


def dying(at):
    def before(name, number):
        if number >= at:
            raise Death

    return Watched(before)


def killed(at):
    """A disk at whose call the system ends the process."""

    def before(name, number):
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return Watched(before)


def read_only(code=errno.EROFS):
    def before(name, number):
        raise OSError(code, os.strerror(code))

    return Watched(before)


# What is kept


def contents(number):
    """The files of a checkpoint; each checkpoint's are its own."""
    return {
        "engine.json": b'{"number": %d}' % number,
        "model.safetensors": bytes((number * 7 + i) % 256 for i in range(3000)),
        "empty.json": b"",
    }


def writers(number):
    return {
        name: lambda out, content=content: out.write(content)
        for name, content in contents(number).items()
    }


def save(store, number, **values):
    given = {
        "step": number * 10,
        "boundary": number * 11,
        "why": "due",
        "metrics": {},
        "journal": Mark(number, number * 100, f"{number:08x}"),
        "about": {"number": number},
        **values,
    }
    return store.save(writers(number), **given)


def filled(path, count=2, **options):
    """A store with so many checkpoints."""
    store = CheckpointStore(path, **{"disk": QUICK, **options})
    for number in range(1, count + 1):
        save(store, number)
    return store


def is_whole(generation):
    """Whether a checkpoint has exactly what was written into it."""
    number = generation.about["number"]
    return (
        {name: generation.read(name) for name in generation.names} == contents(number)
        and generation.step == number * 10
        and generation.boundary == number * 11
        and generation.journal == Mark(number, number * 100, f"{number:08x}")
    )


def asides(path):
    return [entry.name for entry in path.iterdir() if entry.name.startswith(".")]
