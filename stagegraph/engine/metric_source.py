"""Metric sources: where a simulation takes its metrics from.

A CSV file with a ``step`` column, a file of JSON lines with a ``step`` key, a run's journal, or
formulas: callables of the step, or strings in the grammar of guards, such as ``2 + 300 / (step +
100)``.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stagegraph.engine.attributions import Attribution
from stagegraph.engine.conforming import check_conforms
from stagegraph.engine.values import SlotTable, compile_number
from stagegraph.errors import Defect, DocumentError, MissingFact, did_you_mean
from stagegraph.schema.guard_text import GuardTextError, parse_expression
from stagegraph.schema.stagegraph import Metric

__all__ = ["Formula", "MetricSource", "open_source"]

Formula = Callable[[int], float] | str | float
"""A metric as a function of the step."""


@dataclass(slots=True)
class MetricSource:
    """Metrics of a simulation.

    Attributes:
        rows: Per step the values logged there, in order. Of a journal: per boundary.
        formulas: Metrics that are computed.
        by_boundary: Whether rows go by updates ever made (a journal) or by the clock (a file).
        late: Of a journal: per boundary the values that came after it was decided.
        facts: Of a journal: per boundary what was known of the model.
        attributions: Of a journal: per boundary what was measured of the modules' contributions.
        events: Of a journal: per boundary the events sent from outside.
        commands: Of a journal: its records of commands.
        end: Of a journal: its last boundary.
        last: Where the file ends.
    """

    rows: dict[int, dict[str, float]] = field(default_factory=dict)
    formulas: dict[str, Callable[[int], float]] = field(default_factory=dict)
    by_boundary: bool = False
    late: dict[int, dict[str, float]] = field(default_factory=dict)
    facts: dict[int, dict[str, Any]] = field(default_factory=dict)
    attributions: dict[int, tuple[Attribution, ...]] = field(default_factory=dict)
    events: dict[int, list[str]] = field(default_factory=dict)
    commands: list[Mapping[str, Any]] = field(default_factory=list)
    end: int = 0

    @property
    def last(self) -> int | None:
        """The last row's step, or boundary; ``None`` if there is no file."""
        if self.formulas:
            return None
        return self.end or max((*self.rows, *self.late), default=None)

    def at(self, step: int, boundary: int) -> dict[str, float]:
        """The values logged at a step."""
        return self.rows.get(boundary if self.by_boundary else step, {})

    def computed(self, step: int, names: Collection[str]) -> dict[str, float]:
        """The computed values of some metrics at a step."""
        return {name: float(self.formulas[name](step)) for name in names if name in self.formulas}


def open_source(
    metrics: str | Path | Mapping[str, Formula] | None,
    declared: Mapping[str, Metric],
    needed: Iterable[str],
) -> MetricSource:
    """Read a metric source and see that it has what the graph reads.

    Args:
        metrics: A file, formulas by metric, or ``None`` for none.
        declared: The graph's metrics.
        needed: Those that its guards read.

    Raises:
        DocumentError: The file cannot be read.
        MissingFact: A metric that the guards read is not in it.
    """
    names = {s: name for name, metric in declared.items() for s in (name, *metric.source)}
    if metrics is None:
        source, found = MetricSource(), set[str]()
    elif isinstance(metrics, Mapping):
        source = _formulas(metrics, names)
        found = set(metrics)
    else:
        path = Path(metrics)
        source, found = _read(path, names)
    present = {names[column] for column in found if column in names}
    missing = [name for name in needed if name not in present]
    if missing and not source.by_boundary:
        raise MissingFact(
            f"the graph reads {', '.join(map(repr, missing))}, and metrics= does not have it"
            f"{did_you_mean(missing[0], found) if found else ': it has none'}"
        )
    return source


def _formulas(metrics: Mapping[str, Formula], names: Mapping[str, str]) -> MetricSource:
    source = MetricSource()
    for given, formula in metrics.items():
        if given not in names:
            raise MissingFact(
                f"metrics= has {given!r}, which the graph does not declare"
                f"{did_you_mean(given, names)}"
            )
        source.formulas[names[given]] = _formula(given, formula)
    return source


def _formula(name: str, formula: Formula) -> Callable[[int], float]:
    if callable(formula):
        return formula
    if not isinstance(formula, str):
        constant = float(formula)
        return lambda step: constant
    try:
        tree = parse_expression(formula)
    except GuardTextError as error:
        raise MissingFact(f"the formula of {name!r}: {error}") from error
    table = SlotTable()
    value = compile_number(tree, table)
    others = [slot.name for slot in table.slots if slot.name != "step"]
    if others:
        raise MissingFact(
            f"the formula of {name!r} reads {others[0]!r}; only 'step' is known there"
        )
    return lambda step: value([float(step)])


