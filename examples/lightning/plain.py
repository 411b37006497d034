"""Train a small vision transformer on digits, with Lightning.

Run it as ``python -m examples.lightning.plain``; ``train.py`` is the same with stagegraph.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from examples.lightning import data
from examples.lightning.model import Digits


def train(*, steps: int = 360, seed: int = 0) -> float:
    """Train, and return the share of held-out digits that are told right."""
    torch.set_num_threads(1)  # a second one gains little on images this small
    pl.seed_everything(seed)
    images, held_out = data.load()
    loader = DataLoader(images, batch_size=64, shuffle=True, drop_last=True)
    held_out_loader = DataLoader(held_out, batch_size=360)
    module = Digits(depth=3)

    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="auto",
        devices=1,
        val_check_interval=20,
        check_val_every_n_epoch=None,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader, held_out_loader)

    return float(trainer.validate(module, held_out_loader, verbose=False)[0]["val_accuracy"])


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=360, help="how long (default: 360)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    args = parser.parse_args(argv)
    print(f"accuracy: {train(steps=args.steps, seed=args.seed):.3f}")


if __name__ == "__main__":
    main()
