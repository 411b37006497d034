"""Axes that turn out to be the same: a union-find whose nodes split into products and pieces.

Each dimension of a tensor is a tuple of *refs*, the leftmost the slowest, whose sizes multiply to
the dimension's size. A ref is a node and the parameter axes it is read from. A node is a leaf, or
the product of other nodes (after a view has split it). A leaf may have *pieces*: intervals that
were sliced out of it, or that it was concatenated from. Sizes of 1 are no nodes: they tie nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import NamedTuple

__all__ = ["Axes", "Dims", "Origin", "Ref", "Refs", "plain"]

Origin = tuple[int, int]
"""A parameter or buffer, by its key, and one of its dimensions."""


class Ref(NamedTuple):
    """A factor of a dimension.

    Attributes:
        node: Its node, as it was when the ref was made; ``Axes.find`` tells what it is now.
        origins: The parameter axes it is read from; none for an activation.
    """

    node: int
    origins: tuple[Origin, ...] = ()


Refs = tuple[Ref, ...]
Dims = tuple[Refs, ...]


def plain(refs: Iterable[Ref]) -> Refs:
    """The same axes, read from no parameter."""
    return tuple(Ref(ref.node) if ref.origins else ref for ref in refs)


@dataclass(slots=True)
class Node:
    """One class of axes.

    Attributes:
        size: How many units it has.
        parent: The node it was found to be the same as.
        children: What it is the product of.
        pieces: Intervals of it that are axes too.
        homes: Where it is a piece: owner, start, stop.
        flags: What is known of it; they are joined when nodes are.
        even: In how many equal parts it was split on purpose (``chunk``, ``split``).
    """

    size: int
    parent: int | None = None
    children: Refs | None = None
    pieces: dict[tuple[int, int], Refs] = field(default_factory=dict)
    homes: list[tuple[int, int, int]] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    even: int | None = None


class Axes:
    """All axes of one trace."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.conflicts: int = 0

    # Making

    def leaf(self, size: int, *flags: str) -> int:
        """A new axis."""
        self.nodes.append(Node(size, flags=set(flags)))
        return len(self.nodes) - 1

    def fresh(self, size: int, *flags: str) -> Refs:
        """A new axis as a dimension; nothing where the size is 1."""
        return () if size == 1 else (Ref(self.leaf(size, *flags)),)

    def join(self, refs: Refs) -> Refs:
        """One node for a product, such as a flattened image."""
        if len(refs) < 2:
            return refs
        node = self.leaf(self.size(refs))
        self.nodes[node].children = plain(refs)
        return (Ref(node),)

    # Reading

    def find(self, node: int) -> int:
        """The node that stands for it now."""
        root = node
        while (parent := self.nodes[root].parent) is not None:
            root = parent
        while (parent := self.nodes[node].parent) is not None:
            self.nodes[node].parent, node = root, parent
        return root

    def of(self, node: int) -> Node:
        """What is known of a node."""
        return self.nodes[self.find(node)]

    def size(self, refs: Iterable[Ref]) -> int:
        """The size of a dimension."""
        return math.prod(self.nodes[ref.node].size for ref in refs)

    def atoms(self, refs: Iterable[Ref]) -> Refs:
        """A dimension with all products written out; origins go with their factors."""
        found: list[Ref] = []
        for ref in refs:
            children = self.of(ref.node).children
            if children is None:
                found.append(ref)
            else:
                found += [Ref(atom.node, ref.origins) for atom in self.atoms(children)]
        return tuple(found)

    def roots(self, refs: Iterable[Ref]) -> tuple[int, ...]:
        """The nodes of a dimension as they are now."""
        return tuple(self.find(ref.node) for ref in self.atoms(refs))

    def flag(self, refs: Iterable[Ref], *flags: str) -> None:
        """Note something about all factors of a dimension."""
        for root in self.roots(refs):
            self.nodes[root].flags.update(flags)

    # Splitting

    def split(self, ref: Ref, *sizes: int) -> Refs:
        """Write a leaf as a product, everywhere."""
        root = self.find(ref.node)
        parts = tuple(Ref(self.leaf(size)) for size in sizes if size != 1)
        self._refine(root, parts)
        return self.atoms((ref,))

    def _refine(self, root: int, parts: Refs) -> None:
        """Make a leaf the product of parts; its pieces become pieces of those."""
        node = self.nodes[root]
        pieces, node.pieces = node.pieces, {}
        node.children = parts
        self.flag(parts, *node.flags)
        for (start, stop), piece in pieces.items():
            found = self.cut(parts, start, stop)
            if found is None or not self.unify(found, piece):
                self.conflicts += 1

    def regroup(self, refs: Iterable[Ref], sizes: Sequence[int]) -> Dims | None:
        """The dimensions after a view; ``None`` if an axis cannot be cut so.

        Args:
            refs: All factors of the tensor in order.
            sizes: The sizes that it is viewed as.
        """
        left = list(self.atoms(refs))[::-1]
        dims: list[Refs] = []
        for size in sizes:
            taken: list[Ref] = []
            need = size
            while need > 1:
                if not left:
                    return None
                ref = left.pop()
                has = self.nodes[self.find(ref.node)].size
                if need % has == 0:
                    taken.append(ref)
                    need //= has
                elif has % need == 0:
                    left += self.split(ref, need, has // need)[::-1]
                else:
                    return None
            dims.append(tuple(taken))
        return None if left else tuple(dims)

    # Joining

    def unify(self, one: Refs, other: Refs) -> bool:
        """Two dimensions are the same axis; false, and counted, if their factors cannot agree."""
        left, right = list(self.atoms(one)), list(self.atoms(other))
        if self.size(left) != self.size(right):
            return False
        if len(left) == 1 or len(right) == 1:
            whole, parts = (left, right) if len(left) == 1 else (right, left)
            if len(parts) == 1:
                self._union(self.find(whole[0].node), self.find(parts[0].node))
            else:
                self._refine(self.find(whole[0].node), plain(parts))
            return True
        while left and right:
            a, b = left.pop(), right.pop()
            x, y = self.of(a.node).size, self.of(b.node).size
            if x == y:
                self._union(self.find(a.node), self.find(b.node))
            elif x > y and x % y == 0:
                left += self.split(a, x // y, y)
                right.append(b)
            elif y > x and y % x == 0:
                right += self.split(b, y // x, x)
                left.append(a)
            else:
                self.conflicts += 1
                return False
            left, right = list(self.atoms(left)), list(self.atoms(right))
        return True

    def _union(self, one: int, other: int) -> None:
        if one == other:
            return
        one, other = min(one, other), max(one, other)
        kept, gone = self.nodes[one], self.nodes[other]
        gone.parent = one
        kept.flags |= gone.flags
        kept.homes += gone.homes
        kept.even = kept.even or gone.even
        for interval, piece in gone.pieces.items():
            self._add_piece(one, *interval, piece)
        gone.pieces = {}

    def _add_piece(self, owner: int, start: int, stop: int, piece: Refs) -> None:
        """An interval of a node is an axis; the node may meanwhile be a product."""
        owner = self.find(owner)
        node = self.nodes[owner]
        if node.children is None and (start, stop) not in node.pieces:
            node.pieces[start, stop] = plain(piece)
            if len(piece) == 1:
                self.of(piece[0].node).homes.append((owner, start, stop))
            return
        known = node.pieces.get((start, stop)) if node.children is None else None
        if known is None:
            known = self.cut((Ref(owner),), start, stop)
        if known is None or not self.unify(known, piece):
            self.conflicts += 1

    def is_counted(self, root: int) -> bool:
        """Whether the code handles each unit by itself, as it does q, k and v."""
        node = self.nodes[root]
        alone = sum(stop - start == 1 for start, stop in node.pieces)
        return "counted" in node.flags or alone == node.size

    # Slicing and concatenating

    def cut(self, refs: Refs, start: int, stop: int) -> Refs | None:
        """An interval of a dimension; ``None`` if it is none of its factors'."""
        if start == 0 and stop == self.size(refs):
            return refs
        atoms = self.atoms(refs)
        if len(atoms) == 1:
            return self._piece(atoms[0], start, stop)
        inner = self.size(atoms[1:])
        if start % inner == 0 and stop % inner == 0:
            outer = self._piece(atoms[0], start // inner, stop // inner)
            return (*outer, *atoms[1:])
        if start // inner == (stop - 1) // inner:
            self._piece(atoms[0], start // inner, start // inner + 1)
            return self.cut(atoms[1:], start % inner, start % inner + stop - start)
        return None

    def _piece(self, ref: Ref, start: int, stop: int) -> Refs:
        root = self.find(ref.node)
        node = self.nodes[root]
        if start == 0 and stop == node.size:
            return (ref,)
        known = node.pieces.get((start, stop))
        if known is None:
            known = self._nested(ref, start, stop)
        if known is None:
            known = self.fresh(stop - start)
            inner = [key for key in node.pieces if start <= key[0] and key[1] <= stop]
            moved = {key: node.pieces.pop(key) for key in inner}
            self._add_piece(root, start, stop, known)
            for (a, b), piece in moved.items():
                if known:
                    self._add_piece(known[0].node, a - start, b - start, piece)
        return tuple(Ref(part.node, ref.origins) for part in known)

    def _nested(self, ref: Ref, start: int, stop: int) -> Refs | None:
        """The interval as an interval of a piece that is known already."""
        for (a, b), piece in self.of(ref.node).pieces.items():
            if a <= start and stop <= b and (b - a) < self.of(ref.node).size:
                return self.cut(piece, start - a, stop - a)
        return None

    def chunk(self, refs: Refs, count: int) -> None:
        """Note that a dimension was split in equal parts on purpose."""
        atoms = self.atoms(refs)
        if atoms:
            node = self.of(atoms[0].node)
            if node.size % count == 0:
                node.even = node.even or count

    def cat(self, parts: Sequence[Refs], sizes: Sequence[int]) -> Refs:
        """A concatenation; the parts of one axis, whatever their order, give it back."""
        joined = [self.join(self.atoms(part)) for part in parts]
        back = self._restored(joined, sizes)
        if back is not None:
            return (Ref(back),)
        whole = self.leaf(sum(sizes))
        start = 0
        for part, size in zip(joined, sizes, strict=True):
            self._add_piece(whole, start, start + size, part)
            start += size
        return (Ref(whole),)

    def _restored(self, parts: Sequence[Refs], sizes: Sequence[int]) -> int | None:
        if any(len(part) != 1 for part in parts):
            return None
        homes = [
            {(self.find(owner), a, b) for owner, a, b in self.of(part[0].node).homes}
            for part in parts
        ]
        orders = [tuple(range(len(parts)))]
        if len(set(sizes)) == 1 and len(parts) <= 4:
            orders = list(permutations(range(len(parts))))
        for owner in sorted({owner for owner, _, _ in homes[0]}):
            if self.nodes[owner].size != sum(sizes) or self.nodes[owner].children is not None:
                continue
            for order in orders:
                if self._tiles(owner, [homes[k] for k in order], [sizes[k] for k in order]):
                    if order != orders[0]:
                        for part in parts[1:]:
                            self.unify(parts[0], part)
                    return owner
        return None

    @staticmethod
    def _tiles(
        owner: int, homes: Sequence[set[tuple[int, int, int]]], sizes: Sequence[int]
    ) -> bool:
        start = 0
        for home, size in zip(homes, sizes, strict=True):
            if (owner, start, start + size) not in home:
                return False
            start += size
        return True