def _read(path: Path, names: Mapping[str, str]) -> tuple[MetricSource, set[str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(str(path), [Defect(f"cannot be read: {error}")]) from error
    if path.suffix == ".csv":
        return _read_csv(path, text, names)
    return _read_lines(path, text, names)


def _read_csv(path: Path, text: str, names: Mapping[str, str]) -> tuple[MetricSource, set[str]]:
    reader = csv.DictReader(text.splitlines())
    try:
        columns, rows = set(reader.fieldnames or ()), list(reader)
    except csv.Error as error:
        raise DocumentError(str(path), [Defect(f"this is not CSV: {error}")]) from error
    if "step" not in columns:
        known = did_you_mean("step", columns)
        raise DocumentError(
            str(path), [Defect(f"there is no column 'step'{known}", line=1, column=1)]
        )
    source = MetricSource()
    for line, row in enumerate(rows, start=2):
        _add(source, path, line, row, names)
    return source, columns


def _add(
    source: MetricSource, path: Path, line: int, row: Mapping[str, Any], names: Mapping[str, str]
) -> None:
    try:
        step = int(float(row["step"]))
        check_conforms(step, int, place="step")
        values = {
            names[column]: float(value)
            for column, value in row.items()
            if column in names and value not in (None, "")
        }
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DocumentError(
            str(path),
            [Defect(f"this row is not a step with numbers: {error}", line=line, column=1)],
        ) from error
    if values:
        source.rows.setdefault(step, {}).update(values)


def _read_lines(path: Path, text: str, names: Mapping[str, str]) -> tuple[MetricSource, set[str]]:
    source, found = MetricSource(), set[str]()
    lines = text.split("\n")
    for line in _lines_that_count(lines):
        content = lines[line - 1]
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            if source.by_boundary and line == len(lines) and not text.endswith("\n"):
                break  # the last line of a journal, cut off by a crash
            raise DocumentError(
                str(path), [Defect(f"this line is not JSON: {error}", line=line, column=1)]
            ) from error
        if not isinstance(row, dict):
            raise DocumentError(
                str(path), [Defect("this line is no JSON object", line=line, column=1)]
            )
        if "type" in row and "boundary" in row:
            source.by_boundary = True
            _add_record(source, path, line, row, names)
        else:
            _add(source, path, line, row, names)
            found |= set(row)
    return source, found


def _lines_that_count(lines: list[str]) -> list[int]:
    """All of them, but in a journal: a resume follows the line it keeps, not the one above it."""
    numbers, number = list[int](), len(lines)
    while number:
        numbers.append(number)
        kept = _kept(lines[number - 1])
        number = kept if kept is not None and kept < number else number - 1
    return numbers[::-1]


def _kept(content: str) -> int | None:
    """How many lines before it a resume keeps; ``None`` if the line is no resume."""
    if '"resume"' not in content:
        return None
    try:
        row = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or row.get("type") != "resume":
        return None
    keep = row.get("keep")
    return keep if type(keep) is int and keep >= 0 else None


def _add_record(
    source: MetricSource, path: Path, line: int, row: Mapping[str, Any], names: Mapping[str, str]
) -> None:
    try:
        _take_record(source, row, names)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        message = f"this line is no record of a journal: {error!r}"
        raise DocumentError(str(path), [Defect(message, line=line, column=1)]) from error


def _take_record(source: MetricSource, row: Mapping[str, Any], names: Mapping[str, str]) -> None:
    boundary = row["boundary"]
    check_conforms(boundary, int, place="boundary")
    source.end = max(source.end, boundary)
    match row["type"]:
        case "metric" if row.get("name") in names:
            value = row.get("value")
            number = float(row.get("raw", "nan") if value is None else value)
            rows = source.late if row.get("late") else source.rows
            rows.setdefault(boundary, {})[names[row["name"]]] = number
        case "facts":
            check_conforms(row.get("params"), int | None, place="params")
            check_conforms(row.get("costs", {}), Mapping[str, int], place="costs")
            source.facts[boundary] = dict(row)
        case "attribution" if "contributions" in row:
            found = Attribution.from_record(row)
            check_conforms(found)
            if found.metric in names:
                source.attributions[boundary] = (*source.attributions.get(boundary, ()), found)
        case "event" if row.get("status") == "sent":
            before = int(row.get("seen_at", boundary + 1)) - 1
            source.events.setdefault(before, []).append(str(row["name"]))
        case "command":
            source.commands.append(row)
