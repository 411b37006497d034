"""Everything stagegraph can refuse, as one tree.

::

    StageGraphError
    ├── DocumentError        a document cannot be read: every defect, each with its place
    ├── GraphError           a graph was read but must not run: its findings
    ├── MissingFact          the graph reads a fact (params, samples, ...) that nobody gave
    ├── MetricError          a metric that is unknown, or is not a number
    ├── ProgressError        progress that goes backwards, or that is not progress
    ├── SelectorError        a selection of parameters or modules that matches nothing
    ├── UnsupportedError     asked for something that this version, model or host cannot do
    ├── ActionError          an action failed at a boundary; model and engine are as before
    ├── SnapshotError        a saved engine state cannot be taken up
    ├── CommandError         an event or a command from outside that cannot be taken
    ├── RankError            ranks that are not at one place, differ, or one of which has failed
    └── RunFolderError       a run's folder cannot be written or read
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stagegraph.graph.findings import Finding

__all__ = [
    "ActionError",
    "CommandError",
    "Defect",
    "DocumentError",
    "GraphError",
    "MetricError",
    "MissingFact",
    "ProgressError",
    "RankError",
    "RunFolderError",
    "SelectorError",
    "SnapshotError",
    "StageGraphError",
    "UnsupportedError",
    "another_version",
    "did_you_mean",
]


class StageGraphError(Exception):
    """The root of every error stagegraph raises on purpose."""


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing that is wrong with a document.

    Attributes:
        message: What was found, what is known, and the way out, in one sentence or two.
        pointer: JSON pointer (RFC 6901) to the offending value; ``""`` is the whole document.
        line: Line in the file, from 1; ``None`` where the document was not text.
        column: Column in the line, from 1; ``None`` as above.
    """

    message: str
    pointer: str = ""
    line: int | None = None
    column: int | None = None

    def describe(self, file: str) -> str:
        r"""The defect as one line, ``file:line:column: pointer: message``, harmless to terminals.

        >>> Defect("unknown key", "/a\x1b[2J").describe("x.yaml")
        'x.yaml: /a\\x1b[2J: unknown key'
        """
        place = file if self.line is None else f"{file}:{self.line}:{self.column}"
        pointer = f"{self.pointer}: " if self.pointer else ""
        return _harmless(f"{place}: {pointer}{self.message}")


def _harmless(text: str) -> str:
    """The text with what is not printed, but obeyed, written as an escape; line ends stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _escaped(ord(c)) for c in text)


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class DocumentError(StageGraphError):
    """A document cannot be read as a stage graph.

    Attributes:
        file: The name of the file, or ``"<text>"`` and ``"<dict>"`` for what was no file.
        defects: All that was found, in the order of the document.
    """

    def __init__(self, file: str, defects: Sequence[Defect]) -> None:
        self.file = file
        self.defects = tuple(defects)
        super().__init__("\n".join(defect.describe(file) for defect in self.defects))


class GraphError(StageGraphError):
    """A graph was read, but its findings say that it must not run.

    Attributes:
        findings: The findings of severity ``error``.
    """

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(str(finding) for finding in self.findings))


class MissingFact(StageGraphError):
    """The graph reads a fact that nobody gave; the message names the argument."""


class MetricError(StageGraphError):
    """A metric that the graph does not declare, or a value that is not a number."""


class ProgressError(StageGraphError):
    """Progress that goes backwards, or an amount that is not one."""


class SelectorError(StageGraphError):
    """A selection of parameters or modules that matches nothing."""


class UnsupportedError(StageGraphError):
    """Something that this version, this model or this host cannot do; said before it is tried."""


class ActionError(StageGraphError):
    """An action failed at a boundary.

    Model, optimizer and engine are as they were before the boundary.

    Attributes:
        action: Place of the action in the graph, such as ``main:grow.actions[1]``.
        reason: Why it failed.
    """

    def __init__(self, action: str, reason: str) -> None:
        self.action = action
        self.reason = reason
        super().__init__(f"{action}: {reason}")


class SnapshotError(StageGraphError):
    """A saved engine state cannot be taken up by this graph or this version."""


class CommandError(StageGraphError):
    """An event or a command from outside that this run does not know, or cannot take now."""


class RankError(StageGraphError):
    """Ranks that are not at the same place or do not hold the same, or one that has failed."""


class RunFolderError(StageGraphError):
    """A run's folder cannot be written, or does not hold what it should."""


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known name, or all of them.

    >>> did_you_mean("val_los", ["val_loss", "accuracy"])
    "; did you mean 'val_loss'?"
    >>> did_you_mean("x", ["b", "a"])
    '; known: a, b'
    >>> did_you_mean("x", [])
    '; none is declared'
    """
    names = tuple(sorted(set(known)))
    if not names:
        return "; none is declared"
    near = _nearest(found, names)
    if near is not None:
        return f"; did you mean {near!r}?"
    shown = ", ".join(names[:12])
    return f"; known: {shown}" + (", …" if len(names) > 12 else "")


@lru_cache(maxsize=256)  # the same mistake comes in many places of one document
def _nearest(found: str, names: tuple[str, ...]) -> str | None:
    return next(iter(difflib.get_close_matches(found, names, n=1, cutoff=0.6)), None)


def another_version(what: str, found: object, *, oldest: int = 1, newest: int) -> str:
    """What to say of something whose version is not read here, and what to do about it.

    >>> another_version("this", 3, newest=2)
    'this has version 3; this stagegraph reads 1 to 2: a newer one wrote it; update stagegraph'
    """
    reads = str(newest) if oldest == newest else f"{oldest} to {newest}"
    told = f"{what} has version {found!r}; this stagegraph reads {reads}"
    if type(found) is not int:
        return f"{told}: it is damaged, or no stagegraph wrote it; bring it back as it was"
    if found > newest:
        return f"{told}: a newer one wrote it; update stagegraph"
    return f"{told}: go on with the stagegraph that wrote it"
