"""Train a small GPT that grows, on the source code of Python's standard library.

Run it as ``python -m examples.grow_gpt.train``; ``plain.py`` is the same without stagegraph, and
``grow.yaml`` says when it grows.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import stagegraph as sg
from examples.grow_gpt import data
from examples.grow_gpt.model import GPT

BATCH, CONTEXT = 16, 64
GRAPH = Path(__file__).with_name("grow.yaml")


def train(graph: sg.StageGraph, *, run: Path, steps: int | None = None, seed: int = 0) -> float:
    """Train to the graph's end, or for some steps; return the validation loss at the end."""
    torch.set_num_threads(1)  # matrices this small gain nothing from a second thread
    torch.manual_seed(seed)
    text = data.load()
    held_out = text.validation_batch(size=128, context=CONTEXT)
    model = GPT(layers=2, context=CONTEXT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    engine = sg.Engine(
        graph, model=model, optimizer=optimizer, probe=(held_out[0][:4],), run=run, seed=seed
    )
    sg.Terminal(engine)
    engine.resume()

    while not engine.done and engine.progress.step != steps:
        step = engine.progress.step
        loss = loss_of(model, *text.batch(seed, step, size=BATCH, context=CONTEXT))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        engine.step(loss=loss, samples=BATCH, tokens=BATCH * CONTEXT)
        if engine.wants_evaluation:
            engine.observe(val_loss=evaluate(model, held_out))

    engine.finish()
    print(engine.summary())
    print(f"report: {engine.report()}")
    engine.close()
    return evaluate(model, held_out)


def loss_of(model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross-entropy of the next byte, in nats."""
    return F.cross_entropy(model(inputs_BT).flatten(0, 1), targets_BT.flatten())


@torch.no_grad()
def evaluate(model: nn.Module, held_out: tuple[Tensor, Tensor]) -> float:
    """The loss on text that is never trained on."""
    return loss_of(model, *held_out).item()


def next_free(folder: str) -> Path:
    """The first of ``folder-1``, ``folder-2``, ... that is not there yet."""
    return next(path for n in count(1) if not (path := Path(f"{folder}-{n}")).exists())


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graph", type=Path, default=GRAPH, help="the stages (grow.yaml)")
    parser.add_argument("--steps", type=int, help="stop after so many (default: the graph's end)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    parser.add_argument("--run", type=Path, help="a folder, new or to go on in (runs/grow_gpt-1)")
    args = parser.parse_args(argv)
    if args.steps is not None and args.steps < 1:
        parser.error(f"--steps is at least 1, got {args.steps}")
    run = args.run or next_free("runs/grow_gpt")
    try:
        train(sg.load(args.graph), run=run, steps=args.steps, seed=args.seed)
    except sg.StageGraphError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
