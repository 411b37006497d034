"""Finding: one thing about a graph that a person should know before paying for the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Finding", "Severity"]

Severity = Literal["error", "warning", "note"]
"""``error``: must not run. ``warning``: probably not what was meant. ``note``: worth knowing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A defect of a graph.

    Attributes:
        code: The name of the rule, as ``waive:`` takes it, such as ``unreachable-stage``.
        severity: How bad it is.
        message: What is wrong, in a sentence that names the offender.
        remedy: What to do about it.
        pointer: JSON pointer into the document.
        file: The document's file.
        line: Line in the file, from 1, or ``None`` for a graph made in Python.
        waived: The author's reason for letting it pass, or ``None``.
    """

    code: str
    severity: Severity
    message: str
    remedy: str
    pointer: str = ""
    file: str = "<python>"
    line: int | None = None
    waived: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The finding as JSON data."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        pointer = f" {self.pointer}" if self.pointer else ""
        waived = f" (waived: {self.waived})" if self.waived else ""
        return (
            f"{place}:{pointer} {self.severity} [{self.code}] {self.message}{waived}\n"
            f"    {self.remedy}"
        )
