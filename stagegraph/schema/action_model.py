"""What every action has."""

from __future__ import annotations

from typing import ClassVar

from stagegraph.schema.base import Model, Note

__all__ = [
    "ActionModel",
]


class ActionModel(Model):
    """What every action has."""

    structural: ClassVar[bool] = False
    """Whether it changes the shape of the model."""
    note: Note | None = None
    """A remark for people."""
