"""Terminal: a run as lines of text, while it goes on and afterwards.

Whatever comes from documents and records is shown, never obeyed: its escape sequences are written
out. Colour is used only where it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stagegraph.drawing.certificates import read_certificate
from stagegraph.drawing.clean import cells, clip, for_terminal, shown
from stagegraph.drawing.history import Record, finite, mapping, read_history, sequence
from stagegraph.drawing.parts import attributed, pruned
from stagegraph.drawing.summing import FINISHED, outcome_of
from stagegraph.drawing.trace import trace_lines
from stagegraph.drawing.trying import trial_words
from stagegraph.drawing.wording import exact_number, rough_number, span_words
from stagegraph.schema.stagegraph import StageGraph

__all__ = ["ended", "moved", "status_line", "summary"]

_COLOURS = {"bold": "1", "faint": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34"}


def status_line(status: Mapping[str, Any], width: int, *, colour: bool = False) -> str:
    """Where a run is, in one line; what does not fit is left out, the least important first.

    Args:
        status: ``stages`` {region: stage}, ``step``, ``of`` (the budget of steps or ``None``),
            ``metrics`` {name: value}, ``lr``, ``params``, ``waits`` (what the engine waits for),
            ``seconds``; any of them may be missing.
        width: Columns of the terminal.
        colour: Whether to use colours.
    """
    pieces = [(rank, piece, paint) for rank, piece, paint in _pieces(status) if piece]
    while len(pieces) > 1 and sum(cells(piece) + 2 for _, piece, _ in pieces) - 2 > width:
        pieces.remove(max(pieces, key=lambda piece: piece[0]))
    if len(pieces) == 1:
        pieces = [(0, clip(pieces[0][1], width), pieces[0][2])]
    return "  ".join(_painted(piece, paint, colour=colour) for _, piece, paint in pieces)


def _pieces(status: Mapping[str, Any]) -> Iterator[tuple[int, str, str]]:
    """Every piece with its rank, 0 for what must stay, and its colour."""
    yield 0, _stages(status), "bold"
    step, of = finite(status.get("step")), finite(status.get("of"))
    if step is not None:
        limit = f"/{exact_number(of)} {100 * step / of:.0f}%" if of else ""
        yield 1, f"step {int(step):,}{limit}", ""
    for index, (name, value) in enumerate(mapping(status.get("metrics")).items()):
        number = finite(value)
        words = shown(value) if number is None else rough_number(number)
        yield 2 + 3 * min(index, 3), for_terminal(f"{name} {words}"), "green" if number else "red"
    waits = [for_terminal(wait) for wait in sequence(status.get("waits"))]
    if waits:
        more = f" and {len(waits) - 1} more" if len(waits) > 1 else ""
        yield 3, f"waits for {waits[0]}{more}", "yellow"
    alphas = [finite(value) for value in mapping(status.get("alphas")).values()]
    rising = [alpha for alpha in alphas if alpha is not None and alpha < 1]
    if rising:
        yield 5, f"α {min(rising):.2f}", ""
    rate, params = finite(status.get("lr")), finite(status.get("params"))
    if rate is not None:
        yield 4, f"lr {rate:.3g}", ""
    if params is not None:
        yield 6, f"{rough_number(params)} params", ""
    seconds = finite(status.get("seconds"))
    if seconds is not None:
        yield 7, span_words(seconds), "faint"


def _stages(status: Mapping[str, Any]) -> str:
    stages = mapping(status.get("stages"))
    if not stages:
        return "no stage yet"
    names = {region: shown(key).removeprefix(f"{region}:") for region, key in stages.items()}
    if list(names) == ["main"]:
        return for_terminal(names["main"])
    return for_terminal(" ".join(f"{region}:{name}" for region, name in names.items()))


def moved(record: Record, *, colour: bool = False) -> str:
    """A transition with what its guard saw, in a few lines; another happening in one."""
    if record.get("type") == "end":
        return ended(record, colour=colour)
    if record.get("type", "move") != "move":
        return _happened(record, colour=colour)
    region = shown(record.get("region"))
    stations = [
        record.get("source") or "(start)",
        *sequence(record.get("via")),
        record.get("target"),
    ]
    way = " → ".join(shown(station).removeprefix(f"{region}:") for station in stations)
    kind = shown(record.get("kind"))
    visit = record.get("visit")
    facts = [kind, *([f"visit {visit}"] if isinstance(visit, int) and visit else [])]
    edge = record.get("edge")
    if kind == "interrupt" and edge is not None:
        facts[0] = f"interrupt {shown(edge).rpartition('.')[2]}"
    elif kind == "force":
        facts[0] = f"forced by {shown(record.get('author') or 'somebody')}"
    paint = {"interrupt": "red", "fallback": "red"}.get(kind, "blue")
    place = for_terminal(f"{region}: {way}")
    first = f"{_at(record)}  {_painted(place, paint, colour=colour)}  "
    lines = [first + for_terminal(f"({', '.join(facts)})")]
    evidence, guard = record.get("evidence"), record.get("guard")
    if evidence is not None:
        lines += [f"    {line}" for line in trace_lines(evidence)]
    elif guard is not None:
        lines.append(f"    {for_terminal(guard)}")
    for action in mapping(record.get("actions")):
        lines.append(f"    + {for_terminal(action)}")
    return "\n".join(lines)


def _happened(record: Record, *, colour: bool) -> str:
    """A growth, roll-back, error, block or whatever else, in one line."""
    kind = shown(record.get("type"))
    paint = {
        "error": "red",
        "roll_back": "red",
        "blocked": "yellow",
        "growth": "green",
        "trial": "green",
    }
    paint["prune"] = "red"
    paint["command"] = "red" if record.get("status") == "refused" else "yellow"
    match kind:
        case "growth":
            told = _grown(record)
        case "roll_back":
            to, boundary = record.get("to"), record.get("boundary")
            place = f"{shown(to)}, step {shown(boundary)}" if isinstance(to, str) else shown(to)
            told = f"to {place}" if isinstance(to, str) else f"to step {place}"
        case "error":
            told = f"{shown(record.get('action'))}: {shown(record.get('reason'))}"
            told += f" (attempt {shown(record.get('attempt'))})" if record.get("attempt") else ""
        case "command":
            told = _commanded(record)
        case "trial":
            told = f"{shown(record.get('stage'))} {trial_words(record)}"
        case "decay":
            told = f"{shown(record.get('guard'))}: {shown(record.get('told'))}"
        case "attribution":
            told = f"{shown(record.get('metric'))}: {attributed(record)}"
        case "prune":
            told = pruned(record)
        case _:
            told = shown(record.get("edge") or record.get("name"))
            told += f": {shown(record['reason'])}" if record.get("reason") is not None else ""
    name = _painted(for_terminal(kind.replace("_", " ")), paint.get(kind, "faint"), colour=colour)
    return f"{_at(record)}  {name}  {for_terminal(told)}"


def _commanded(record: Record) -> str:
    words = f"{shown(record.get('name'))} {shown(record.get('argument') or '')}".strip()
    text = record.get("told") if record.get("reason") is None else record.get("reason")
    by = shown(record.get("author") or "somebody")
    return f"{words}, by {by}: {shown(record.get('status'))}: {shown(text)}"


def _grown(record: Record) -> str:
    certificate = read_certificate(record.get("certificate"))
    told = shown(record.get("cohort"))
    if certificate.before is not None and certificate.after is not None:
        before, after = rough_number(certificate.before), rough_number(certificate.after)
        told += f", {before} → {after} params"
    known = "exactness" in mapping(record.get("certificate"))
    return told + (f", {certificate.exactness}" if known else "")


def ended(record: Record, *, colour: bool = False) -> str:
    """The end of a run, in one line."""
    reason = for_terminal(record.get("reason"))
    good = shown(record.get("reason")) in FINISHED
    stages = _stages(record) if mapping(record.get("stages")) else ""
    state = _painted(f"ended: {reason}", "green" if good else "yellow", colour=colour)
    return f"{_at(record)}  {state}" + (f"  in {stages}" if stages else "")


def _at(record: Record) -> str:
    step = finite(record.get("step"))
    return "step ?" if step is None else f"step {int(step):,}"


def summary(
    records: Iterable[Record], *, graph: StageGraph | None = None, colour: bool = False
) -> str:
    """What a run came to, in a few lines.

    Args:
        records: The run's journal.
        graph: The document, to know which way a metric is better.
        colour: Whether to use colours.
    """
    history = read_history(records)
    outcome = outcome_of(history)
    name = for_terminal(history.run.get("graph", "a run"))
    paint = "green" if outcome.finished else "yellow" if outcome.running else "red"
    state = _painted(for_terminal(outcome.state), paint, colour=colour)
    wasted = f" and {outcome.wasted:,} undone" if outcome.wasted else ""
    lines = [
        f"{_painted(name, 'bold', colour=colour)}: {state}",
        f"  steps      {outcome.steps:,}{wasted}",
        f"  stages     {for_terminal(outcome.stages or 'none yet')}",
    ]
    first, last = outcome.params
    if first is not None and last is not None:
        lines.append(f"  params     {rough_number(first)} → {rough_number(last)}")
    for metric, end, best in outcome.metrics(graph):
        word = "best" if graph is not None and metric in graph.metrics else "least"
        values = f"last {rough_number(end)}, {word} {rough_number(best)}"
        lines.append(f"  {for_terminal(metric):<10} {values}")
    saved = [shown(r.get("name")) for r in history.records if r.get("type") == "saved"]
    if saved:
        lines.append(f"  saved      {for_terminal(', '.join(saved))}")
    undone = f" ({outcome.undone} more undone)" if outcome.undone else ""
    lines.append(
        f"  moves      {outcome.moves}, growths {outcome.growths}{undone}, "
        f"roll-backs {outcome.returns}, errors {outcome.errors}"
    )
    for key, count in history.visits().items():
        steps = history.steps_in()[key]
        spent = f", {exact_number(steps)} steps" if steps else ""
        lines.append(f"    {for_terminal(key):<24} {count}×{spent}")
    return "\n".join(lines)


def _painted(words: str, paint: str, *, colour: bool) -> str:
    return f"\x1b[{_COLOURS[paint]}m{words}\x1b[0m" if colour and paint else words
