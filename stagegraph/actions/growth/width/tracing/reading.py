"""The trace of a model, and what it says about its parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn

from stagegraph.actions.growth.width.traced import (
    Traced,
    TracedAxis,
    TracedFactor,
    TracedMember,
    TracedNorm,
    TracedSpace,
    TracedUse,
)
from stagegraph.actions.growth.width.tracing.axes import Refs
from stagegraph.actions.growth.width.tracing.book import Book, Mark, Norm
from stagegraph.actions.growth.width.tracing.dispatch import Names, observe
from stagegraph.actions.growth.width.tracing.settle import Settled, Unit, settle
from stagegraph.actions.parameters import unwrapped
from stagegraph.actions.probes import Probe

__all__ = ["trace"]

_HINTS = frozenset({"heads", "head_dim", "value_dim", "channels", "lookup", "positions"})
_ALONGSIDE = frozenset({"elem"})
"""The role of what only met other parameters, or was written into a constant: unit beside unit."""


@dataclass(slots=True)
class _Space:
    """A space that is being gathered."""

    size: int
    members: list[TracedMember] = field(default_factory=list)


def trace(model: nn.Module, probe: Probe) -> Traced:
    """Run a model once and tell which axes of its parameters belong together.

    The model runs in eval mode without gradients and is left as it was.

    Args:
        model: The model.
        probe: What to run it on, as for growth. A batch of at least two, all of whose sizes are
            above one, tells most: an axis of size 1 ties nothing.

    Raises:
        UnsupportedError: There is no floating tensor in the output.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> mlp = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
        >>> traced = trace(mlp, torch.ones(2, 4))
        >>> [(m.name, m.dim, *m.roles) for m in traced.spaces["0.weight:0"].members]
        [('0.weight', 0, 'out'), ('0.bias', 0, 'elem'), ('2.weight', 1, 'in')]
    """
    model = unwrapped(model)
    book, names, own = observe(model, probe)
    return _Reader(book, names, own).read()


class _Reader:
    """Puts a book into names."""

    def __init__(self, book: Book, names: Names, own: dict[int, Tensor]) -> None:
        self.book, self.axes, self.names, self.own = book, book.axes, names, own
        self.dims = {key: book.tensors[tensor].dims for key, tensor in own.items()}
        learned = [
            refs
            for key, tensor in own.items()
            if isinstance(tensor, nn.Parameter)
            for refs in self.dims[key]
        ]
        used = {(mark.key, mark.dim) for mark in book.marks}
        learned = [refs for refs in learned if refs and refs[0].origins[0] in used]
        before = book.axes.conflicts
        self.settled: Settled = settle(book, learned)
        self.conflicts = book.axes.conflicts - before
        self.marks: dict[tuple[int, int], list[Mark]] = {}
        for mark in book.marks:
            self.marks.setdefault((mark.key, mark.dim), []).append(mark)

    def read(self) -> Traced:
        """All that the book says."""
        spaces = self._gather()
        ids = {root: self._id(space) for root, space in spaces.items()}
        axes = {
            name: tuple(self._axis(key, dim, ids) for dim in range(len(self.dims[key])))
            for key, names in self.names.items()
            for name in names
        }
        return Traced(
            axes=axes,
            spaces={ids[root]: self._space(root, space) for root, space in spaces.items()},
            uses={name: self._uses(key) for key, names in self.names.items() for name in names},
            blind=self._blind(set(spaces)),
        )

    # Axes

    def _roles(self, key: int, dim: int) -> dict[int, set[str]]:
        """The roles of each leaf that one dimension of a parameter consists of."""
        roles: dict[int, set[str]] = {}
        for mark in self.marks.get((key, dim), ()):
            reached = {*self.settled.below(mark.node), *self.settled.above(mark.node)}
            for root in reached:
                roles.setdefault(root, set()).add(mark.role)
        return roles

    @staticmethod
    def _flat(units: Iterable[Unit]) -> Iterator[Unit]:
        """All factors, those inside concatenations too."""
        for unit in units:
            if unit.what == "sum":
                for part in unit.parts:
                    yield from _Reader._flat(part)
            else:
                yield unit

    def _gather(self) -> dict[int, _Space]:
        found = [
            (key, dim, factor, unit, self._roles(key, dim).get(unit.root, set()) - {"blind"})
            for key, dims in self.dims.items()
            for dim, refs in enumerate(dims)
            for factor, unit in enumerate(self._flat(self.settled.units(refs)))
            if unit.what == "axis"
        ]
        spaces = {
            unit.root: _Space(unit.size)
            for key, _, _, unit, roles in found
            if roles and isinstance(self.own[key], nn.Parameter)
        }
        for key, dim, factor, unit, roles in found:
            if unit.root in spaces:
                spaces[unit.root].members += [
                    TracedMember(name, dim, factor, frozenset(roles or _ALONGSIDE))
                    for name in self.names[key]
                ]
        return spaces

    def _id(self, space: _Space) -> str:
        first = space.members[0]
        key = next(key for key, names in self.names.items() if first.name in names)
        units = list(self._flat(self.settled.units(self.dims[key][first.dim])))
        return f"{first.name}:{first.dim}" + (f".{first.factor}" if len(units) > 1 else "")

    def _axis(self, key: int, dim: int, ids: dict[int, str]) -> TracedAxis:
        roles = self._roles(key, dim)
        units = self.settled.units(self.dims[key][dim])
        return TracedAxis(tuple(self._factor(unit, roles, ids) for unit in units))

    def _factor(self, unit: Unit, roles: dict[int, set[str]], ids: dict[int, str]) -> TracedFactor:
        found = set(roles.get(unit.root, ()))
        if unit.what in ("data", "fixed"):
            found.add(unit.what)
        parts = tuple(
            TracedAxis(tuple(self._factor(one, roles, ids) for one in part)) for part in unit.parts
        )
        if unit.what == "sum":
            found = {role for part in parts for factor in part.factors for role in factor.roles}
        space = ids.get(unit.root) if unit.what == "axis" else None
        if space is not None and not found - {"blind"}:
            found |= _ALONGSIDE
        return TracedFactor(unit.size, space, frozenset(found or {"free"}), parts)

    # Spaces

    def _over(self, refs: Refs) -> set[int]:
        return {unit.root for unit in self._flat(self.settled.units(refs))}

    def _space(self, root: int, space: _Space) -> TracedSpace:
        book = self.book
        flags = self.axes.nodes[root].flags
        return TracedSpace(
            size=space.size,
            members=tuple(space.members),
            norms=tuple(self._norm(norm) for norm in book.norms if root in self._over(norm.over)),
            softmaxes=tuple(path for refs, path in book.softmaxes if root in self._over(refs)),
            reduced_by=tuple(
                (op, path)
                for refs, op, path in book.reductions.values()
                if root in self._over(refs)
            ),
            sliced=tuple(
                dict.fromkeys(
                    path for refs, path in book.slices if self.axes.roots(refs)[:1] == (root,)
                )
            ),
            adds=sum(root in self._over(refs) for refs in book.adds),
            hints=frozenset(flags | self._flags_above(root)) & _HINTS,
            is_input="input" in flags,
            is_output=any(root in self._over(refs) for dims in book.outputs for refs in dims),
        )

    def _flags_above(self, root: int) -> set[str]:
        owners = self.settled.above(root)
        return {flag for owner in owners for flag in self.axes.nodes[owner].flags}

    def _norm(self, norm: Norm) -> TracedNorm:
        gain, bias = (None if key is None else self.names[key][0] for key in (norm.gain, norm.bias))
        return TracedNorm(norm.op, norm.module, norm.kind, gain, bias, norm.eps, norm.groups)

    # The rest

    def _uses(self, key: int) -> tuple[TracedUse, ...]:
        calls: dict[int, list[Mark]] = {}
        for dim in range(len(self.dims[key])):
            for mark in self.marks.get((key, dim), ()):
                calls.setdefault(mark.call, []).append(mark)
        uses = []
        for _, marks in sorted(calls.items()):
            roles: list[str | None] = [None] * len(self.dims[key])
            for mark in marks:
                roles[mark.dim] = mark.role
            uses.append(TracedUse(marks[0].op, marks[0].module, tuple(roles)))
        return tuple(dict.fromkeys(uses))

    def _blind(self, spaces: set[int]) -> tuple[tuple[str, str], ...]:
        blind = dict(self.book.blind)
        if self.conflicts:
            blind["overlapping slices", ""] = None
        for refs, op, module in self.book.unless_data:
            if self._over(refs) & spaces:
                blind[op, module] = None
        return tuple(blind)
