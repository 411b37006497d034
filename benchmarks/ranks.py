"""What deciding together costs: an update's exchange between ranks, next to an all-reduce.

Run it as ``python -m benchmarks.ranks``; it starts the ranks itself.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import stagegraph as sg
from tests.ranks.processes import on_ranks

UPDATES = 300

GRAPH = """
stagegraph: 1
name: idle
budget: {steps: 100000}
metrics: {loss: {goal: minimize}, val: {goal: minimize, every: 1000 steps}}
initial: a
stages:
  a: {kind: train, transitions: [{target: b, when: "val < 0"}], duration: 90000 steps, next: b}
  b: {kind: final}
"""


def measure(_rank: int) -> dict[str, float]:
    """Median microseconds of an update of the engine, and of an all-reduce of one number."""
    engine = sg.Engine(sg.load(GRAPH))
    alone = sg.Engine(sg.load(GRAPH), group=None)
    number = torch.zeros(1)
    found: dict[str, list[float]] = {"together": [], "alone": [], "all_reduce": []}
    for _ in range(UPDATES):
        for name, call in (
            ("together", lambda: engine.step(loss=1.0, samples=4)),
            ("alone", lambda: alone.step(loss=1.0, samples=4)),
            ("all_reduce", lambda: dist.all_reduce(number)),
        ):
            began = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - began)
    return {name: 1e6 * statistics.median(times) for name, times in found.items()}


def main() -> None:
    """Measure on two and four ranks, and print a table."""
    print("median microseconds of an update in which nothing is due")
    for size in (2, 4):
        with tempfile.TemporaryDirectory() as folder:
            told: list[Any] = on_ranks(size, measure, folder=Path(folder), seconds=300)
        first = told[0]
        print(
            f"{size} ranks: together {first['together']:.0f}, alone {first['alone']:.1f}, "
            f"all_reduce of one number {first['all_reduce']:.0f}"
        )


if __name__ == "__main__":
    main()
