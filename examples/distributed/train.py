"""The same script with stagegraph: the model grows on all ranks at once.

Run it as ``torchrun --nproc-per-node 2 -m examples.distributed.train``; ``grow.yaml`` says when the
model grows, and knows nothing of ranks. End it whenever you like, one rank or all: the same command
goes on where the folder stands.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import stagegraph as sg
from examples.distributed.model import Classifier
from examples.distributed.ranks import evaluate, loaders, process_group

GRAPH = Path(__file__).with_name("grow.yaml")


def train(graph: sg.StageGraph, *, run: Path, seed: int = 0) -> float:
    """Train to the graph's end; return the loss on this rank's share of what is held out."""
    torch.manual_seed(seed)
    loader, held_out = loaders(seed)
    model = DistributedDataParallel(Classifier())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    engine = sg.Engine(
        graph, model=model, optimizer=optimizer, probe=(held_out[0][:8],), run=run, seed=seed
    )
    sg.Terminal(engine)
    engine.resume()

    for epoch in engine.epochs(loader):
        for images, labels in epoch:
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            engine.step(loss=loss, samples=len(images))
            if engine.wants_evaluation:
                engine.observe(val_loss=evaluate(model.module, held_out))

    if not engine.rank:
        print(engine.summary())
        print(f"report: {engine.report()}")
    engine.close()
    return evaluate(model.module, held_out)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graph", type=Path, default=GRAPH, help="the stages (grow.yaml)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and orders (default: 0)")
    parser.add_argument("--folder", type=Path, default=Path("runs/distributed"), help="its folder")
    args = parser.parse_args(argv)
    with process_group():
        try:
            train(sg.load(args.graph), run=args.folder, seed=args.seed)
        except sg.StageGraphError as error:
            parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
