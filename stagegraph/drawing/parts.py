"""Attributions and prunes in a few words."""

from __future__ import annotations

from stagegraph.drawing.clean import shown
from stagegraph.drawing.history import Record, finite, mapping, sequence
from stagegraph.drawing.wording import rough_number

__all__ = ["attributed", "pruned"]


def attributed(record: Record) -> str:
    """What an attribution has found: how many modules, and the best and the worst of them."""
    ranked = [mapping(one) for one in sequence(record.get("contributions"))]
    known = [one for one in ranked if finite(one.get("contribution")) is not None]
    if not known:
        return f"{len(ranked)} modules, none of known contribution"
    words = [f"{len(ranked)} module{'s' if len(ranked) != 1 else ''}", f"best {_told(known[0])}"]
    words += [f"worst {_told(known[-1])}"] if len(known) > 1 else []
    return ", ".join(words)


def _told(one: Record) -> str:
    value = finite(one.get("contribution"))
    name = shown(one.get("name", one.get("module")))
    return f"{name} {'unknown' if value is None else f'{value:+.4g}'}"


def pruned(record: Record) -> str:
    """What a prune took out, and what that did."""
    names = ", ".join(map(shown, sequence(record.get("names")))) or "unknown modules"
    counts = mapping(record.get("params"))
    before, after = finite(counts.get("before")), finite(counts.get("after"))
    told = (
        ""
        if before is None or after is None
        else (f", {rough_number(before)} → {rough_number(after)} params")
    )
    known = record.get("exactness") is not None
    return f"{names} taken out{told}" + (f", {shown(record.get('exactness'))}" if known else "")
