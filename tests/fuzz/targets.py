"""What is fuzzed: everything that reads what somebody else may have written.

A target takes bytes, text or JSON data and does with it what the library would. Nothing but the
library's own errors may come out, soon, and in little memory. A new reader is one more line in
:data:`TARGETS`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import stagegraph as sg
from stagegraph.actions.keeping.tensor_files import read_tensors
from stagegraph.actions.lineage import Lineage
from stagegraph.engine.state import State
from stagegraph.errors import StageGraphError
from stagegraph.runs.inbox import Inbox
from stagegraph.runs.journal import read_journal
from stagegraph.runs.status import read_status
from stagegraph.runs.store import CheckpointStore
from stagegraph.schema.dump import digest
from stagegraph.schema.guard_text import (
    GuardTextError,
    format_guard,
    parse_expression,
    parse_guard,
)
from tests.engine.driving import Run
from tests.fuzz.seeds import STATE_GRAPH, checkpoint_files, seeds_of
from tests.session.training import EVERY_STAGE, Training

__all__ = ["TARGETS", "Target"]

Kind = Literal["text", "json", "bytes"]


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        name: Its name.
        kind: What it takes: text, JSON data, or bytes.
        read: Does with it what the library would.
        own: The errors that may come out.
        examples: How many inputs the default run tries.
    """

    name: str
    kind: Kind
    read: Callable[[Any], object]
    own: tuple[type[Exception], ...] = (StageGraphError,)
    examples: int = 50

    @property
    def seeds(self) -> tuple[Any, ...]:
        """Inputs that are right, to be spoilt."""
        return seeds_of(self.name)


def _load(text: str) -> object:
    """A document as text: YAML or JSON, as it begins."""
    return sg.load(text if "\n" in text else text + "\n")


def _load_data(data: Any) -> object:
    """A document as plain data, as a program would hand it in."""
    return sg.load(data if isinstance(data, dict) else json.dumps(data) + "\n")


def _check(text: str) -> object:
    """A document, and all that is said and drawn of it before a run."""
    graph = sg.load(text + "\n")
    sg.check(graph)
    assert sg.load(sg.dump(graph, "json")) == graph
    return graph


def _guard(text: str) -> object:
    tree = parse_guard(text)
    assert parse_guard(format_guard(tree)) == tree
    return tree


def _expression(text: str) -> object:
    return parse_expression(text)


def _journal(content: bytes) -> object:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        path.write_bytes(content)
        return read_journal(path)


def _history(content: bytes) -> object:
    """A journal that could be read is looked at: report, summary."""
    from stagegraph.drawing.report import report_html
    from stagegraph.drawing.terminal import summary

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        path.write_bytes(content)
        records = read_journal(path)
    graph = _state_graph()
    return report_html(graph, records), summary(records, graph=graph)


def _metrics(content: bytes) -> object:
    """A journal, or a file of JSON lines or of commas, as the metrics of a simulation."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("m.csv" if content[:1] != b"{" else "m.jsonl")
        path.write_bytes(content)
        return sg.simulate(_state_graph(), metrics=path, params=100, costs={"grow": 1}, max_steps=9)


@cache
def _state_graph() -> sg.StageGraph:
    return sg.load(STATE_GRAPH)


def _state(data: Any) -> object:
    graph = _state_graph()
    return State.from_json(data, digest(graph))


def _core(data: Any) -> object:
    """A saved state is loaded, and the run goes on a little."""
    run = Run(STATE_GRAPH_DICT, params=1000, costs={"main:grow": 10})
    run.core.load_state_dict(data)
    run.core.explain()
    for value in (1.0, float("nan"), 0.5, 3.0):
        run.core.step(samples=3, epoch=run.core.meter.reading, val_loss=value)
        if run.core.wants_evaluation:
            run.core.observe(val_loss=value)
    run.core.waits()
    return json.dumps(run.core.state_dict(), allow_nan=False)


STATE_GRAPH_DICT: dict[str, Any] = json.loads(sg.dump(sg.load(STATE_GRAPH), "json"))


def _lineage(data: Any) -> object:
    lineage = Lineage.from_json(data)
    lineage.stable("blocks.1.weight")
    lineage.today("blocks.1.weight")
    lineage.added_names(lineage.changes)
    return json.dumps(lineage.as_json())


def _checkpoint(data: Any) -> object:
    """A checkpoint's contents, taken up by a model."""
    run = Training(EVERY_STAGE)
    try:
        files = checkpoint_files() | {"contents.json": json.dumps(data).encode()}
        run.engine._torch.load_checkpoint(files)
    finally:
        run.engine.close()
    return run


def _tensors(content: bytes) -> object:
    return read_tensors([content])


def _generation(content: bytes) -> object:
    """A checkpoint whose manifest may say anything."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gen-00000001"
        path.mkdir()
        (path / "manifest.json").write_bytes(content)
        (path / "engine.json").write_bytes(b"{}")
        store = CheckpointStore(Path(folder))
        return store.newest(), store.generations()


def _inbox(content: bytes) -> object:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "inbox"
        place.mkdir()
        (place / "20260101T000000.000000Z-0123456789abcdef0123456789abcdef.json").write_bytes(
            content
        )
        return Inbox(Path(folder), ()).read(), read_status(Path(folder))


TARGETS = {
    target.name: target
    for target in (
        Target("document as text", "text", _load, examples=125),
        Target("document as data", "json", _load_data, examples=60),
        Target("document checked", "text", _check, examples=30),
        Target("guard", "text", _guard, own=(GuardTextError,), examples=200),
        Target("expression", "text", _expression, own=(GuardTextError,), examples=100),
        Target("journal", "bytes", _journal, examples=60),
        Target("journal looked at", "bytes", _history, examples=30),
        Target("metrics of a simulation", "bytes", _metrics, examples=30),
        Target("engine state", "json", _state, examples=125),
        Target("engine goes on", "json", _core, examples=125),
        Target("lineage", "json", _lineage, examples=125),
        Target("checkpoint taken up", "json", _checkpoint, examples=30),
        Target("tensors", "bytes", _tensors, examples=75),
        Target("manifest", "bytes", _generation, examples=40),
        Target("inbox", "bytes", _inbox, examples=40),
    )
}
"""Every reader."""
