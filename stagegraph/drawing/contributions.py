"""Contributions: what each module contributed to a metric, as bars, the most helpful on top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stagegraph.drawing.clean import clip, shown
from stagegraph.drawing.history import History, Record, finite, mapping, sequence
from stagegraph.drawing.markup import Content, Markup, element
from stagegraph.drawing.palette import kind_class
from stagegraph.drawing.sheet import group, page, rectangle, text
from stagegraph.drawing.webpage import figure, section

__all__ = ["contributions", "contributions_svg"]

WIDTH = 960.0
LABELS = 280.0
"""Where the labels end and the room for the bars begins."""
VALUES = 128.0
"""Room beside the longest bars, on both sides, for their values."""
ROW = 29.0
BAR = 14.0
MOST_BARS = 60
MOST_CHARTS = 20

_GOOD, _BAD = kind_class("grow"), kind_class("interrupt")


@dataclass(frozen=True, slots=True)
class _Row:
    """One bar.

    Attributes:
        label: What it is called.
        remark: What is said beneath it.
        value: Its contribution; ``None`` if that is not known.
        together: Whether it is a whole growth, and not a module.
        worst: Whether it is the module that harms the most.
    """

    label: str
    remark: str
    value: float | None
    together: bool = False
    worst: bool = False


def contributions(history: History) -> Markup | None:
    """The section of a report with a chart per attribution, the newest first."""
    found = [record for record in history.records if record.get("type") == "attribution"]
    found = [record for record in found if sequence(record.get("contributions"))]
    if not found:
        return None
    words = (
        "How much worse each metric is without a module, measured with that module's gate closed: "
        "a bar to the right is a module that helps. Contributions do not add up."
    )
    parts: list[Content] = [element("p", words, attributes={"class": "soft"})]
    parts += [figure(contributions_svg(record)) for record in reversed(found[-MOST_CHARTS:])]
    if len(found) > MOST_CHARTS:
        more = f"{len(found) - MOST_CHARTS:,} earlier ones are in the journal."
        parts.append(element("p", more, attributes={"class": "soft"}))
    return section("Contributions", *parts)


def contributions_svg(record: Record) -> Markup:
    """Draw one attribution.

    Args:
        record: The journal's record of it.
    """
    rows = _rows(record)
    shown_rows = rows[:MOST_BARS]
    scale = max([abs(row.value) for row in shown_rows if row.value is not None], default=0.0)
    left, right = LABELS + VALUES, WIDTH - VALUES
    zero = _zero([row.value for row in shown_rows], left, right)
    longest = max(zero - left, right - zero)
    top = 56.0
    parts: list[Content] = [text(_title(record), 20, 26, "strong"), text(_under(record), 20, 43)]
    for index, row in enumerate(shown_rows):
        width = 0.0 if not scale or row.value is None else abs(row.value) / scale * longest
        parts.append(_bar(row, top + index * ROW, zero, width))
    bottom = top + len(shown_rows) * ROW
    line = f"M{zero:.2f},{top:.2f}V{bottom:.2f}"
    parts.append(element("path", attributes={"d": line, "class": "frame"}))
    notes = _notes(record, len(rows) - len(shown_rows))
    parts += [
        text(clip(note, 150), 20, bottom + 18 + 16 * index, "small soft")
        for index, note in enumerate(notes)
    ]
    height = bottom + 14 + 16 * len(notes)
    return page(parts, WIDTH, height, title=_title(record), description=_described(shown_rows))


def _rows(record: Record) -> list[_Row]:
    modules = [mapping(one) for one in sequence(record.get("contributions"))]
    rows = [
        _Row(
            label=shown(one.get("name", one.get("module"))),
            remark=_remark(one),
            value=finite(one.get("contribution")),
            worst=one.get("module") is not None and one.get("module") == record.get("worst"),
        )
        for one in modules
    ]
    rows += [
        _Row(
            label=shown(one.get("cohort")),
            remark=f"all {shown(one.get('modules'))} together",
            value=finite(one.get("contribution")),
            together=True,
        )
        for one in map(mapping, sequence(record.get("cohorts")))
    ]
    return rows


def _remark(one: Any) -> str:
    alpha = finite(one.get("alpha"))
    blended = "" if alpha is None or alpha == 1 else f", α {alpha:.3g}"
    return f"of {shown(one.get('cohort'))}{blended}"


def _zero(values: Sequence[float | None], left: float, right: float) -> float:
    """Where no contribution stands, so that the longest bar on each side ends at its side."""
    known = [value for value in values if value is not None]
    most, least = max([0.0, *known]), min([0.0, *known])
    span = most - least
    return left if span == 0 else left + (right - left) * (-least / span)


def _bar(row: _Row, y: float, zero: float, width: float) -> Markup:
    harms = row.value is not None and row.value < 0
    colour = _BAD if harms else _GOOD
    at = zero - width if harms else zero
    parts: list[Content] = [
        text(clip(row.label, 34), LABELS, y + 11, "strong" if row.worst else "", anchor="end"),
        text(clip(row.remark, 46), LABELS, y + 22, "tiny soft", anchor="end"),
    ]
    classes = "wash" if row.value is None else f"{'chip' if row.together else 'band'} {colour}"
    parts.append(rectangle(at, y + 5, max(width, 1.0), BAR, classes, corner=2))
    said = "unknown" if row.value is None else f"{row.value:+.4g}"
    if row.worst:
        said = f"worst {said}"
    beside = at - 6 if harms else zero + width + 6
    classes = f"small strong {_BAD}" if row.worst else "small soft"
    parts.append(text(said, beside, y + 16, classes, anchor="end" if harms else None))
    return group(parts, tooltip=f"{row.label}, {row.remark}: {said}", data_label=row.label)


def _title(record: Record) -> str:
    return f"{shown(record.get('metric'))} at step {shown(record.get('step'))}"


def _under(record: Record) -> str:
    number = finite(record.get("base"))
    base = "unknown" if number is None else f"{number:.5g}"
    return clip(f"{base} with all modules in place; {shown(record.get('goal'))}", 120)


def _notes(record: Record, left_out: int) -> list[str]:
    notes = [f"{left_out:,} more are in the journal"] if left_out > 0 else []
    left = map(mapping, sequence(record.get("not_separable"))[:8])
    return notes + [
        f"{shown(one.get('cohort'))} was not measured: {shown(one.get('why'))}" for one in left
    ]


def _described(rows: Sequence[_Row]) -> str:
    told = [
        f"{row.label} {'unknown' if row.value is None else f'{row.value:+.4g}'}" for row in rows
    ]
    return clip("; ".join(told) or "nothing was measured", 1000)
