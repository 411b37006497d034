"""Refusal: an edit of a graph that cannot be, with its place, the reason and the way out."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from stagegraph.errors import SnapshotError

__all__ = ["Refusal", "refusal_error"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """One edit that cannot be.

    Attributes:
        place: Whose it is: a stage's key, an edge's id, a name.
        pointer: JSON pointer into the edited graph, or into the old one for what is gone.
        was: What it was.
        now: What it is, or ``None`` if it is gone.
        why: Why that cannot be.
        remedy: What to do instead.
    """

    place: str
    pointer: str
    was: str | None
    now: str | None
    why: str
    remedy: str

    def to_json(self) -> dict[str, Any]:
        """The refusal as JSON data."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def __str__(self) -> str:
        if self.now is None:
            what = f"was {self.was}, is gone"
        elif self.was is None:
            what = f"is new: {self.now}"
        else:
            what = f"was {self.was}, is {self.now}"
        where = f" ({self.pointer})" if self.pointer else ""
        return f"{self.place}{where} {what}: {self.why}; {self.remedy}"


def refusal_error(found: list[Refusal], name: str) -> SnapshotError:
    """All refusals as one error."""
    lines = "\n".join(f"  {refusal}" for refusal in found)
    return SnapshotError(
        f"the run cannot go on under the edited graph {name!r}; what has happened stays as it was, "
        f"and so does what is held now:\n{lines}\nelse resume under the graph that ran"
    )
