"""Pairing: which tensor of a smaller model each tensor of a larger one comes from, by names alone.

A name with a number in it belongs to a stack of blocks, if the numbers run from 0 without a gap.
Where the larger model's stack has more blocks, each of them is given a block of the smaller one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from stagegraph.errors import SelectorError, UnsupportedError, did_you_mean

__all__ = ["Depth", "Origin", "Pairing", "renamed"]

Depth = Literal["identity", "stack", "interleave", "leave"]
"""Where the additional blocks of a stack come from: they are copies of the uppermost block and made
the identity; the stack is repeated from the bottom; each block is repeated in place; or they are
left as they are."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a tensor comes from.

    Attributes:
        name: What it would be called in the smaller model; empty if it comes from nowhere.
        extra: The path of the additional block that it is in, where that becomes the identity.
        problem: Why it cannot be taken, if so.
    """

    name: str
    extra: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Pairing:
    """The stacks of two models, and how the blocks of one are found in the other.

    Attributes:
        small: How many blocks each stack of the smaller model has, by path.
        large: The same for the larger one.
        depth: Where additional blocks come from.
        stretched: The stacks that have more blocks in the larger one, with both numbers.
    """

    small: Mapping[str, int]
    large: Mapping[str, int]
    depth: Depth
    stretched: dict[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, small: Iterable[str], large: Iterable[str], depth: Depth) -> Pairing:
        """The pairing of two models, from the names of their tensors."""
        return cls(_depths(small), _depths(large), depth)

    def origin(self, name: str) -> Origin:
        """Where a tensor of the larger model comes from."""
        parts = name.split(".")
        there: list[str] = []
        extra: str | None = None
        for index, part in enumerate(parts):
            here = ".".join(parts[:index])
            few, many = self.small.get(".".join(there)), self.large.get(here)
            if not part.isdigit() or few is None or many is None or few == many:
                there.append(part)
                continue
            if few > many:
                return Origin(
                    name,
                    problem=f"stack {here!r} has {few} blocks in the weights and {many} here: "
                    "nothing is cut off; take a model with as many at least",
                )
            self.stretched[here] = (few, many)
            number = int(part)
            if number >= few and self.depth == "leave":
                return Origin("", extra=f"{here}.{part}")
            if number >= few and self.depth == "identity" and extra is None:
                extra = f"{here}.{part}"
            there.append(str(self._block(number, few, many)))
        return Origin(".".join(there), extra)

    def _block(self, number: int, few: int, many: int) -> int:
        if self.depth == "stack":
            return number % few
        if self.depth == "interleave":
            return number * few // many
        return min(number, few - 1)


def _depths(names: Iterable[str]) -> dict[str, int]:
    numbers: dict[str, set[int]] = {}
    for name in names:
        parts = name.split(".")
        for index, part in enumerate(parts):
            if part.isdigit():
                numbers.setdefault(".".join(parts[:index]), set()).add(int(part))
    return {path: len(own) for path, own in numbers.items() if own == set(range(len(own)))}


def renamed(names: Sequence[str], rename: Mapping[str, str], *, place: str) -> dict[str, str]:
    """What each name of the weights is called here.

    Args:
        names: The names.
        rename: Per pattern the new name; what its ``*`` stood for is put in for each ``*`` of the
            new one, in order. The first pattern that matches counts.
        place: Where it is written, for messages.

    Returns:
        The old name by the new one.

    Raises:
        SelectorError: A pattern matches no name.
        UnsupportedError: A new name has more ``*`` than its pattern, or two names become one.
    """
    patterns = {glob: re.compile(re.escape(glob).replace(r"\*", "(.*)")) for glob in rename}
    for glob, new in rename.items():
        if new.count("*") > glob.count("*"):
            raise UnsupportedError(f"{place}: rename {glob!r} has fewer * than {new!r}")
    unused, found = dict.fromkeys(rename), dict[str, str]()
    for name in names:
        new = name
        for glob, pattern in patterns.items():
            match = pattern.fullmatch(name)
            if match is not None:
                unused.pop(glob, None)
                stars = iter(match.groups())
                new = "".join(next(stars) if c == "*" else c for c in rename[glob])
                break
        if new in found:
            raise UnsupportedError(
                f"{place}: {found[new]!r} and {name!r} of the weights would both be called {new!r}"
            )
        found[new] = name
    if unused:
        near = "; ".join(f"{glob!r}{did_you_mean(glob, names)}" for glob in unused)
        raise SelectorError(f"{place}: rename: no tensor of the weights matches {near}")
    return found
