"""Template: fields that say which stages are meant, and the stages that they mean.

A template is data, and what it expands to is data: the form of an entry of ``graphs:``, in which
nothing of the template is left. Names are looked up inside of it first, then around it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from stagegraph.schema.base import Model, Note
from stagegraph.schema.names import Reference

__all__ = ["RegionTemplate", "Template", "UseRegions", "UseTemplate", "diverged", "given"]


class Template(Model):
    """What every template has."""

    template: ClassVar[str]
    """What ``use`` calls it."""
    ends: ClassVar[bool] = True
    """Whether it comes to an end, and so leads on to a ``next``."""

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """What it means: the keys of an entry of ``graphs:``."""


class UseTemplate(Model):
    """A template's stages, put in under the name of the stage that uses it."""

    model_config = {"populate_by_name": True}

    with_: Template
    """What fills the template in."""
    next: Reference | None = None
    """Where its final stages lead."""
    note: Note | None = None
    """A remark for people."""


class RegionTemplate(Model):
    """What every template has that makes regions, the whole of a document's ``regions``."""

    template: ClassVar[str]
    """What ``use`` calls it."""

    @property
    @abstractmethod
    def overlap(self) -> int:
        """The document's ``max_overlap``, where it does not say."""

    @abstractmethod
    def regions(self) -> dict[str, Any]:
        """What it means: the entries of ``regions:``."""


class UseRegions(Model):
    """A template's regions, put in as the document's ``regions``."""

    model_config = {"populate_by_name": True}

    use: str
    """The template."""
    with_: RegionTemplate
    """What fills the template in."""
    note: Note | None = None
    """A remark for people."""


def given(**keys: Any) -> dict[str, Any]:
    """The keys that say something: those that are neither ``None`` nor empty.

    >>> given(kind="train", duration=None, during=())
    {'kind': 'train'}
    """
    return {key: value for key, value in keys.items() if value is not None and value != ()}


def diverged(metric: str, count: int) -> dict[str, Any]:
    """The guard ``nonfinite(metric) >= count``.

    A comparison with a value before is unknown where the metric is NaN or infinite, and its
    negation is too: whatever answers a bad growth asks for this beside it.

    >>> from stagegraph.schema.guard_text import format_guard
    >>> from stagegraph.schema.guards import Compare
    >>> format_guard(Compare.model_validate(diverged("val_loss", 1)))
    'nonfinite(val_loss) >= 1'
    """
    left = {"type": "nonfinite", "metric": metric}
    return {"type": "compare", "left": left, "op": ">=", "right": count}
