"""An operation: one growth on its way from a plan to a changed model.

A growth passes through three objects. A :class:`Planned` says what would happen, at what cost, and
has touched nothing; what cannot be had is refused before there is one. A :class:`Prepared` has all
new tensors, and has touched nothing but them. Committing it changes the model and returns a
:class:`Committed`, which says what is new, to be measured. Whoever commits undoes everything by
reference if something fails later.

An operation is the file of that name beside this one; :mod:`~.operations` lists them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from stagegraph.actions.changes import Change
from stagegraph.actions.lineage import Lineage
from stagegraph.actions.probes import Probe
from stagegraph.schema.spaces import Spaces

__all__ = ["Committed", "Planned", "Prepared", "Site"]


def _requires_grad(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad


@dataclass(frozen=True, slots=True)
class Site:
    """A model that is to grow, and what an operation must know of it.

    Attributes:
        model: The model.
        optimizers: Its optimizers.
        lineage: What it has been through.
        probe: The batch on which growth is measured and proven.
        spaces: The spaces that the graph declares.
        parts: What the user gave by name: builders, weights to inherit.
        trains: Whether a parameter would be trained if no activity froze it.
        alpha: What the gates of new modules will be set to at this growth; at 0 nothing new can
            change the function, whatever it is.
    """

    model: nn.Module
    optimizers: Sequence[Optimizer] = ()
    lineage: Lineage = field(default_factory=Lineage)
    probe: Probe | None = None
    spaces: Spaces = field(default_factory=Spaces)
    parts: Mapping[str, Any] = field(default_factory=dict)
    trains: Callable[[nn.Parameter], bool] = _requires_grad
    alpha: float = 1.0


@dataclass(frozen=True, slots=True)
class Committed:
    """What a growth brought into the model.

    Attributes:
        templates: New parameters, each to the one it was made from, whose optimizer group it joins.
        marks: Parameters that became larger, each with booleans that broadcast to its shape: where
            its new entries are.
        exact: Whether the growth was to keep the model's function.
        remedy: What an author can do where it did not, for the message.
        evidence: What was done, as JSON data for the certificate.
        narrowed: Makes the grown model's output comparable with the old one, such as the old
            entries of a vocabulary that grew.
        learns: Whether what is new must get a gradient: not where only contents are other ones.
    """

    templates: Mapping[nn.Parameter, nn.Parameter]
    marks: Mapping[nn.Parameter, Tensor]
    exact: bool
    remedy: str
    evidence: Mapping[str, Any]
    narrowed: Callable[[Tensor], Tensor] | None = None
    learns: bool = True


class Planned(ABC):
    """What a growth will do to one model; nothing has been touched."""

    @property
    @abstractmethod
    def cost(self) -> int:
        """How many parameters it adds."""

    @abstractmethod
    def change(self, lineage: Lineage, *, cohort: str, step: int) -> Change:
        """What it does to the structure, as data."""

    def notes(self, site: Site) -> tuple[str, ...]:
        """What an author should know before the run, though it does not keep anything from it.

        Args:
            site: The model; it is left alone.
        """
        return ()

    @abstractmethod
    def prepare(self, site: Site, *, seed: int) -> Prepared:
        """Make everything new, beside the model.

        Args:
            site: The model; it is left alone.
            seed: For whatever is random about it.

        Raises:
            UnsupportedError: It cannot be had, such as a block that does not become the identity.
        """


class Prepared(ABC):
    """A growth whose new tensors are there, and not yet in the model."""

    @abstractmethod
    def commit(self, site: Site, change: Change) -> Committed:
        """Put them into the model and its optimizers."""

    @abstractmethod
    def follow(self, averaged: nn.Module, site: Site, change: Change) -> None:
        """Grow an averaged copy of the model too; what is new begins with the model's own value.

        Args:
            averaged: The copy.
            site: The grown model; its lineage does not have the change yet.
            change: The change.
        """
