"""Inputs that are right, to be spoilt: documents, guards, journals, states, lineages."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from stagegraph.actions.changes import (
    Attached,
    CountChange,
    Deepened,
    ExpertsAdded,
    HeadAdded,
    Inherited,
    ListGrown,
    NewBlock,
    NewBranch,
    NewExperts,
    NewListed,
    Regrown,
    Resized,
    Written,
)
from stagegraph.runs.journal import Mark
from stagegraph.runs.store import CheckpointStore
from tests.session.training import EVERY_STAGE, Training

__all__ = ["DATA", "STATE_GRAPH", "checkpoint_files", "seeds_of"]

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"

STATE_GRAPH = """
stagegraph: 1
name: every memory
metrics: {val_loss: {goal: minimize, every: 3 steps, look_every: 1 steps}}
events: [ping]
budget: {steps: 5k, params: 5k}
initial: train
stages:
  train:
    kind: train
    actions: [{type: snapshot, name: before}]
    transitions:
      - {target: grow, when: "plateau(val_loss, worth=1%, over=9 steps) and visits(grow) < 2"}
      - {target: grow, when: "plateau(val_loss, patience=40 samples) or event(ping)", at_most: 3}
    duration: 9 epochs
    next: done
  grow: {kind: grow, actions: [{type: deepen, stack: blocks, add: 1}], next: warmup}
  warmup:
    kind: warmup
    during:
      - {type: alpha_ramp, of: grown, over: 4 steps}
      - {type: lr_ramp, of: grown, start: 0, over: 4 steps}
    next: rest
  rest:
    kind: consolidate
    duration: 30 steps
    next: train
  calm: {kind: train, transitions: [{target: back, when: elapsed(4 steps)}]}
  done: {kind: final}
interrupts:
  - {name: pause, within: [train], when: nonfinite(val_loss) > 2, target: calm, at_most: 2}
  - name: undo
    within: [rest]
    when: regressed(val_loss, by=5%, since=before, lasting=2 steps)
    actions: [{type: roll_back, to: before, data: skip}]
    target: train
    at_most: 2
