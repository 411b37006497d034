"""Train a small network on images, in a loop around an ``accelerate.Accelerator``.

Run it as ``python -m examples.accelerate.plain``, or by ``accelerate launch``; ``train.py`` is the
same with stagegraph.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

from examples.accelerate.model import Net
from examples.grow_images import data

BATCH = 16


def train(*, steps: int = 300, seed: int = 0, precision: str = "no") -> float:
    """Train, and return the share of held-out images that are told right."""
    torch.set_num_threads(1)  # matrices this small gain nothing from a second thread
    torch.manual_seed(seed)
    accelerator = Accelerator(gradient_accumulation_steps=2, mixed_precision=precision)
    pictures = data.load()
    loader = DataLoader(
        TensorDataset(pictures.train, pictures.labels), batch_size=BATCH, shuffle=True
    )
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 20))
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    held_out = pictures.held_out.to(accelerator.device)

    step = 0
    while step < steps:
        for image_B1HW, class_B in loader:
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(image_B1HW), class_B)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                step += 1
                if step % 25 == 0:
                    accuracy = evaluate(model, held_out, pictures.held_out_labels)
                    print(f"step {step}: loss {loss:.3f}, accuracy {accuracy:.3f}")

    return evaluate(model, held_out, pictures.held_out_labels)


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images that are told right."""
    told: Tensor = model(images).argmax(dim=1)
    return (told.cpu() == labels).float().mean().item()


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300, help="how long (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    parser.add_argument("--precision", choices=["no", "bf16", "fp16"], default="no")
    args = parser.parse_args(argv)
    train(steps=args.steps, seed=args.seed, precision=args.precision)


if __name__ == "__main__":
    main()
