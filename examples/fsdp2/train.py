"""Train a small GPT that ``fully_shard`` has sharded over ranks, and let it grow in depth.

Run it as ``torchrun --nproc-per-node 2 -m examples.fsdp2.train``; kill it, and the same command
goes on from its newest checkpoint. ``plain.py`` is the same without stagegraph.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import distributed, nn

import stagegraph as sg
from examples.fsdp2.plain import BATCH, CONTEXT, mine, shard, tell
from examples.grow_gpt import data
from examples.grow_gpt.model import GPT
from examples.grow_gpt.plain import evaluate, loss_of
from stagegraph.trainers import fsdp2

GRAPH = Path(__file__).with_name("grow.yaml")


def train(*, folder: Path, graph: Path = GRAPH, every: int = 40, seed: int = 0) -> float:
    """Train, and return the validation loss at the end."""
    torch.manual_seed(seed)  # the same first weights on every rank
    text = data.load()
    held_out = text.validation_batch(size=32, context=CONTEXT)
    model = shard(GPT(layers=2, context=CONTEXT))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    engine = sg.Engine(
        sg.load(graph), model=model, optimizer=optimizer, probe=held_out[0][:4], seed=seed
    )

    step, kept = 0, sorted(folder.glob("*/manifest.json"))
    if kept:
        step = fsdp2.load(kept[-1].parent, engine, model, optimizer)["step"]
        tell(f"goes on behind step {step}, with {len(model.blocks)} layers")
    while not engine.done:
        loss = loss_of(model, *mine(text.batch(seed, step, size=BATCH, context=CONTEXT)))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        engine.step(loss=loss, samples=BATCH)
        if step % every == 0:
            fsdp2.save(folder / f"{step:06}", engine, model, optimizer, beside={"step": step})
            tell(
                f"step {step}: {len(model.blocks)} layers, val_loss {evaluate(model, held_out):.3f}"
            )

    return evaluate(model, held_out)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/fsdp2"), help="of checkpoints")
    parser.add_argument("--graph", type=Path, default=GRAPH, help="another document")
    parser.add_argument("--every", type=int, default=40, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    args = parser.parse_args(argv)
    distributed.init_process_group("gloo")
    loss = train(folder=args.folder, graph=args.graph, every=args.every, seed=args.seed)
    tell(f"at the end: val_loss {loss:.3f}")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
