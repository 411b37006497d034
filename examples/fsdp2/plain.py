"""Train a small GPT that ``fully_shard`` has sharded over ranks, on Python's standard library.

Run it as ``torchrun --nproc-per-node 2 -m examples.fsdp2.plain``; ``train.py`` is the same with
stagegraph.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from examples.grow_gpt import data
from examples.grow_gpt.model import GPT
from examples.grow_gpt.plain import evaluate, loss_of

BATCH, CONTEXT = 16, 64
"""Samples of a batch over all ranks, and bytes of each."""


def train(*, steps: int = 240, seed: int = 0) -> float:
    """Train, and return the validation loss at the end."""
    torch.manual_seed(seed)  # the same first weights on every rank
    text = data.load()
    held_out = text.validation_batch(size=32, context=CONTEXT)
    model = shard(GPT(layers=2, context=CONTEXT))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)

    for step in range(steps):
        loss = loss_of(model, *mine(text.batch(seed, step, size=BATCH, context=CONTEXT)))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 40 == 0:
            tell(f"step {step + 1}: val_loss {evaluate(model, held_out):.3f}")

    return evaluate(model, held_out)


def shard(model: GPT) -> GPT:
    """Shard each block on its own, and the rest with the root."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def mine(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """This rank's part of a batch."""
    rank, size = distributed.get_rank(), distributed.get_world_size()
    inputs, targets = (part.chunk(size)[rank] for part in batch)
    return inputs, targets


def tell(text: str) -> None:
    """Print it once."""
    if distributed.get_rank() == 0:
        print(text, flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=240, help="how long (default: 240)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    args = parser.parse_args(argv)
    distributed.init_process_group("gloo")
    train(steps=args.steps, seed=args.seed)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
