"""Train a small network on images, in plain PyTorch.

Run it as ``python -m examples.grow_images.plain``; ``train.py`` is the same with stagegraph.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from examples.grow_images import data
from examples.grow_images.model import Net

BATCH = 32


def train(*, images: str = "digits", steps: int = 1500, seed: int = 0) -> float:
    """Train, and return the share of held-out images that are told right."""
    torch.set_num_threads(1)  # matrices this small gain nothing from a second thread
    torch.manual_seed(seed)
    pictures = data.load(images)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    dataset = TensorDataset(pictures.train, pictures.labels)
    step = 0
    while step < steps:
        for image_B1HW, class_B in DataLoader(dataset, batch_size=BATCH, shuffle=True):
            loss = F.cross_entropy(model(image_B1HW), class_B)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step % 25 == 0:
                print(f"step {step}: loss {loss:.3f}, accuracy {evaluate(model, pictures):.3f}")

    return evaluate(model, pictures)


@torch.no_grad()
def evaluate(model: nn.Module, pictures: data.Images) -> float:
    """The share of held-out images that are told right."""
    told_B: Tensor = model(pictures.held_out).argmax(dim=1)
    return (told_B == pictures.held_out_labels).float().mean().item()


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", choices=["digits", "fashion"], default="digits")
    parser.add_argument("--steps", type=int, default=1500, help="how long (default: 1500)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    args = parser.parse_args(argv)
    train(images=args.images, steps=args.steps, seed=args.seed)


if __name__ == "__main__":
    main()