"""


@cache
def seeds_of(target: str) -> tuple[Any, ...]:
    """The right inputs of a target."""
    return _SEEDS[target]()


@cache
def checkpoint_files() -> dict[str, bytes]:
    """A checkpoint of a real run, by file."""
    run = Training(EVERY_STAGE).go(2)
    files = {}
    for name, write in run.engine._torch.take_checkpoint({"batches": 2}).files().items():
        out = io.BytesIO()
        write(out)
        files[name] = out.getvalue()
    run.engine.close()
    return files


def _manifest() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder))
        files = {"engine.json": lambda out: out.write(b"{}")}
        mark = Mark(3, 100, "00000000")
        saved = store.save(
            files, step=3, boundary=3, why="due", metrics={"m": 1.0}, journal=mark, about={}
        )
        return (saved.path / "manifest.json").read_bytes()


def _messages() -> tuple[bytes, ...]:
    common = {
        "version": 1,
        "id": "0" * 32,
        "author": "somebody@there",
        "sent": "2026-01-01T00:00:00",
    }
    event = {"kind": "event", "name": "go", "argument": ""}
    command = {"kind": "command", "name": "extend", "argument": "500 steps"}
    return tuple(json.dumps(common | one).encode() for one in (event, command))


def _documents() -> tuple[str, ...]:
    folders = (DATA / "valid", DATA / "kinds", ROOT / "examples")
    paths = sorted(p for f in folders for p in f.rglob("*") if p.suffix in (".yaml", ".json"))
    return tuple(path.read_text(encoding="utf-8") for path in paths)


def _plain(text: str) -> Any:
    from stagegraph.schema.yaml_reader import read_yaml

    return json.loads(json.dumps(read_yaml(text).data))


_GUARDS = (
    "plateau(val_loss, worth=0.5%, over=200 steps) and left(steps) > 6k",
    "not (a < 1 or b >= 2.5e-3) and done(arch)",
    "1 < best(val_loss) * 1.05 <= last(val_loss) + -3",
    "regressed(val_loss, by=5%, since=before, lasting=300 steps)",
    "not improved(val_loss, by=2%, since=before) or recovered(a, within=1%, since=before)",
    "unstable(norm, since=before, over=40 steps, allow=30 steps, within=2k steps, spreads=3)",
    "gain(val_loss, over=1k steps) * 2 < 1% and left(steps) > 5k",
    "in(data:hard.x) and elapsed(1.5M tokens) or event(go) and affordable(grow)",
    "nonfinite(loss) >= 3 and completed() or harmful(loss, by=1%)",
    "visits(main:a.b) / (step - 3) != spent(flops) * 2T",
)
_EXPRESSIONS = ("2 + 300 / (step + 100)", "-best(m) * 50%", "(a - b) / 1e-3", "visits(a:b.c)")


def _journals() -> tuple[bytes, ...]:
    found = []
    for path in sorted((DATA / "journals").glob("*.jsonl")):
        lines = path.read_bytes().splitlines(keepends=True)
        kinds: dict[Any, bytes] = {}
        for line in lines:
            kinds.setdefault(json.loads(line)["type"], line)
        found += [b"".join(lines[:12]), b"".join(kinds.values())]
    return (*found, b"step,val_loss\n1,0.5\n2,nan\n")


@cache
def _states() -> tuple[Any, ...]:
    """States of a run at several places: growing, ramping, interrupted, rolled back."""
    from tests.engine.driving import Run

    run = Run(_plain(STATE_GRAPH), params=1000, costs={"main:grow": 10})
    found = []
    for n in range(1, 90):
        loss = float("nan") if 20 < n < 30 else 1.0 + (n > 55) * n
        run.core.step(samples=3, epoch=n / 10, val_loss=loss)
        if run.core.wants_evaluation:
            run.core.observe()
        if n == 70:
            run.core.send("ping")
        if n in (1, 8, 16, 26, 40, 47, 60, 70, 89):
            found.append(json.loads(json.dumps(run.core.state_dict())))
    return tuple(found)


def _lineages() -> tuple[Any, ...]:
    from stagegraph.actions.lineage import Lineage

    axes = (((4, 8),), ((2, 2), (3, 6)))
    written = (Written("config.hidden", 4, 8),)
    growths = (
        Deepened(
            *("deeper", 100, "blocks", 2, (NewBlock("g1-0", 1, "0"),)),
            *((CountChange("config.n", 2, 3),), ("layer_idx",), ("beside",), ("scale",)),
        ),
        Resized("wider", 7, (("fc.weight", axes),), written, (("fc.weight", 0.5, 1.0, 2.0),), "x"),
        Attached("tuned", 9, "lora", "input", (NewBranch("blocks.0", "", "tuned", {"r": 4}),)),
        ExpertsAdded("more", 9, (NewExperts("moe", "e1", (0, 1), (1, 2)),)),
        ListGrown("list", 3, (NewListed("moe", "experts", "gate", 2, (0,), (("n", 2, 3),)),)),
        HeadAdded("head", 3, "heads", "b", "a"),
        Inherited("small", 0, "small.pt", "copied", (("w", axes),), written),
        Regrown("large", 5, None, {"n": 4}, ("b.2",), ("b.2",), ("p",), (("w", axes),), written),
    )
    return (Lineage(growths).as_json(), *(Lineage([growth]).as_json() for growth in growths))


_SEEDS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "document as text": _documents,
    "document checked": lambda: tuple(text for text in _documents() if len(text) < 3000),
    "document as data": lambda: tuple(_plain(text) for text in _documents()[:40]),
    "guard": lambda: _GUARDS,
    "expression": lambda: _EXPRESSIONS,
    "journal": _journals,
    "journal looked at": _journals,
    "metrics of a simulation": _journals,
    "engine state": lambda: tuple(state["engine"] for state in _states()),
    "engine goes on": _states,
    "lineage": _lineages,
    "checkpoint taken up": lambda: (json.loads(checkpoint_files()["contents.json"]),),
    "tensors": lambda: (checkpoint_files()["tensors-00000.safetensors"],),
    "manifest": lambda: (_manifest(),),
    "inbox": _messages,
}
