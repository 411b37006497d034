"""Curves: many points as a line that is no finer than the page can show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stagegraph.drawing.axis import Axis
from stagegraph.drawing.history import Point
from stagegraph.drawing.markup import number

__all__ = ["curve_path", "runs_of", "thinned"]


def runs_of(points: Iterable[Point]) -> list[list[tuple[int, float]]]:
    """Points as unbroken stretches: a value that is no number, or a roll-back, makes a gap."""
    runs: list[list[tuple[int, float]]] = [[]]
    branch = None
    for point in points:
        if point.value is None or point.branch != branch:
            runs.append([])
        branch = point.branch
        if point.value is not None:
            runs[-1].append((point.step, point.value))
    return [run for run in runs if run]


def thinned(
    run: Sequence[tuple[int, float]], axis: Axis, *, finest: float = 1.0
) -> list[tuple[int, float]]:
    """The first, least, greatest and last point of every ``finest`` of the page's width."""
    if len(run) <= 600:
        return list(run)
    kept: list[tuple[int, float]] = []
    column: list[tuple[int, float]] = []
    at: int | None = None
    for point in run:
        here = int(axis.at(point[0]) / finest)
        if here != at and column:
            kept += _corners(column)
            column = []
        at = here
        column.append(point)
    return kept + _corners(column)


def _corners(column: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    least = min(range(len(column)), key=lambda index: column[index][1])
    greatest = max(range(len(column)), key=lambda index: column[index][1])
    return [column[index] for index in sorted({0, least, greatest, len(column) - 1})]


def curve_path(
    runs: Iterable[Sequence[tuple[int, float]]], x: Axis, y: Axis, *, stairs: bool = False
) -> str:
    """The path of a curve; with ``stairs`` a value holds until the next one."""
    parts: list[str] = []
    for run in runs:
        points = [(x.at(step), y.at(value)) for step, value in thinned(run, x)]
        parts.append(f"M{number(points[0][0])},{number(points[0][1])}")
        if len(points) == 1:
            parts.append("h0.01")
        for right, height in points[1:]:
            if stairs:
                parts.append(f"H{number(right)}V{number(height)}")
            else:
                parts.append(f"L{number(right)},{number(height)}")
    return "".join(parts)
