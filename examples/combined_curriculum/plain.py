"""Train a small GPT on harder and harder text, in plain PyTorch.

Run it as ``python -m examples.combined_curriculum.plain``; ``train.py`` is the same with
stagegraph, where data and model advance together.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from examples.combined_curriculum import data
from examples.grow_gpt.model import GPT

BATCH = 8


def train(*, steps: int = 300, seed: int = 0) -> float:
    """Train, and return the validation loss at the end."""
    torch.set_num_threads(1)  # matrices this small gain nothing from a second thread
    torch.manual_seed(seed)
    text = data.load()
    model = GPT(layers=1, width=32, context=data.CONTEXT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)

    from_easy = sorted(range(len(text.train)), key=text.train.hardness.__getitem__)
    step = 0
    for level in count(1):
        pieces = Subset(text.train, from_easy[: level * len(from_easy) // 3])
        for inputs, targets in DataLoader(pieces, batch_size=BATCH, shuffle=True):
            if step == steps:
                return evaluate(model, text.held_out)
            loss = loss_of(model, inputs, targets)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step % 10 == 0:
                val_loss = evaluate(model, text.held_out)
                print(f"step {step}: loss {loss:.3f}, val_loss {val_loss:.3f}, level {level - 1}")
            if step % 40 == 0 and level < 3:
                break
    raise AssertionError


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
    parser.add_argument("--steps", type=int, default=300, help="how long (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    args = parser.parse_args(argv)
    train(steps=args.steps, seed=args.seed)


if __name__ == "__main__":
    main()
