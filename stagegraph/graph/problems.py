"""What compiling a graph leaves over: names that lead nowhere, and which names were used."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Problem", "Problems"]


@dataclass(frozen=True, slots=True)
class Problem:
    """A name that cannot be resolved.

    Attributes:
        code: The finding's code, such as ``unknown-target``.
        pointer: JSON pointer to where the name is written.
        message: What is wrong.
    """

    code: str
    pointer: str
    message: str


@dataclass(slots=True)
class Problems:
    """The problems in the order found, each once, and the names in use by kind."""

    found: dict[Problem, None] = field(default_factory=dict)
    used: dict[str, set[str]] = field(default_factory=dict)

    def add(self, code: str, pointer: str, message: str) -> None:
        """Note a problem."""
        self.found.setdefault(Problem(code, pointer, message))

    def use(self, kind: str, name: str) -> None:
        """Note that a declared name is used."""
        self.used.setdefault(kind, set()).add(name)
