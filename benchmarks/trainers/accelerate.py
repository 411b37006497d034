"""A loop around an accelerator."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from accelerate import Accelerator

from benchmarks.trainers.inplace import Place
from benchmarks.trainers.plain import EPOCH, Nothing, go_on
from benchmarks.trainers.task import LR, Net, graph
from benchmarks.trainers.turns import Turn
from stagegraph.actions.optimizing.updates import Updates
from stagegraph.trainers.accelerate import AcceleratedEngine

PLACES = {
    "no-op": [Place(Nothing, "on_step")],
    "stagegraph": [Place(AcceleratedEngine, "step"), Place(Updates, "_after"), *EPOCH],
}
"""Where the loop and the optimizer call us at an update."""


def train(updates: int, turn: Turn) -> None:
    """Train, and let those listen whose turn it is."""
    accelerator = Accelerator(cpu=True)
    model = Net()
    inner = torch.optim.AdamW(model.parameters(), lr=LR)
    model, optimizer = accelerator.prepare(model, inner)
    with AcceleratedEngine(graph(), accelerator, model=model, optimizer=optimizer) as engine:
        hooks = inner._optimizer_step_post_hooks
        ours = dict(hooks)

        def switch(variant: str) -> None:
            hooks.clear()
            hooks.update(ours if variant == "stagegraph" else {})

        turn.begins(switch)
        go_on(engine, model, optimizer, updates, turn, partial(_learn, accelerator))


def _learn(
    accelerator: Accelerator, model: Any, optimizer: Any, batch: dict[str, Any]
) -> torch.Tensor:
    with accelerator.accumulate(model):
        loss: torch.Tensor = model(**batch)["loss"]
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    return loss
