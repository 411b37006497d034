"""The tables of a report: moves with their evidence, growths, and all that stood in the way."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from stagegraph.drawing.certificates import read_certificate
from stagegraph.drawing.clean import clip, shown
from stagegraph.drawing.history import History, Move, Record, mapping, sequence
from stagegraph.drawing.markup import Content, Markup, element, joined
from stagegraph.drawing.parts import attributed, pruned
from stagegraph.drawing.trace import trace_html
from stagegraph.drawing.trying import trial_words
from stagegraph.drawing.webpage import folded, section, table

__all__ = ["certificates", "happenings", "transitions", "unknown_records"]

_LOOKING = frozenset(
    ("attribution", "prune", "trial", "curriculum", "baseline", "reference", "decay")
)
_EVERYWHERE = ("type", "step", "boundary", "progress", "place", "time")

MOST_ROWS = 500
LONGEST = 400

_KNOWN = frozenset(
    (
        *("run", "move", "growth", "facts", "metric", "vitals", "verdict", "blocked", "unblocked"),
        *("event", "command", "error", "roll_back", "reading", "end", "missing", "clock"),
        *("baseline", "reference", "decay", "trial", "curriculum", "data"),
        *("attribution", "prune", "saved"),
    )
)


def transitions(history: History) -> Markup:
    """Every move: when, from where to where, and what its guard saw."""
    if not history.moves:
        return _none("No region has moved yet.")
    moves = history.moves[:MOST_ROWS]
    rows = [_move_row(move) for move in moves]
    undone = [index for index, move in enumerate(moves) if move.abandoned]
    heads = ["Step", "Region", "Way", "Kind", "Why", "Done"]
    return joined([table(heads, rows, undone=undone), _more(len(history.moves))])


def _move_row(move: Move) -> Sequence[Content]:
    record = move.record
    source = _stage(move.source, move.region) if move.source else "(start)"
    way = " → ".join([source, *(_stage(k, move.region) for k in (*move.via, move.target))])
    visit = record.get("visit")
    remarks = [f"visit {visit}" if isinstance(visit, int) and visit else "", move.edge or ""]
    if move.abandoned:
        remarks.append("undone by a roll-back")
    under = element("div", " · ".join(filter(None, remarks)), attributes={"class": "soft"})
    guard, evidence = record.get("guard"), record.get("evidence")
    why: Content = element("code", shown(guard)) if guard is not None else ""
    if evidence is not None:
        why = folded(why or "evidence", trace_html(evidence))
    actions = mapping(record.get("actions"))
    done = folded(_number_of(actions), _pairs(actions)) if actions else ""
    return [f"{move.step:,}", move.region, joined([way, under]), move.kind, why, done]


def _number_of(actions: Mapping[str, Any]) -> str:
    return f"{len(actions)} action{'s' if len(actions) != 1 else ''}"


def _stage(key: str, region: str) -> str:
    return key.removeprefix(f"{region}:")


def certificates(history: History) -> Markup:
    """Every growth with its certificate."""
    if not history.growths:
        return _none("Nothing has grown.")
    heads = ["Step", "Where", "Cohort", "Parameters", "Change", "Exactness", "New blocks", "All"]
    rows: list[Sequence[Content]] = []
    undone = []
    for index, (record, point) in enumerate(history.growths[:MOST_ROWS]):
        certificate = read_certificate(record.get("certificate"))
        if history.abandoned(point):
            undone.append(index)
        checks = element("div", ", ".join(certificate.checks), attributes={"class": "soft"})
        changes = ", ".join(f"{mode} {change}" for mode, change in certificate.changes)
        rows.append(
            [
                f"{point.step:,}",
                shown(record.get("place")),
                shown(record.get("cohort")) + (" (undone)" if index in undone else ""),
                f"{_count(certificate.before)} → {_count(certificate.after)}",
                changes or "unknown",
                certificate.exactness,
                joined([certificate.blocks, checks]),
                folded("certificate", _pairs(mapping(record.get("certificate")))),
            ]
        )
    return joined([table(heads, rows, undone=undone), _more(len(history.growths))])


def _count(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def happenings(history: History) -> Markup:
    """Roll-backs, errors, blocks, verdicts, events and commands, in order."""
    kinds = (
        *("roll_back", "error", "blocked", "unblocked", "verdict", "event", "command"),
        *("missing", "clock", "baseline", "reference", "decay", "trial", "curriculum"),
        *("missing", "clock", "attribution", "prune", "saved"),
    )
    found = [record for record in history.records if record.get("type") in kinds]
    if not found:
        return _none("Nothing stood in the way.")
    rows = [
        [_step(record), shown(record.get("type")).replace("_", " "), *_told(record)]
        for record in found[:MOST_ROWS]
    ]
    return joined([table(["Step", "What", "Where", "Told"], rows), _more(len(found))])


def _step(record: Record) -> str:
    step = record.get("step")
    return f"{step:,}" if isinstance(step, int) else shown(step)


def _told(record: Record) -> tuple[Content, Content]:
    match record.get("type"):
        case "roll_back":
            return shown(record.get("snapshot")), _return(record)
        case "error":
            attempt = record.get("attempt")
            words = shown(record.get("reason")) + (
                f" (attempt {shown(attempt)})" if attempt else ""
            )
            return f"{shown(record.get('edge'))}, {shown(record.get('action'))}", words
        case "blocked" | "unblocked":
            return shown(record.get("edge")), shown(record.get("reason", ""))
        case "verdict":
            words = element("code", shown(record.get("guard")))
            told = joined([f"{shown(record.get('verdict'))} ", words])
            evidence = mapping(record.get("evidence"))
            return shown(record.get("scope")).removesuffix(":"), (
                folded(told, _pairs(evidence)) if evidence else told
            )
        case "command":
            words = f"{shown(record.get('name'))} {shown(record.get('argument') or '')}".strip()
            text = record.get("reason") if record.get("told") is None else record.get("told")
            by = shown(record.get("author") or "somebody")
            return words, f"{shown(record.get('status'))}, by {by}: {shown(text)}"
        case "missing":
            asked, waited = shown(record.get("asked")), shown(record.get("waited"))
            edges = ", ".join(shown(edge) for edge in sequence(record.get("edges")))
            words = f"asked for {asked} times, over {waited}, and has not come; {edges} waits"
            return shown(record.get("name")), words
        case "saved":
            size = f"of step {shown(record.get('of_step'))}, {shown(record.get('bytes'))} bytes"
            return shown(record.get("name")), f"{shown(record.get('path'))}: {size}"
        case "clock":
            seconds, updates = shown(record.get("seconds")), shown(record.get("updates"))
            usual = shown(record.get("usual"))
            return "", f"{seconds} s passed with {updates} updates; usual are {usual} s"
        case kind if kind in _LOOKING:
            return _told_of_looking(record)
        case _:
            by = f", by {shown(record.get('author'))}" if record.get("author") else ""
            return shown(record.get("name")), shown(record.get("status")) + by


def _told_of_looking(record: Record) -> tuple[Content, Content]:
    """What is tried and measured, what detectors compare with, what bends their curves."""
    match record.get("type"):
        case "attribution":
            return shown(record.get("metric")), attributed(record)
        case "prune":
            found = {k: record.get(k) for k in ("alphas", "change", "exactness", "params")}
            return shown(record.get("place")), folded(pruned(record), _pairs(found))
        case "trial":
            return shown(record.get("stage")), trial_words(record)
        case "curriculum":
            known = {k: v for k, v in record.items() if k not in _EVERYWHERE}
            return shown(record.get("place", "")), _pairs(known)
        case "baseline":
            return shown(record.get("name")), _pairs(mapping(record.get("metrics")))
        case "reference":
            why = ", ".join(shown(cause) for cause in sequence(record.get("because")))
            who = ", ".join(shown(key) for key in sequence(record.get("restarted")))
            moving = ", ".join(shown(place) for place in sequence(record.get("until_end_of")))
            return who, f"a new reference: {why}" + (f"; until the end of {moving}" * bool(moving))
    return shown(record.get("guard")), shown(record.get("told"))


def _return(record: Record) -> str:
    """Where a roll-back led, and what it said would differ."""
    place = "boundary" if isinstance(record.get("to"), str) else "to"
    differs = [
        f"{key.replace('_', ' ')}: {shown(record[key])}"
        for key in ("rewind_data", "lr_factor", "fork")
        if record.get(key) is not None
    ]
    return "; ".join([f"back to step {shown(record.get(place))}", *differs])


def unknown_records(history: History) -> Markup | None:
    """Records of types that came in later, as they are."""
    found = [record for record in history.records if record.get("type") not in _KNOWN]
    if not found:
        return None
    rows: list[Sequence[Content]] = [
        [_step(record), shown(record.get("type")), element("code", _json(record))]
        for record in found[:MOST_ROWS]
    ]
    return section("Other records", table(["Step", "Type", "Record"], rows), _more(len(found)))


def _pairs(values: Mapping[str, Any]) -> Markup:
    return element(
        "ul",
        *(element("li", element("code", key), " ", _plain(value)) for key, value in values.items()),
    )


def _plain(value: Any) -> str:
    return _json(value) if isinstance(value, Mapping | list | tuple) else shown(value)


def _json(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError, TypeError):
        text = "a value that cannot be shown"
    return clip(text, LONGEST)


def _none(words: str) -> Markup:
    return element("p", words, attributes={"class": "soft"})


def _more(total: int) -> Markup | None:
    return _none(f"{total - MOST_ROWS:,} more are in the journal.") if total > MOST_ROWS else None
