"""What a warm-up costs per update: before it, while it lasts, and when it is done.

Each is compared with the same model that never had one and that nobody watches. Prints, and asserts
nothing about time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

import stagegraph as sg
from benchmarks.interleaved import compare, table

WIDTH = 128
GRAPH = """
stagegraph: 1
name: a warm-up
initial: train
stages:
  train: {{kind: train, duration: {before} steps, next: grow}}
  grow: {{kind: grow, actions: [{{type: deepen, stack: blocks, add: 1, how: stack}}], next: warmup}}
  warmup:
    kind: warmup
    during:
      - {{type: alpha_ramp, of: grown, start: 0.1, over: {over} steps}}
      - {{type: lr_ramp, of: grown, start: 0, end: 1, over: {over} steps}}
{host}    next: rest
  rest: {{kind: consolidate, duration: 1000000 steps, next: done}}
  done: {{kind: final}}
"""
FROZEN = "      - {type: freeze, of: all, but: grown, norms: eval, dropout: eval}\n"
LONG = 1_000_000


class Block(nn.Module):
    """Residual: norm, up, down."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.drop = nn.Dropout(0.1)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.drop(torch.relu(self.up(self.norm(x)))))


class Net(nn.Module):
    """A stack of blocks."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def loop(depth: int, document: str | None = None, *, ahead: int = 0) -> Callable[[], object]:
    """A plain loop over a model, or one with an engine that has come so many updates far."""
    torch.manual_seed(0)
    model = Net(depth)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x, y = torch.randn(32, WIDTH), torch.randn(32, WIDTH)
    engine = (
        None
        if document is None
        else sg.Engine(sg.load(document), model=model, optimizer=optimizer, probe=x)
    )
    if engine is not None:
        engine.start()

    def update() -> None:
        loss = (model(x) - y).pow(2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if engine is not None:
            engine.step(loss=loss)

    for _ in range(ahead):
        update()
    return update


def graph(*, before: int = 1, over: int, host: str = "") -> str:
    return GRAPH.format(before=before, over=over, host=host)


def test_a_warm_up(show):
    torch.set_num_threads(1)
    small = compare(
        {
            "3 blocks, never had one": loop(3),
            "before the growth": loop(3, graph(before=LONG, over=2)),
        },
        calls=5,
        cycles=60,
    )
    large = compare(
        {
            "4 blocks, never had one": loop(4),
            "with gate and LR ramp": loop(3, graph(over=LONG), ahead=2),
            "with them, host frozen": loop(3, graph(over=LONG, host=FROZEN), ahead=2),
            "when it is done": loop(3, graph(over=2), ahead=6),
            "when it is done, host was frozen": loop(3, graph(over=2, host=FROZEN), ahead=6),
        },
        calls=5,
        cycles=60,
    )
    show(table("(k) an update beside a warm-up", small) + "\n" + table("", large).lstrip("\n"))
