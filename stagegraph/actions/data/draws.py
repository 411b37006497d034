"""Draws: which items a batch is made of, as a pure function of where one stands. No torch state.

A source gives its items in passes. The order of a pass is a function of seed, source and epoch;
in it, what a level admits is taken in that order, so that what was taken is known by one count
per band, and another level goes on with what is left.
"""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate
from typing import Any

import torch

from stagegraph.actions.data.bands import Bands
from stagegraph.errors import UnsupportedError

__all__ = ["Cursor", "Draw", "Drawn", "Knobs", "Own", "Pick", "Sources", "seed_of"]

Pick = tuple[str, int, int]
"""Source, epoch of the source, index."""


def seed_of(*parts: object) -> int:
    """A seed of 63 bits from anything that has a text."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True, slots=True)
class Knobs:
    """What batches are drawn by; ``None`` is the loader's own.

    Attributes:
        level: The difficulty.
        weights: How the sources are mixed.
        length: How long sequences are.
        batch_size: How many samples a batch has.
        lr_factor: What that does to the learning rate.
        since: How many batches had been used when a boundary asked for it.
    """

    level: int | None = None
    weights: tuple[tuple[str, float], ...] | None = None
    length: int | None = None
    batch_size: int | None = None
    lr_factor: float = 1.0
    since: int = field(default=0, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The knobs as JSON data."""
        weights = None if self.weights is None else dict(self.weights)
        return {
            "level": self.level,
            "weights": weights,
            "length": self.length,
            "batch_size": self.batch_size,
            "lr_factor": self.lr_factor,
            "since": self.since,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Knobs:
        """The inverse of :meth:`to_json`."""
        weights = data["weights"]
        return cls(
            level=data["level"],
            weights=None if weights is None else tuple(weights.items()),
            length=data["length"],
            batch_size=data["batch_size"],
            lr_factor=data["lr_factor"],
            since=data["since"],
        )


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where one stands in the data.

    Attributes:
        number: Batches so far.
        epoch: Passes of the loader that are over.
        samples: Samples of the present pass of the loader.
        taken: Per source: its epoch, and how many of each band were taken in it.
    """

    number: int = 0
    epoch: int = 0
    samples: int = 0
    taken: Mapping[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The position as JSON data."""
        return {
            "number": self.number,
            "epoch": self.epoch,
            "samples": self.samples,
            "taken": {name: [epoch, list(counts)] for name, (epoch, counts) in self.taken.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cursor:
        """The inverse of :meth:`to_json`."""
        taken = {
            name: (int(epoch), tuple(map(int, counts)))
            for name, (epoch, counts) in data["taken"].items()
        }
        return cls(int(data["number"]), int(data["epoch"]), int(data["samples"]), taken)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What is known of one batch.

    Attributes:
        number: Which batch of the run it is, from 0.
        epoch: Which pass of the loader it belongs to, from 0.
        level: The difficulty that it was drawn at; ``None`` if all was admitted.
        sources: How many of its samples come from which source.
        size: How many samples it has.
        length: How long its sequences are; ``None`` if nobody says.
        knobs: What it was drawn by.
        share: Which part of a pass it is.
        last: Whether the pass is over with it.
    """

    number: int
    epoch: int
    level: int | None
    sources: Mapping[str, int]
    size: int
    length: int | None
    knobs: Knobs
    share: Fraction
    last: bool

    @property
    def lr_factor(self) -> float:
        """What its size does to the learning rate."""
        return self.knobs.lr_factor

    def to_json(self) -> dict[str, Any]:
        """The facts as JSON data."""
        return {
            "number": self.number,
            "epoch": self.epoch,
            "level": self.level,
            "sources": dict(self.sources),
            "size": self.size,
            "length": self.length,
            "knobs": self.knobs.to_json(),
            "share": str(self.share),
            "last": self.last,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Drawn:
        """The inverse of :meth:`to_json`."""
        known = {"knobs": Knobs.from_json(data["knobs"]), "share": Fraction(data["share"])}
        return cls(**{**data, **known})


@dataclass(frozen=True, slots=True)
class Draw:
    """One batch, drawn.

    Attributes:
        picks: Its items.
        facts: What is known of it.
        after: Where one stands then.
    """

    picks: tuple[Pick, ...]
    facts: Drawn
    after: Cursor


@dataclass(frozen=True, slots=True)
class Own:
    """What a loader is where nothing steers it.

    Attributes:
        seed: Another seed, other orders.
        shuffle: Whether orders are random; else they are those of the data.
        batch_size: How many samples a batch has.
        per_epoch: How many samples a pass of the loader has.
        drop_last: Whether a pass ends before a batch that would be short.
        weights: How the sources are mixed; ``None``: as if they were one.
        length: How long sequences are.
    """

    seed: int
    shuffle: bool
    batch_size: int
    per_epoch: int
    drop_last: bool
    weights: tuple[tuple[str, float], ...] | None
    length: int | None


class Sources:
    """Named sources of items, and the order in which they give them.

    Args:
        sizes: How many items each has.
        bands: How hard the items are; ``None``: all alike.
        own: What the loader is.
    """

    def __init__(self, sizes: Mapping[str, int], bands: Bands | None, own: Own) -> None:
        self.sizes = dict(sizes)
        self.bands = bands
        self.own = own
        self.num_bands = 1 if bands is None else bands.num_levels
        self.band_sizes = {name: self._count(name) for name in sizes}
        self._orders: dict[tuple[str, int], list[tuple[array[int], array[int]]]] = {}

    def _count(self, name: str) -> tuple[int, ...]:
        if self.bands is None:
            return (self.sizes[name],)
        counts = [0] * self.num_bands
        for band in self.bands.of[name]:
            counts[band] += 1
        return tuple(counts)

    def admitted(self, level: int | None) -> dict[str, int]:
        """Per source, how many items a level admits."""
        admits = self._admits(level)
        return {name: sum(sizes[b] for b in admits) for name, sizes in self.band_sizes.items()}

    def _admits(self, level: int | None) -> range:
        return range(1) if self.bands is None else self.bands.admits(level)

    def check(self, knobs: Knobs) -> None:
        """Refuse knobs by which no batch can be drawn.

        Raises:
            UnsupportedError: A source is to be drawn from and has nothing of this level.
        """
        admitted = self.admitted(knobs.level)
        weights = knobs.weights or self.own.weights
        if weights is None:
            return
        for name, weight in weights:
            if weight > 0 and not admitted[name]:
                raise UnsupportedError(
                    f"source {name!r} has no item of level {knobs.level}, and {weight:g} of the "
                    "mixture is to come from it; give it no weight at this level, or other levels"
                )

    # One batch

    def draw(self, cursor: Cursor, knobs: Knobs) -> Draw:
        """The batch that comes at a position."""
        full = knobs.batch_size or self.own.batch_size
        left = self.own.per_epoch - cursor.samples
        size = full if self.own.drop_last else min(full, left)
        tray = _Tray(self, cursor, self._admits(knobs.level))
        picks = tuple(self._picks(tray, knobs, cursor.number, size))
        samples = cursor.samples + size
        rest = self.own.per_epoch - samples
        last = rest <= 0 or (self.own.drop_last and rest < full)
        counts: dict[str, int] = {}
        for name, _, _ in picks:
            counts[name] = counts.get(name, 0) + 1
        facts = Drawn(
            number=cursor.number,
            epoch=cursor.epoch,
            level=knobs.level,
            sources=counts,
            size=size,
            length=knobs.length or self.own.length,
            knobs=knobs,
            share=Fraction(left if last else size, self.own.per_epoch),
            last=last,
        )
        after = Cursor(
            number=cursor.number + 1,
            epoch=cursor.epoch + last,
            samples=0 if last else samples,
            taken=tray.taken(),
        )
        return Draw(picks, facts, after)

    def _picks(self, tray: _Tray, knobs: Knobs, number: int, size: int) -> list[Pick]:
        draws = random.Random(seed_of(self.own.seed, "mixture", number))
        weights = knobs.weights or self.own.weights
        if weights is None:
            return [tray.any(draws) for _ in range(size)]
        names = [name for name, weight in weights if weight > 0]
        bounds = list(accumulate(weight for _, weight in weights if weight > 0))
        begin = draws.random()
        picks: list[Pick] = []
        at = 0
        for slot in range(size):  # systematic: each source gets its share, rounded up or down
            point = (slot + begin) / size * bounds[-1]
            while at < len(bounds) - 1 and point >= bounds[at]:
                at += 1
            picks.append(tray.of(names[at]))
        return picks

    # Orders

    def order(self, name: str, epoch: int) -> list[tuple[array[int], array[int]]]:
        """Per band, the indices in the order of a pass, and their places in the whole order."""
        known = self._orders.get((name, epoch))
        if known is None:
            for key in [key for key in self._orders if key[0] == name and key[1] < epoch - 1]:
                del self._orders[key]
            known = self._orders[name, epoch] = self._ordered(name, epoch)
        return known

    def _ordered(self, name: str, epoch: int) -> list[tuple[array[int], array[int]]]:
        size = self.sizes[name]
        order: Sequence[int] = range(size)
        if self.own.shuffle:
            generator = torch.Generator().manual_seed(seed_of(self.own.seed, "order", name, epoch))
            order = array("q", torch.randperm(size, generator=generator).tolist())
        parts = [(array("q"), array("q")) for _ in range(self.num_bands)]
        bands = None if self.bands is None else self.bands.of[name]
        for place, index in enumerate(order):
            indices, places = parts[0 if bands is None else bands[index]]
            indices.append(index)
            places.append(place)
        return parts


class _Tray:
    """The positions of all sources while one batch is drawn."""

    def __init__(self, sources: Sources, cursor: Cursor, admits: range) -> None:
        self._sources = sources
        self._admits = admits
        fresh = (0, (0,) * sources.num_bands)
        begun = {name: cursor.taken.get(name, fresh) for name in sources.sizes}
        self._epochs = {name: epoch for name, (epoch, _) in begun.items()}
        self._counts = {name: list(counts) for name, (_, counts) in begun.items()}
        self._left = {name: self._count_left(name) for name in begun}
        self._orders: dict[str, list[tuple[array[int], array[int]]]] = {}

    def taken(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Per source, its epoch and how many of each band were taken in it."""
        return {name: (self._epochs[name], tuple(c)) for name, c in self._counts.items()}

    def _count_left(self, name: str) -> int:
        sizes, counts = self._sources.band_sizes[name], self._counts[name]
        return sum(sizes[band] - counts[band] for band in self._admits)

    def _renew(self, name: str) -> None:
        """The pass is over: all that the level admits was taken in it."""
        self._epochs[name] += 1
        self._counts[name] = [0] * self._sources.num_bands
        self._left[name] = self._count_left(name)
        self._orders.pop(name, None)

    def of(self, name: str) -> Pick:
        """The next item of a source."""
        if not self._left[name]:
            self._renew(name)
        order = self._orders.get(name)
        if order is None:
            order = self._orders[name] = self._sources.order(name, self._epochs[name])
        counts = self._counts[name]
        first, best = -1, -1
        for band in self._admits:
            places, count = order[band][1], counts[band]
            if count < len(places) and (first < 0 or places[count] < best):
                first, best = band, places[count]
        index = order[first][0][counts[first]]
        counts[first] += 1
        self._left[name] -= 1
        return name, self._epochs[name], index

    def any(self, draws: random.Random) -> Pick:
        """The next item of all sources as if they were one."""
        if len(self._left) == 1:
            return self.of(next(iter(self._left)))
        if not any(self._left.values()):
            for name in self._left:
                if sum(self._sources.band_sizes[name][band] for band in self._admits):
                    self._renew(name)
        point = draws.randrange(sum(self._left.values()))
        for name, count in self._left.items():
            if point < count:
                return self.of(name)
            point -= count
        raise AssertionError("a place beyond all items")
