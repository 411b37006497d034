"""Train a small vision transformer that grows deeper, with Lightning.

Run it as ``python -m examples.lightning.train``; ``plain.py`` is the same without stagegraph, and
``graph.yaml`` says when it grows. Killed, it goes on with ``--resume``, bit for bit.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

import stagegraph as sg
from examples.lightning import data
from examples.lightning.model import Digits
from stagegraph.trainers.lightning import StagegraphCallback

GRAPH = Path(__file__).with_name("graph.yaml")


def train(
    graph: sg.StageGraph, *, folder: Path, steps: int = 360, seed: int = 0, resume: bool = False
) -> float:
    """Train, and return the share of held-out digits that are told right."""
    torch.set_num_threads(1)  # a second one gains little on images this small
    pl.seed_everything(seed)
    images, held_out = data.load()
    loader = StatefulDataLoader(images, batch_size=64, shuffle=True, drop_last=True)
    held_out_loader = DataLoader(held_out, batch_size=360)
    module = Digits(depth=1)

    stages = StagegraphCallback(graph, probe=(images[:8][0],), run=folder / "run", seed=seed)
    saves = ModelCheckpoint(folder / "checkpoints", every_n_train_steps=30, save_last=True)
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="auto",
        devices=1,
        check_val_every_n_epoch=None,
        val_check_interval=steps,
        gradient_clip_val=1.0,
        logger=False,
        callbacks=[stages, saves],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader, held_out_loader, ckpt_path="last" if resume else None)

    print(stages.engine.summary())
    print(f"report: {stages.engine.report()}")
    return float(trainer.validate(module, held_out_loader, verbose=False)[0]["val_accuracy"])


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graph", type=Path, default=GRAPH, help="the stages (graph.yaml)")
    parser.add_argument("--folder", type=Path, default=Path("runs/lightning"))
    parser.add_argument("--resume", action="store_true", help="go on with what the folder holds")
    parser.add_argument("--steps", type=int, default=360, help="how long (default: 360)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    args = parser.parse_args(argv)
    try:
        told = train(
            sg.load(args.graph),
            folder=args.folder,
            steps=args.steps,
            seed=args.seed,
            resume=args.resume,
        )
    except sg.StageGraphError as error:
        parser.exit(2, f"{error}\n")
    print(f"accuracy: {told:.3f}")


if __name__ == "__main__":
    main()
