"""Graphs and journals to draw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stagegraph.schema.load import load
from stagegraph.schema.stagegraph import StageGraph

DATA = Path(__file__).parents[1] / "data"
DRAWINGS = DATA / "drawings"
DOCUMENTS = sorted(path.stem for path in (DATA / "documents").glob("*.yaml"))


def document(name: str) -> StageGraph:
    return load(DATA / "documents" / f"{name}.yaml")


def journal(name: str) -> list[dict[str, Any]]:
    lines = (DATA / "journals" / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def odd() -> StageGraph:
    """Names that other languages reserve, text full of marks, sub-graphs, loops, stop and back."""
    return load(DATA / "drawings" / "odd.yaml")


def chain(length: int) -> StageGraph:
    """Many stages in a row, with ways back here and there."""
    stages: dict[str, Any] = {}
    for index in range(length):
        stages[f"s{index}"] = {"kind": "train", "duration": "100 steps", "next": f"s{index + 1}"}
        if index % 3 == 0:
            back = f"s{max(0, index - 7 * (index % 5))}"
            stages[f"s{index}"]["transitions"] = [{"target": back, "when": "loss > 1"}]
    return _graph(f"chain of {length}", {**stages, f"s{length}": {"kind": "final"}})


def mesh(size: int) -> StageGraph:
    """Stages with ways all over the place."""
    stages: dict[str, Any] = {
        f"s{index}": {
            "kind": "train",
            "duration": "100 steps",
            "next": f"s{(index * 7 + 3) % size}",
            "transitions": [{"target": f"s{(index * 13 + 5) % size}", "when": "loss > 1"}],
        }
        for index in range(size)
    }
    stages["s0"]["transitions"].append({"target": "done", "when": "step > 5"})
    return _graph(f"mesh of {size}", {**stages, "done": {"kind": "final"}})


def _graph(name: str, stages: dict[str, Any]) -> StageGraph:
    return load(
        {
            "stagegraph": 1,
            "name": name,
            "metrics": {"loss": {"goal": "minimize", "every": "10 steps"}},
            "initial": "s0",
            "stages": stages,
        }
    )


def graphs() -> dict[str, StageGraph]:
    """A choice of all of them, by name."""
    every = load(DATA / "valid" / "every-kind.yaml")
    return {
        **{name: document(name) for name in DOCUMENTS},
        "odd": odd(),
        "every-kind": every,
        "chain": chain(40),
        "mesh": mesh(12),
    }
