"""Train a small network that grows wider, then deeper, then gets a second head, on images.

Run it as ``python -m examples.grow_images.train``; ``plain.py`` is the same without stagegraph, and
``grow.yaml`` says when it grows.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import stagegraph as sg
from examples.grow_images import data
from examples.grow_images.model import Net

BATCH, PROBED = 32, 120
GRAPH = Path(__file__).with_name("grow.yaml")


@dataclass(frozen=True)
class Parts:
    """What is trained, and on what."""

    pictures: data.Images
    model: Net
    optimizer: torch.optim.Optimizer
    loader: sg.CurriculumLoader[tuple[Tensor, Tensor]]

    def for_engine(self) -> dict[str, Any]:
        """What the engine must know of them."""
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "data": self.loader,
            "probe": (self.pictures.held_out[:16],),
            "monitor": lambda _: {"probe_loss": probe_loss(self.model, self.pictures)},
        }


def make(images: str = "digits", seed: int = 0) -> Parts:
    """A small network, its optimizer and its images."""
    torch.set_num_threads(1)  # matrices this small gain nothing from a second thread
    torch.manual_seed(seed)
    pictures, model = data.load(images), Net()
    dataset = TensorDataset(pictures.train, pictures.labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    return Parts(
        pictures, model, optimizer, sg.CurriculumLoader(dataset, batch_size=BATCH, seed=seed)
    )


def learn(engine: sg.Engine, parts: Parts) -> None:
    """Train to the graph's end."""
    model, optimizer = parts.model, parts.optimizer
    for epoch in engine.epochs(parts.loader):
        for upright_B1HW, class_B in epoch:
            image_B1HW = as_seen(model, upright_B1HW)
            logits_BK = model(image_B1HW)
            loss = F.cross_entropy(logits_BK, class_B)
            loss = engine.loss(loss, outputs=logits_BK, inputs=image_B1HW)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            engine.step(loss=loss, grad_norm=norm, samples=len(image_B1HW))
            if engine.wants_evaluation:
                engine.observe(**evaluate(model, parts.pictures))


def train(
    graph: sg.StageGraph, *, run: Path, images: str = "digits", seed: int = 0
) -> tuple[float, Net]:
    """Train; return the share of held-out images that the first head tells right, and the model."""
    parts = make(images, seed)
    with sg.Engine(graph, run=run, seed=seed, **parts.for_engine()) as engine:
        sg.Terminal(engine)
        engine.resume()
        learn(engine, parts)
        print(engine.summary())
        print(f"report: {engine.report()}")
    return evaluate(parts.model, parts.pictures)["accuracy"], parts.model


def task(job: sg.Job) -> None:
    """The same for ``stagegraph run``: ``--task examples.grow_images.train:task``."""
    parts = make()
    learn(job.engine(**parts.for_engine()), parts)


def as_seen(model: Net, image_B1HW: Tensor) -> Tensor:
    """The images as the head in use sees them: the second one is for images on their side."""
    turned = model.active_head == "turned"
    return image_B1HW.rot90(1, dims=(2, 3)) if turned else image_B1HW


def probe_loss(model: Net, pictures: data.Images) -> Tensor:
    """The first head's loss on a few images that are never trained on, always the same ones."""
    image_B1HW, class_B = pictures.held_out[:PROBED], pictures.held_out_labels[:PROBED]
    return F.cross_entropy(model.heads["upright"](model.features(image_B1HW)), class_B)


@torch.no_grad()
def evaluate(model: Net, pictures: data.Images) -> dict[str, float]:
    """Loss and accuracy of each head on all images that are never trained on.

    A metric stays one of the same head, whichever is trained: so it shows what is forgotten.
    """
    image_B1HW, class_B = pictures.held_out, pictures.held_out_labels
    logits_BK = model.heads["upright"](model.features(image_B1HW))
    found = {
        "val_loss": F.cross_entropy(logits_BK, class_B).item(),
        "accuracy": _share_right(logits_BK, class_B),
    }
    if "turned" in model.heads:
        turned_BK = model.heads["turned"](model.features(image_B1HW.rot90(1, dims=(2, 3))))
        found["turned_accuracy"] = _share_right(turned_BK, class_B)
    return found


def _share_right(logits_BK: Tensor, class_B: Tensor) -> float:
    return (logits_BK.argmax(dim=1) == class_B).float().mean().item()


def next_free(folder: str) -> Path:
    """The first of ``folder-1``, ``folder-2``, ... that is not there yet."""
    return next(path for n in count(1) if not (path := Path(f"{folder}-{n}")).exists())


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graph", type=Path, default=GRAPH, help="the stages (grow.yaml)")
    parser.add_argument("--images", choices=["digits", "fashion"], default="digits")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    parser.add_argument("--run", type=Path, help="a folder, new or not (runs/grow_images-1)")
    args = parser.parse_args(argv)
    run = args.run or next_free("runs/grow_images")
    try:
        train(sg.load(args.graph), run=run, images=args.images, seed=args.seed)
    except sg.StageGraphError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
