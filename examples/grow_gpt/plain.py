"""Train a small GPT on the source code of Python's standard library, in plain PyTorch.

Run it as ``python -m examples.grow_gpt.plain``; ``train.py`` is the same with stagegraph.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.grow_gpt import data
from examples.grow_gpt.model import GPT

BATCH, CONTEXT = 16, 64


def train(*, steps: int = 3000, seed: int = 0) -> float:
    """Train, and return the validation loss at the end."""
    torch.set_num_threads(1)  # matrices this small gain nothing from a second thread
    torch.manual_seed(seed)
    text = data.load()
    held_out = text.validation_batch(size=128, context=CONTEXT)
    model = GPT(layers=2, context=CONTEXT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)

    for step in range(steps):
        loss = loss_of(model, *text.batch(seed, step, size=BATCH, context=CONTEXT))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 25 == 0:
            print(f"step {step + 1}: loss {loss:.3f}, val_loss {evaluate(model, held_out):.3f}")

    return evaluate(model, held_out)


def loss_of(model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross-entropy of the next byte, in nats."""
    return F.cross_entropy(model(inputs_BT).flatten(0, 1), targets_BT.flatten())


@torch.no_grad()
def evaluate(model: nn.Module, held_out: tuple[Tensor, Tensor]) -> float:
    """The loss on text that is never trained on."""
    return loss_of(model, *held_out).item()


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000, help="how long (default: 3000)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    args = parser.parse_args(argv)
    train(steps=args.steps, seed=args.seed)


if __name__ == "__main__":
    main()
