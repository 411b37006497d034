"""After the run: which axes are the data's, and which are really concatenations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from stagegraph.actions.growth.width.tracing.axes import Ref, Refs
from stagegraph.actions.growth.width.tracing.book import Book

__all__ = ["Settled", "Unit", "settle"]


@dataclass(frozen=True, slots=True)
class Unit:
    """One factor as it is shown: an axis, a number, or a concatenation."""

    root: int
    size: int
    what: str
    parts: tuple[tuple[Unit, ...], ...] = ()


@dataclass(slots=True)
class Settled:
    """The axes of a book, as they are at the end.

    Attributes:
        book: The notes.
        used: The leaves that parameters have as axes of their own.
        data: The leaves that are the data's.
        apart: The leaves that are shown as what they are concatenated from.
    """

    book: Book
    used: set[int] = field(default_factory=set)
    data: set[int] = field(default_factory=set)
    apart: set[int] = field(default_factory=set)

    def units(self, refs: Refs) -> tuple[Unit, ...]:
        """A dimension as it is shown, leftmost slowest."""
        return tuple(unit for root in self.book.axes.roots(refs) for unit in self._units(root))

    def _units(self, root: int) -> Iterator[Unit]:
        node = self.book.axes.nodes[root]
        if root not in self.apart:
            counted = self.book.axes.is_counted(root)
            what = "data" if root in self.data else "fixed" if counted else "axis"
            yield Unit(root, node.size, what)
            return
        tiles = [self.units(tile) for tile in self._tiles(root)]
        if all(tile == tiles[0] for tile in tiles):
            yield Unit(-1, len(tiles), "fixed")
            yield from tiles[0]
            return
        parts: list[tuple[Unit, ...]] = []
        for tile in tiles:
            nested = len(tile) == 1 and tile[0].what == "sum"
            parts += tile[0].parts if nested else [tile]
        yield Unit(root, node.size, "sum", tuple(parts))

    def _tiles(self, root: int) -> list[Refs]:
        """The pieces of a leaf from one end to the other; gaps become pieces too."""
        axes = self.book.axes
        node, start = axes.nodes[root], 0
        tiles: list[Refs] = []
        for a, b in [*sorted(node.pieces), (node.size, node.size)]:
            if a > start:
                tiles.append(axes.cut((Ref(root),), start, a) or ())
            if b > a >= start:
                tiles.append(node.pieces[a, b])
            start = max(start, b)
        return tiles

    def below(self, node: int) -> Iterator[int]:
        """All leaves that an axis consists of, whole and in pieces."""
        for root in self.book.axes.roots((Ref(node),)):
            yield root
            for piece in list(self.book.axes.nodes[root].pieces.values()):
                for ref in piece:
                    yield from self.below(ref.node)

    def above(self, node: int) -> Iterator[int]:
        """All leaves that an axis is a piece of."""
        axes = self.book.axes
        for root in axes.roots((Ref(node),)):
            for owner, _, _ in axes.nodes[root].homes:
                yield axes.find(owner)
                yield from self.above(owner)

    def leaves(self) -> list[int]:
        """All leaves, as they are now."""
        axes = self.book.axes
        return [
            index
            for index, node in enumerate(axes.nodes)
            if node.parent is None and node.children is None
        ]


def settle(book: Book, dims: list[Refs]) -> Settled:
    """Decide what can be decided only when the whole run has been seen.

    Args:
        book: The notes.
        dims: The axes of all parameters.
    """
    settled = Settled(book)
    while True:
        settled.used = {root for refs in dims for root in book.axes.roots(refs)}
        _find_data(settled)
        for root in settled.leaves():
            _nest(book, root)
        settled.apart = _find_apart(settled)
        if not _split_evenly(settled):
            return settled


def _find_data(settled: Settled) -> None:
    """Axes of the input are the data's, unless a parameter reads them whole, as features."""
    book, axes = settled.book, settled.book.axes
    features: set[int] = set()
    for mark in book.marks:
        if mark.role == "in" and len(roots := axes.roots((Ref(mark.node),))) == 1:
            features.update(settled.below(roots[0]))
    leaves = settled.leaves()
    data = {root for root in leaves if "data" in axes.nodes[root].flags}
    data |= {root for root in leaves if "input" in axes.nodes[root].flags} - features
    while True:
        more = {
            root
            for root in leaves
            if root not in data
            and (
                any(axes.find(owner) in data for owner, _, _ in axes.nodes[root].homes)
                or any(set(axes.roots(piece)) & data for piece in axes.nodes[root].pieces.values())
            )
        }
        if not more:
            settled.data = data
            return
        data |= more


def _nest(book: Book, root: int) -> None:
    """Pieces inside other pieces belong to those."""
    axes, pieces = book.axes, book.axes.nodes[root].pieces
    for a, b in sorted(pieces, key=lambda key: key[0] - key[1]):
        for c, d in sorted(pieces):
            if (a, b) != (c, d) and a <= c and d <= b and (a, b) in pieces:
                inner = pieces.pop((c, d))
                found = axes.cut(pieces[a, b], c - a, d - a)
                if found is None or not axes.unify(found, inner):
                    axes.conflicts += 1


def _matters(settled: Settled, piece: Refs, seen: frozenset[int]) -> bool:
    """Whether a piece has a life of its own: split by a view, contracted, a parameter's axis."""
    axes = settled.book.axes
    roots = axes.roots(piece)
    if not roots or set(roots) <= settled.data:
        return False
    if len(roots) > 1 or roots[0] in settled.used:
        return True
    node = axes.nodes[roots[0]]
    if "contracted" in node.flags:
        return True
    return roots[0] not in seen and any(
        _matters(settled, inner, seen | {roots[0]}) for inner in node.pieces.values()
    )


def _find_apart(settled: Settled) -> set[int]:
    nodes = settled.book.axes.nodes
    return {
        root
        for root in settled.leaves()
        if any(
            _matters(settled, piece, frozenset({root}))
            for piece in list(nodes[root].pieces.values())
        )
    }


def _split_evenly(settled: Settled) -> bool:
    """What ``chunk`` has split in equal parts is one axis times their number."""
    axes = settled.book.axes
    for root in sorted(settled.apart):
        node = axes.nodes[root]
        if node.even is None:
            continue
        step, node.even = node.size // node.even, None
        parts = [axes.cut((Ref(root),), at, at + step) for at in range(0, node.size, step)]
        changed = False
        for part in parts[1:]:
            if parts[0] is not None and part is not None:
                changed |= axes.roots(parts[0]) != axes.roots(part)
                axes.unify(parts[0], part)
        if changed:
            return True
    return False
