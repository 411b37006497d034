"""The plain loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data.dataloader import _BaseDataLoaderIter

import stagegraph as sg
from benchmarks.trainers.inplace import Place
from benchmarks.trainers.task import BATCH, EVERY, LR, Net, graph, held_out, loader
from benchmarks.trainers.turns import Turn
from stagegraph.engine.core import Core
from stagegraph.session.passes import Epoch


class Nothing:
    """A callback that does nothing, called with all that a callback may want."""

    def on_step(self, *, step: int, model: Any, optimizer: Any, loss: Any) -> None:
        pass


EPOCH = [
    Place(Epoch, "__iter__", steps=True),
    Place(_BaseDataLoaderIter, "__next__", host=True),
]
"""Where batches are fetched: by the epoch, from the loader."""

PLACES = {
    "no-op": [Place(Nothing, "on_step")],
    "stagegraph": [Place(Core, "step"), *EPOCH],
}
"""Where the loop calls us at an update."""


def train(updates: int, turn: Turn) -> None:
    """Train, and let those listen whose turn it is."""
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    with sg.Engine(graph(), model=model, optimizer=optimizer) as engine:
        go_on(engine, model, optimizer, updates, turn, _learn)


def go_on(
    engine: Any, model: Any, optimizer: Any, updates: int, turn: Turn, learn: Callable[..., Any]
) -> None:
    """Train so many updates, and tell whoever's turn it is of each."""
    callbacks = {"bare": [], "no-op": [Nothing()]}
    staged = (batch for epoch in engine.epochs(loader(turn)) for batch in epoch)
    own = _passes(loader(turn))
    for step in range(1, updates + 1):
        batch = next(staged if turn.variant == "stagegraph" else own)
        loss = learn(model, optimizer, batch)
        if turn.variant == "stagegraph":
            engine.step(loss=loss, samples=BATCH)
            if engine.wants_evaluation:
                engine.observe(val_loss=evaluate(model))
        else:
            for callback in callbacks[turn.variant]:
                callback.on_step(step=step, model=model, optimizer=optimizer, loss=loss)
            if step % EVERY == 0:
                evaluate(model)


def _learn(model: Net, optimizer: Any, batch: dict[str, Any]) -> torch.Tensor:
    loss = model(**batch)["loss"]
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss


def _passes(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from batches


@torch.no_grad()
def evaluate(model: Any) -> float:
    """The loss on what is held out."""
    model.eval()
    losses = [float(model(**batch)["loss"]) for batch in held_out()]
    model.train()
    return sum(losses) / len(losses)
