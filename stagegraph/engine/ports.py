"""What the engine's core asks of others.

The core decides on numbers alone. Whoever holds a model fills :class:`Actor`; whoever keeps the
record fills :class:`Sink`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from stagegraph.engine.attributions import Attribution
from stagegraph.schema.actions import Action
from stagegraph.schema.activities import Activity

__all__ = [
    "Actor",
    "Boundary",
    "Deed",
    "Effect",
    "Facts",
    "Outcome",
    "Reader",
    "Record",
    "Restore",
    "Selected",
    "Sink",
]

Record = Mapping[str, Any]
"""One line of the journal: JSON data with ``type`` and ``step``."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the model.

    Attributes:
        params: How many parameters it has; ``None`` if nobody knows.
        costs: Per stage that grows (``"region:stage"``), how many parameters entering it would add;
            per option of it, if it has some (``"region:stage.option"``).
        flops: Floating-point operations of training on a batch, and how many samples it holds;
            ``None`` if nobody counts them.
    """

    params: int | None = None
    costs: Mapping[str, int] = field(default_factory=dict)
    flops: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Selected:
    """A selection with its cohorts resolved.

    Attributes:
        everything: All parameters.
        globs: Shell patterns over module and parameter names.
        cohorts: Names of growths.
        groups: Shell patterns over the names of the optimizers' groups.
        modules: Stable ids of single modules that growths added.
    """

    everything: bool = False
    globs: tuple[str, ...] = ()
    cohorts: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything is named."""
        return bool(self.everything or self.globs or self.cohorts or self.groups or self.modules)


@dataclass(frozen=True, slots=True)
class Effect:
    """One activity in force.

    Attributes:
        place: Where it is written: ``"main:warmup.during[0]"``, or ``"main:low_frozen"`` if named.
        activity: The activity.
        of: What it is applied to.
        value: Alpha or LR factor for the next update; ``None`` where there is no number.
        levels: The activity's other numbers for the next update, by key.
        teachers: Per teacher that it names, the id of the one that is meant now.
        but: What is taken out of it.
    """

    place: str
    activity: Activity
    of: Selected
    value: float | None
    levels: Mapping[str, float] = field(default_factory=dict)
    teachers: Mapping[str, str] = field(default_factory=dict)
    but: Selected = field(default_factory=Selected)


@dataclass(frozen=True, slots=True)
class Deed:
    """One action to carry out.

    Attributes:
        place: Where it is written: ``"main:grow.actions[1]"``.
        action: The action.
        cohort: For a growth: what to call the parameters it adds.
        snapshot: For a snapshot: its id, unique in the run.
        seed: A seed of its own, the same on all ranks and at each replay.
        teacher: For a teacher: its id, unique in the run.
        of: For an attribution or a prune: what it is about.
        moment: For a save: where training stands, as JSON data: ``step``, ``boundary``,
            ``progress``, ``stages`` and ``metrics``.
        leaving: For a save: whether it stands on the way out, and so keeps what is there before
            anything is returned to.
    """

    place: str
    action: Action
    cohort: str | None
    snapshot: str | None
    seed: int
    teacher: str | None = None
    of: Selected | None = None
    moment: Mapping[str, Any] | None = None
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Restore:
    """A return to a snapshot, carried out before anything else.

    Attributes:
        place: Where the ``roll_back`` is written.
        snapshot: The id of the snapshot.
        rewind_data: Whether the data's position returns too.
        lr_factor: A factor on every learning rate from now on, or ``None``.
        fork: The attempt's number if random numbers are to differ this time, or ``None``.
        skip_batches: How many batches to pass over from the rewound position on.
    """

    place: str
    snapshot: str
    rewind_data: bool
    lr_factor: float | None
    fork: int | None
    skip_batches: int = 0


@dataclass(frozen=True, slots=True)
class Boundary:
    """Everything that must happen at one boundary, as one transaction, in this order.

    Attributes:
        step: Updates made so far.
        restore: A return to a snapshot, first of all.
        deeds: The actions, in order.
        held: All activities in force from now on; what is not among them is released.
        alphas: Alpha per cohort from now on.
        forget: Ids of snapshots that nothing can return to any more, and of teachers that nobody
            can learn from any more.
        number: Updates ever made, abandoned branches included.
    """

    step: int
    restore: Restore | None
    deeds: tuple[Deed, ...]
    held: tuple[Effect, ...]
    alphas: Mapping[str, float]
    forget: tuple[str, ...] = ()
    number: int = 0

    @property
    def structural(self) -> bool:
        """Whether the model's structure changes: by a growth, a prune, or a return."""
        return self.restore is not None or any(deed.action.structural for deed in self.deeds)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a boundary's transaction brought.

    Attributes:
        evidence: Per place of a deed, JSON data on what was done (for a growth, its certificate).
        facts: What is known of the model now.
        attributions: What was measured of the modules' contributions.
    """

    evidence: Mapping[str, Mapping[str, Any]]
    facts: Facts
    attributions: tuple[Attribution, ...] = ()


class Actor(Protocol):
    """Whoever carries out what was decided."""

    def facts(self) -> Facts:
        """What is known of the model now."""
        ...

    def transact(self, boundary: Boundary, confirm: Callable[[Outcome], None]) -> Outcome:
        """Carry out a boundary, all or nothing.

        Args:
            boundary: What to do.
            confirm: Called once all is done and before it is final; if it raises, all is undone.

        Raises:
            ActionError: An action failed; everything is as it was before.
        """
        ...

    def tune(self, values: Mapping[str, float]) -> None:
        """Set the values of moving activities for the next update.

        By place; a level of an activity by its place and key, ``main:settle.during[0]/weight``.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What it must remember of the model's structure, as JSON data."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`, on a model as it was at the very beginning.

        Raises:
            SnapshotError: The state does not fit the model.
        """
        ...


class Reader(Protocol):
    """Whoever fetches numbers from where they were computed."""

    def __call__(self, values: Sequence[Any], /) -> Sequence[object]:
        """The numbers of values of one element each, in order, with one transfer per device.

        Args:
            values: What was given as metrics, detached: each has an ``item()``.
        """
        ...


class Sink(Protocol):
    """Whoever keeps the record."""

    def write(self, records: tuple[Record, ...]) -> None:
        """Append records, in order; durable when it returns.

        Raises:
            RunFolderError: They could not be written; none of them counts.
        """
        ...
