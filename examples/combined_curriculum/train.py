"""Train a small GPT whose data and architecture advance together.

Run it as ``python -m examples.combined_curriculum.train``; ``plain.py`` is the same without
stagegraph, and ``combined.yaml`` says when the data gets harder and when the model grows.
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
from examples.combined_curriculum import data
from examples.grow_gpt.model import GPT

BATCH = 8
GRAPH = Path(__file__).with_name("combined.yaml")


def train(graph: sg.StageGraph, *, run: Path, seed: int = 0) -> float:
    """Train to the graph's end; return the validation loss at the end."""
    torch.set_num_threads(1)  # matrices this small gain nothing from a second thread
    torch.manual_seed(seed)
    text = data.load()
    model = GPT(layers=1, width=32, context=data.CONTEXT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    loader: sg.CurriculumLoader[tuple[Tensor, Tensor]] = sg.CurriculumLoader(
        text.train, batch_size=BATCH, seed=seed, score=text.train.hardness, levels=3
    )
    engine = sg.Engine(
        graph,
        model=model,
        optimizer=optimizer,
        data=loader,
        probe=(text.held_out[0][:4],),
        run=run,
        seed=seed,
    )
    sg.Terminal(engine)
    engine.resume()

    for epoch in engine.epochs(loader):
        for inputs, targets in epoch:
            loss = loss_of(model, inputs, targets)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), engine.knob("clip", 1.0))
            optimizer.step()
            optimizer.zero_grad()
            engine.step(loss=loss, samples=len(inputs))
            if engine.wants_evaluation:
                engine.observe(val_loss=evaluate(model, text.held_out))

    print(engine.summary())
    print(f"report: {engine.report()}")
    engine.close()
    return evaluate(model, text.held_out)


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
    parser.add_argument("--graph", type=Path, default=GRAPH, help="the stages (combined.yaml)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    parser.add_argument("--run", type=Path, help="a folder, new or to go on in")
    args = parser.parse_args(argv)
    run = args.run or next_free("runs/combined_curriculum")
    try:
        train(sg.load(args.graph), run=run, seed=args.seed)
    except sg.StageGraphError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
