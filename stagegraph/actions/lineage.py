"""Lineage: the structural changes a model has been through, as data, and stable names from it.

Names shift when a block is inserted: ``blocks.2`` may be another block tomorrow. A stable id is
today's name with the block's number replaced by its label. A block that was there from the start
has its first number as label for ever (``blocks.1.mlp.weight``); a grown one has the number of its
growth and its place in it (``blocks.g1-0.mlp.weight``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Any

from stagegraph.actions.changes import Change, Deepened, Pruned, Regrown, read_change
from stagegraph.errors import SnapshotError

__all__ = ["Lineage"]


class Lineage:
    """All structural changes so far, in order.

    >>> from stagegraph.actions.changes import NewBlock
    >>> grown = Deepened("deeper", 100, "blocks", 2, (NewBlock("g1-0", 1, "0"),))
    >>> lineage = Lineage([grown])
    >>> [lineage.stable(f"blocks.{i}.weight") for i in range(3)]
    ['blocks.0.weight', 'blocks.g1-0.weight', 'blocks.1.weight']
    >>> lineage.today("blocks.1.weight")
    'blocks.2.weight'
    """

    def __init__(self, changes: Iterable[Change] = ()) -> None:
        self._changes: list[Change] = []
        self._orders: dict[str, list[str]] = {}
        for change in changes:
            self.add(change)

    @property
    def changes(self) -> tuple[Change, ...]:
        """The changes, the oldest first."""
        return tuple(self._changes)

    def add(self, change: Change) -> None:
        """Record one more change."""
        self._changes.append(change)
        if isinstance(change, Deepened):
            for path in (change.stack, *change.beside):
                order = self.order(path, change.before)
                for block in change.blocks:
                    order.insert(block.at, block.label)
                self._orders[path] = order
        if isinstance(change, Regrown):
            for module in change.added:
                stack, _, label = module.rpartition(".")
                if stack in self._orders:
                    self._orders[stack].append(label)

        if isinstance(change, Pruned) and isinstance(change.taken, Deepened):
            labels = {block.label for block in change.taken.blocks}
            for path in (change.taken.stack, *change.taken.beside):
                order = self.order(path, change.taken.before + len(labels))
                self._orders[path] = [label for label in order if label not in labels]

    def without_last(self) -> Lineage:
        """The same without the newest change."""
        return Lineage(self._changes[:-1])

    def next_label(self, index: int) -> str:
        """The label of a block that the next growth adds."""
        return f"g{len(self._changes) + 1}-{index}"

    def stable_new(self, name: str, index: int) -> str:
        """The stable id of a module that the next growth adds at the end of what holds it."""
        parent, _, own = name.rpartition(".")
        stack = self.stable(parent) if parent else ""
        label = self.next_label(index) if stack in self._orders else own
        return f"{stack}.{label}".lstrip(".")

    def order(self, stack: str, length: int) -> list[str]:
        """The labels of a stack's blocks as they stand; ``length`` is its length if never grown."""
        return list(self._orders.get(stack) or (str(index) for index in range(length)))

    def stable(self, name: str) -> str:
        """Today's name of a module, parameter or buffer as a stable id."""
        parts: list[str] = []
        for part in name.split("."):
            order = self._orders.get(".".join(parts))
            known = order is not None and part.isdigit() and int(part) < len(order)
            parts.append(order[int(part)] if order is not None and known else part)
        return ".".join(parts)

    def today(self, stable: str) -> str:
        """A stable id as today's name."""
        parts: list[str] = []
        names: list[str] = []
        for part in stable.split("."):
            order = self._orders.get(".".join(parts))
            parts.append(part)
            names.append(str(order.index(part)) if order is not None and part in order else part)
        return ".".join(names)

    def cohort(self, name: str) -> tuple[Change, ...]:
        """The changes of the newest boundary at which something was grown under this name."""
        named = [change for change in self._growths() if change.cohort == name]
        return tuple(change for change in named if change.step == named[-1].step)

    def cohorts(self) -> tuple[str, ...]:
        """The names of all growths, the oldest first."""
        return tuple(dict.fromkeys(change.cohort for change in self._growths()))

    def modules(self) -> list[str]:
        """Stable ids of all modules that growths have brought and that are there still."""
        return [name for change in self._growths() for name in self.alive(change)]

    def _growths(self) -> list[Change]:
        return [change for change in self._changes if not isinstance(change, Pruned)]

    def alive(self, change: Change, added: Iterable[str] | None = None) -> tuple[str, ...]:
        """Stable ids of the modules that a change added and that have not been pruned since.

        Args:
            change: A change of this lineage.
            added: Which of what it added to look at; default: its modules.
        """
        at = next((i for i, one in enumerate(self._changes) if one is change), len(self._changes))
        prunes = [one for one in self._changes[at:] if isinstance(one, Pruned)]
        gone = {name for one in prunes for name in one.gone}
        return tuple(
            name
            for name in (change.modules if added is None else added)
            if not any(name == one or name.startswith(f"{one}.") for one in gone)
        )

    def added_names(self, changes: Iterable[Change]) -> list[str]:
        """Today's names of the modules and parameters that these changes added."""
        added = [
            name
            for change in changes
            for name in self.alive(change, (*change.modules, *change.others))
        ]
        return [self.today(name) for name in added]

    def starts_with(self, other: Lineage) -> bool:
        """Whether the other's changes are the first of these."""
        return self.changes[: len(other.changes)] == other.changes

    def shared_with(self, other: Lineage) -> Lineage:
        """The changes that both begin with."""
        both = zip(self.changes, other.changes, strict=False)
        return Lineage(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], both))

    def as_json(self) -> list[dict[str, Any]]:
        """As JSON data."""
        return [change.as_json() for change in self._changes]

    @classmethod
    def from_json(cls, data: Iterable[Mapping[str, Any]]) -> Lineage:
        """The inverse of :meth:`as_json`.

        Raises:
            SnapshotError: It cannot be read.
        """
        if not isinstance(data, list | tuple):
            raise SnapshotError(f"a lineage is a list of changes, got a {type(data).__name__}")
        return cls(read_change(change) for change in data)
