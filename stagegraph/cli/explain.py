"""``stagegraph explain RUN``: why each transition of a run was taken, and what it waits for now."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stagegraph.cli.output import say, say_json
from stagegraph.drawing.clean import for_terminal
from stagegraph.drawing.trying import trial_words
from stagegraph.engine.explain import trace_lines
from stagegraph.runs.folder import RunFolder

__all__ = ["add_arguments", "run"]

KINDS = (
    *("move", "blocked", "unblocked", "error", "roll_back", "command", "end"),
    *("reference", "decay", "baseline", "trial", "saved"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run's folder")
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="how to write it"
    )


def run(arguments: argparse.Namespace) -> int:
    """Tell a run's transitions with the values that their guards saw."""
    records = [r for r in RunFolder(arguments.run).records() if r["type"] in KINDS]
    if arguments.format == "json":
        say_json(records)
        return 0
    for line in _lines(records):
        say(for_terminal(line))
    return 0


def _lines(records: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    for record in records:
        step = f"step {record.get('step', 0):,}"
        match record["type"]:
            case "move":
                way = " -> ".join(
                    str(key) for key in (record["source"], *record["via"], record["target"]) if key
                )
                yield f"{step}: {way}  ({_why(record)})"
                if record.get("evidence"):
                    yield from trace_lines(record["evidence"], "    ")
            case "blocked" | "unblocked":
                held = "is held back" if "reason" in record else "is not held back any more"
                why = f": {record['reason']}" if "reason" in record else ""
                yield f"{step}: {record['edge']} {held}{why}"
            case "error":
                yield f"{step}: {record['action']} failed: {record['reason']}"
            case "roll_back":
                yield f"{step}: back to step {record['to']:,} ({record['snapshot']})"
            case "reference" | "decay" | "baseline" | "trial" | "saved":
                yield f"{step}: {_noted(record)}"
            case "command":
                yield f"{step}: {_command(record)}"
            case "end":
                by = f" by {record['author']}" if record.get("author") else ""
                spent = record.get("because") if record["reason"] == "budget" else None
                yield f"{step}: the end ({spent or record['reason']}{by})"


def _why(move: Mapping[str, Any]) -> str:
    """What a move followed."""
    if move.get("kind") == "force":
        return f"forced by {move.get('author') or 'somebody'}"
    if move["edge"] is None and move.get("source") is not None:
        return "the trial goes on"
    return move["edge"] or "the beginning"


def _noted(record: Mapping[str, Any]) -> str:
    """What detectors compare with, what bends the curves that they look at, and what is kept."""
    match record["type"]:
        case "trial":
            return f"{record['stage']} {trial_words(record)}"
        case "saved":
            model = f"the model of step {record['of_step']:,} is saved as {record['name']!r}"
            return f"{model} in {record['path']}"
        case "reference":
            why, who = ", ".join(record["because"]), ", ".join(record["restarted"])
            return f"a new reference for {who}: {why}"
        case "decay":
            return f"{record['guard']}: {record['told']}"
    return f"the metrics are remembered as {record['name']!r}"


def _command(record: Mapping[str, Any]) -> str:
    words = f"{record.get('name')} {record.get('argument') or ''}".strip()
    text = record.get("reason") or record.get("told")
    return f"{words}, by {record.get('author') or 'somebody'}: {record.get('status')}: {text}"
