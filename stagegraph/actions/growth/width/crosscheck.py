"""Cross-check: what was declared of a model's spaces against what the model was seen to do.

The declaration is what counts; a trace of one run says where it must be incomplete: an axis that is
tied to what grows and is not named, or one that reads where it is said to write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from stagegraph.actions.growth.operation import Site
from stagegraph.actions.growth.width.bindings import Bounds, BoundTensor
from stagegraph.actions.growth.width.traced import Traced, TracedAxis, TracedFactor
from stagegraph.actions.growth.width.tracing.reading import trace
from stagegraph.errors import UnsupportedError
from stagegraph.schema.spaces import AxisFactor

__all__ = ["cross_check"]


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A factor of an axis by where it lies in it: between two products of sizes from the left."""

    start: int
    stop: int

    def overlaps(self, other: _Stretch) -> bool:
        return self.start < other.stop and other.start < self.stop


def cross_check(site: Site, bounds: Bounds, spaces: Mapping[str, int]) -> dict[str, Any]:
    """Compare the layouts of spaces that are to grow with a trace of the model.

    Args:
        site: The model; without a probe nothing can be said.
        bounds: What is declared.
        spaces: The spaces that grow.

    Returns:
        What the trace could not see, for the certificate.

    Raises:
        UnsupportedError: Axes that are tied to these spaces and not declared, or declared wrongly;
            all of them are named.
    """
    if site.probe is None or not site.spaces.trace:
        return {"trace": "not asked for"}
    traced = trace(site.model, site.probe)
    declared = {alias: bound for bound in bounds.tensors for alias in bound.aliases}
    problems: list[str] = []
    for space in spaces:
        ids = _ids(traced, declared, bounds, space)
        problems += _missing(traced, declared, bounds, space, ids, frozenset(spaces))
        problems += _wrong_roles(traced, declared, space)
    if problems:
        raise UnsupportedError(
            f"{bounds.place}: {'; '.join(dict.fromkeys(problems))} (seen by running the model; if "
            "you know better, write trace: false under spaces:)"
        )
    return {"trace": {"blind": sorted({f"{op} in {where or '.'}" for op, where in traced.blind})}}


def _declared(
    bound: BoundTensor, bounds: Bounds, dim: int
) -> list[tuple[_Stretch, AxisFactor]] | None:
    """The factors of a declared axis; ``None`` for a concatenation."""
    binding = bounds.binding(bound, {})
    if len(bound.layout[dim]) != 1:
        return None
    sizes = [factor.size for factor in binding.axes[dim][0]]
    return list(zip(_stretches(sizes), bound.layout[dim][0], strict=True))


def _traced(axis: TracedAxis) -> list[tuple[_Stretch, TracedFactor]]:
    stretches = _stretches([factor.size for factor in axis.factors])
    return list(zip(stretches, axis.factors, strict=True))


def _stretches(sizes: list[int]) -> list[_Stretch]:
    """Where factors lie, told from the right, so that equal layouts give equal numbers."""
    return [_Stretch(prod(sizes[place + 1 :]), prod(sizes[place:])) for place in range(len(sizes))]


def _pairs(
    traced: Traced, name: str, bound: BoundTensor, bounds: Bounds
) -> Iterator[tuple[int, AxisFactor, TracedFactor]]:
    """Each declared factor of a tensor with each traced one that it shares entries with."""
    for dim, axis in enumerate(traced.axes.get(name, ())):
        factors = _declared(bound, bounds, dim)
        if factors is None or axis.parts:
            continue
        for stretch, factor in factors:
            for other, seen in _traced(axis):
                if stretch.overlaps(other) and other.stop > other.start:
                    yield dim, factor, seen


def _ids(
    traced: Traced, declared: Mapping[str, BoundTensor], bounds: Bounds, space: str
) -> set[str]:
    """The traced spaces that a declared one stands for: one per layer, or finer ones."""
    return {
        seen.space
        for name, bound in declared.items()
        for _, factor, seen in _pairs(traced, name, bound, bounds)
        if factor.space == space and seen.space is not None
    }


def _missing(
    traced: Traced,
    declared: Mapping[str, BoundTensor],
    bounds: Bounds,
    space: str,
    ids: set[str],
    growing: frozenset[str],
) -> Iterator[str]:
    """Axes that are tied to what grows and are not declared to grow with it."""
    covered = {
        (name, dim, seen.space)
        for name, bound in declared.items()
        for dim, factor, seen in _pairs(traced, name, bound, bounds)
        if factor.space in growing
    }
    for name, axes in traced.axes.items():
        for dim, axis in enumerate(axes):
            if axis.parts or (name in declared and _declared(declared[name], bounds, dim) is None):
                continue
            tied = {f.space for f in axis.factors if f.space in ids}
            if tied and not any((name, dim, one) in covered for one in tied):
                yield (
                    f"axis {dim} of {name!r} is tied to the space {space!r} and is not declared: "
                    "name it in a layout under spaces: tensors:"
                )


def _wrong_roles(traced: Traced, declared: Mapping[str, BoundTensor], space: str) -> Iterator[str]:
    for name, bound in declared.items():
        if len(bound.aliases) > 1:
            continue
        for dim, axis in enumerate(bound.layout):
            if len(axis) != 1 or name not in traced.axes:
                continue
            said = {f.role for f in axis[0] if f.space == space}
            seen = {role for f in traced.axes[name][dim].factors for role in f.roles}
            if said == {"out"} and seen == {"in"}:
                yield f"axis {dim} of {name!r} reads the space {space!r}: write '{space}:in'"
            if said == {"in"} and seen == {"out"}:
                yield f"axis {dim} of {name!r} writes the space {space!r}: write '{space}:out'"
