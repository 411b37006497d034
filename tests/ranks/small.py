"""Small: what the ranks of these tests train, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import stagegraph as sg

__all__ = ["GROWING", "SIZE", "Net", "batches", "train", "weights"]

SIZE = 8

GROWING = """
stagegraph: 1
name: growing
budget: {steps: 18}
waive: {no-monitor: kept short}
initial: train
metrics: {val_loss: {goal: minimize, every: 3 steps}}
stages:
  train: {kind: train, duration: 3 steps, next: deepen}
  deepen: {kind: grow, actions: [{type: deepen, stack: blocks, add: 2, how: stack}], next: warmup}
  warmup:
    kind: warmup
    during:
      - {type: alpha_ramp, of: grown, over: 3 steps}
      - {type: lr_ramp, of: grown, start: 0, end: 1, over: 3 steps}
    next: widen
  widen: {kind: grow, actions: [{type: widen, space: inner, add: 3}], next: frozen}
  frozen:
    kind: consolidate
    during: [{type: freeze, of: head}]
    duration: 3 steps
    next: rest
  rest:
    kind: train
    duration: 5 steps
    transitions: [{target: done, when: "val_loss < 0"}]
    next: done
  done: {kind: final}
spaces:
  tensors: {blocks.*.up.weight: inner _, blocks.*.up.bias: inner, blocks.*.down.weight: _ inner}
"""


class Block(nn.Module):
    """A residual block; dropout draws from each rank's own random numbers."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(SIZE, SIZE)
        self.down = nn.Linear(SIZE, SIZE)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.down(torch.relu(self.up(x))))


class Net(nn.Module):
    """Residual blocks and a head."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dropout) for _ in range(2))
        self.head = nn.Linear(SIZE, 1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def batches(rank: int, size: int, device: str = "cpu") -> list[Tensor]:
    """A rank's share of the data."""
    everything = torch.randn(24, 8, SIZE, generator=torch.Generator().manual_seed(7)).to(device)
    return [batch[rank::size] for batch in everything]


def weights(model: nn.Module) -> list[float]:
    """All numbers of a model."""
    return torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()


def train(
    rank: int,
    size: int,
    folder: Path | None,
    *,
    updates: int = 1000,
    graph: str = GROWING,
    wrap: bool = True,
    dropout: float = 0.1,
    device: str = "cpu",
    compiled: str | None = None,
    seen: Callable[[sg.Engine, nn.Module], Any] | None = None,
    **engine: Any,
) -> dict[str, Any]:
    """Train for some updates, or to the end; go on if the folder holds a run."""
    torch.manual_seed(0)
    net = Net(dropout).to(device)
    model: nn.Module = net
    if wrap:
        model = DistributedDataParallel(net, device_ids=None if device == "cpu" else [device])
    if compiled is not None:
        torch.compiler.reset()
        model = torch.compile(model, backend=compiled)  # type: ignore[assignment]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + 0.1 * step))
    torch.manual_seed(rank)
    held = sg.Engine(
        sg.load(graph),
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        probe=torch.ones(2, SIZE, device=device),
        run=folder,
        checkpoints=sg.Checkpoints(every="1 steps"),
        **engine,
    )
    told, losses = list[Any](), list[float]()
    with held:
        held.resume()
        for x in _until(held, batches(rank, size, device), updates):
            loss = (model(x) - x.sum(1, keepdim=True)).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
            held.step(loss=loss, samples=len(x))
            if held.wants_evaluation and rank == 0:
                held.observe(val_loss=loss.detach())
            if seen is not None:
                told.append(seen(held, model))
        if not held.done:
            held.finish()
        return {
            "weights": weights(net),
            "names": [name for name, _ in net.named_parameters()],
            "stages": held.stages,
            "ended": held.ended,
            "step": held.progress.step,
            "samples": held.progress.samples,
            "losses": losses,
            "seen": told,
        }


def _until(engine: sg.Engine, data: list[Tensor], updates: int) -> Iterator[Tensor]:
    made = 0
    for epoch in engine.epochs(data):
        for x in epoch:
            yield x
            made += 1
            if made == updates:
                return  # before the next batch is drawn: that one would count as used
