"""What the engine adds to a plain training loop; prints, and asserts nothing about time."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import torch
from torch import nn

from benchmarks.test_control import BUDGET, WAITING, engine_of

STEPS = 4
CYCLES = 600


Update = Callable[[], torch.Tensor]


def trainer() -> Update:
    """A model and its loop body."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(32, 64), torch.randint(0, 10, (32,))

    def update() -> torch.Tensor:
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return update


def plain(update: Update) -> Callable[[], object]:
    return update


def ten_ifs(update: Update) -> Callable[[], object]:
    state: dict[str, Any] = {"step": 0, "v": None}

    def step() -> None:
        update()
        state["step"] += 1
        n, v = state["step"], state["v"]
        for limit in (1e9, 2e9, 3e9, 4e9, 5e9):
            if n >= limit:
                return
        for limit in (0.1, 0.2, 0.3, 0.4, 0.5):
            if v is not None and v < limit:
                return

    return step


def with_engine(update: Update) -> Callable[[], object]:
    engine = engine_of(WAITING, every="100 steps", **BUDGET)

    def step() -> None:
        loss = update()
        engine.step(loss=loss, samples=32)
        if engine.wants_evaluation:
            engine.observe(v=1.0, w=1.0)

    return step


def test_training_loop(show):
    torch.set_num_threads(1)
    update = trainer()
    variants = {
        "plain loop": plain(update),
        "ten ifs": ten_ifs(update),
        "engine, ten guards": with_engine(update),
    }
    order = list(variants)
    added: dict[str, list[float]] = {name: [] for name in variants}
    base = []
    for _ in range(CYCLES):
        taken = {}
        order.append(order.pop(0))
        for name in order:
            step = variants[name]
            begin = perf_counter_ns()
            for _ in range(STEPS):
                step()
            taken[name] = (perf_counter_ns() - begin) / STEPS
        base.append(taken["plain loop"])
        for name, time in taken.items():
            added[name].append(time - taken["plain loop"])
    lines = [
        f"(e) a training loop of {statistics.median(base) / 1000:.0f} us per update, evaluation "
        "every 100"
    ]
    for name, differences in added.items():
        if name == "plain loop":
            continue
        cut = sorted(differences)[len(differences) // 10 : -len(differences) // 10]
        limit = "   limit 10 us" if "engine" in name else ""
        lines.append(
            f"  {name:<46}{statistics.median(differences) / 1000:>9.2f} us more (median), "
            f"{statistics.mean(cut) / 1000:.2f} (trimmed mean){limit}"
        )
    show("\n".join(lines))
