"""A loop around an accelerator."""

from __future__ import annotations

from itertools import count
from typing import Any

import torch
from accelerate import Accelerator

from benchmarks.trainers.inplace import Place
from benchmarks.trainers.plain import EPOCH, Nothing, evaluate
from benchmarks.trainers.task import BATCH, EVERY, LR, Net, graph, loader
from benchmarks.trainers.turns import Turn
from stagegraph.actions.optimizing.updates import Updates
from stagegraph.trainers.accelerate import AcceleratedEngine

PLACES = {
    "no-op": [Place(Nothing, "on_step")],
    "stagegraph": [Place(AcceleratedEngine, "step"), Place(Updates, "_after"), *EPOCH],
}
"""Where the loop and the optimizer call us at an update."""


def train(variant: str, updates: int, turn: Turn) -> None:
    """Train without stagegraph, with a callback that does nothing, or with an engine."""
    accelerator = Accelerator(cpu=True)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    model, optimizer = accelerator.prepare(model, optimizer)
    if variant == "stagegraph":
        _staged(accelerator, model, optimizer, loader(turn), updates)
        return
    callbacks, batches = [Nothing()] if variant == "no-op" else [], loader(turn)
    for step, batch in zip(count(1), (one for _ in count() for one in batches), strict=False):
        loss = _learn(accelerator, model, optimizer, batch)
        for callback in callbacks:
            callback.on_step(step=step, model=model, optimizer=optimizer, loss=loss)
        if step % EVERY == 0:
            evaluate(model)
        if step == updates:
            return


def _staged(accelerator: Any, model: Any, optimizer: Any, batches: Any, updates: int) -> None:
    step = 0
    with AcceleratedEngine(graph(), accelerator, model=model, optimizer=optimizer) as engine:
        for epoch in engine.epochs(batches):
            for batch in epoch:
                loss = _learn(accelerator, model, optimizer, batch)
                step += 1
                engine.step(loss=loss, samples=BATCH)
                if engine.wants_evaluation:
                    engine.observe(val_loss=evaluate(model))
                if step == updates:
                    return


def _learn(
    accelerator: Accelerator, model: Any, optimizer: Any, batch: dict[str, Any]
) -> torch.Tensor:
    with accelerator.accumulate(model):
        loss: torch.Tensor = model(**batch)["loss"]
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    return loss
