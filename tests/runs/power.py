"""A model of power cuts: of what was not synced, any part may be on the disk, in any order.

A ``Recorder`` does everything on the real disk and notes it. ``crashes`` then tells what could be
found after a power cut in the midst of the notes: of each file, any of its unsynced writes, the
last perhaps in part; of each directory, any of its unsynced entries made, renamed or removed.
This is harsher than any file system is.
"""

import random
from dataclasses import dataclass, field

from stagegraph.runs.disk import Disk


class Recorder(Disk):
    """A disk that keeps a record of all calls."""

    def __init__(self, root):
        self.root = root
        self.notes = []
        self._paths = {}

    def _note(self, *note):
        self.notes.append(note)

    def _name(self, path):
        return path.relative_to(self.root).parts

    def note_what_is_there(self):
        """Begin with what is on the disk, none of it durable."""
        for path in sorted(self.root.rglob("*")):
            if path.is_dir():
                self._note("make_directory", self._name(path))
            else:
                self._note("create", self._name(path), len(self.notes))
                self._note("write", len(self.notes) - 1, 0, path.read_bytes())

    def make_directory(self, path):
        super().make_directory(path)
        self._note("make_directory", self._name(path))

    def create(self, path):
        file = super().create(path)
        self._paths[id(file)] = file, len(self.notes)
        self._note("create", self._name(path), len(self.notes))
        return file

    def write(self, file, data):
        at = file.tell()
        taken = super().write(file, data)
        self._note("write", self._paths[id(file)][1], at, bytes(data)[:taken])
        return taken

    def truncate(self, file, size):
        super().truncate(file, size)
        self._note("truncate", self._paths[id(file)][1], size)

    def sync(self, file):
        super().sync(file)
        self._note("sync", self._paths[id(file)][1])

    def rename(self, source, target):
        super().rename(source, target)
        self._note("rename", self._name(source), self._name(target))

    def sync_directory(self, path):
        super().sync_directory(path)
        self._note("sync_directory", self._name(path))

    def remove(self, path):
        super().remove(path)
        self._note("remove", self._name(path))

    def remove_directory(self, path):
        super().remove_directory(path)
        self._note("remove", self._name(path))

    def acknowledge(self, what):
        """From here on, this must never be lost."""
        self._note("acknowledge", what)


@dataclass
class File:
    durable: bytes = b""
    pending: list = field(default_factory=list)


@dataclass
class Directory:
    durable: dict = field(default_factory=dict)
    now: dict = field(default_factory=dict)
    pending: list = field(default_factory=list)

    def change(self, entry):
        _apply(self.now, entry)
        self.pending.append(entry)


def _apply(entries, entry):
    kind, *rest = entry
    if kind == "link":
        name, node = rest
        entries[name] = node
    elif kind == "move":
        source, target, node = rest
        entries.pop(source, None)
        entries[target] = node
    else:
        entries.pop(rest[0], None)


def _written(content, change):
    kind, at, *data = change
    if kind == "truncate":
        return content[:at].ljust(at, b"\0")
    content = content.ljust(at, b"\0")
    return content[:at] + data[0] + content[at + len(data[0]) :]


class Model:
    """The disk as a power cut would find it, after so many notes."""

    def __init__(self):
        self.root = Directory()
        self.files = {}
        self.acknowledged = []

    def _directory(self, parts):
        at = self.root
        for part in parts:
            at = at.now[part]
        return at

    def do(self, note):
        kind, *rest = note
        getattr(self, f"_{kind}")(*rest)

    def _make_directory(self, path):
        self._directory(path[:-1]).change(("link", path[-1], Directory()))

    def _create(self, path, number):
        self.files[number] = File()
        self._directory(path[:-1]).change(("link", path[-1], self.files[number]))

    def _write(self, number, at, data):
        self.files[number].pending.append(("write", at, data))

    def _truncate(self, number, size):
        self.files[number].pending.append(("truncate", size))

    def _sync(self, number):
        file = self.files[number]
        for change in file.pending:
            file.durable = _written(file.durable, change)
        file.pending.clear()

    def _rename(self, source, target):
        assert source[:-1] == target[:-1], "a rename from one directory to another is not modelled"
        directory = self._directory(source[:-1])
        node = directory.now[source[-1]]
        directory.change(("move", source[-1], target[-1], node))

    def _remove(self, path):
        self._directory(path[:-1]).change(("unlink", path[-1]))

    def _sync_directory(self, path):
        directory = self._directory(path)
        directory.durable = dict(directory.now)
        directory.pending.clear()

    def _acknowledge(self, what):
        self.acknowledged.append(what)

    def crash(self, draw):
        """What is found after a cut, as nested dicts of bytes."""
        return _found(self.root, draw)


def _found(node, draw):
    if isinstance(node, File):
        content = node.durable
        for change in node.pending:
            if change[0] == "write" and draw.random() < 0.3:
                content = _written(content, (*change[:2], _torn(change[2], draw)))
            elif draw.random() < draw.mood:
                content = _written(content, change)
        return content
    entries = dict(node.durable)
    for entry in node.pending:
        if draw.random() < draw.mood:
            _apply(entries, entry)
    return {name: _found(inner, draw) for name, inner in entries.items()}


def _torn(data, draw):
    part = data[: draw.randrange(len(data) + 1)]
    return part if draw.random() < 0.5 else part + bytes(len(data) - len(part))


def crashes(notes, count, seed=0):
    """So many states after a power cut, each with what had been acknowledged."""
    draw = random.Random(seed)
    each = -(-count // (len(notes) + 1))
    model = Model()
    for note in [None, *notes]:
        if note is not None:
            model.do(note)
        for turn in range(each):
            draw.mood = (0.0, 1.0, 0.5, 0.9, 0.1)[turn] if turn < 5 else draw.random()
            yield model.crash(draw), tuple(model.acknowledged)


def put(path, found):
    """Put what was found on a real disk."""
    path.mkdir()
    for name, inner in found.items():
        if isinstance(inner, dict):
            put(path / name, inner)
        else:
            (path / name).write_bytes(inner)
