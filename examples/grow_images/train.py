"""Train a small network that grows wider, then deeper, then gets a second head, on images.

Run it as ``python -m examples.grow_images.train``; ``plain.py`` is the same without stagegraph, and
``grow.yaml`` says when it grows.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import stagegraph as sg
from examples.grow_images import data
from examples.grow_images.model import Net

BATCH = 32
GRAPH = Path(__file__).with_name("grow.yaml")


def train(
    graph: sg.StageGraph,
    *,
    run: Path,
    images: str = "digits",
    steps: int | None = None,
    seed: int = 0,
) -> tuple[float, Net]:
    """Train to the graph's end, or for some steps; return the accuracy and the model."""
    torch.set_num_threads(1)  # matrices this small gain nothing from a second thread
    torch.manual_seed(seed)
    pictures = data.load(images)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    engine = sg.Engine(
        graph,
        model=model,
        optimizer=optimizer,
        probe=(pictures.held_out[:16],),
        run=run,
        seed=seed,
    )
    sg.Terminal(engine)
    engine.resume()

    while not engine.done and engine.progress.step != steps:
        image_B1HW, class_B = pictures.batch(seed, engine.progress.step, size=BATCH)
        if model.active_head == "turned":
            image_B1HW = turned(image_B1HW)
        logits_BK = model(image_B1HW)
        loss = engine.loss(
            F.cross_entropy(logits_BK, class_B), outputs=logits_BK, inputs=image_B1HW
        )
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        engine.step(loss=loss, grad_norm=norm, samples=BATCH)
        if engine.wants_evaluation:
            engine.observe(**evaluate(model, pictures))

    engine.finish()
    print(engine.summary())
    print(f"report: {engine.report()}")
    engine.close()
    return evaluate(model, pictures)["accuracy"], model


def turned(image_B1HW: Tensor) -> Tensor:
    """The images on their side: what the second head is for."""
    return image_B1HW.rot90(1, dims=(2, 3))


@torch.no_grad()
def evaluate(model: Net, pictures: data.Images) -> dict[str, float]:
    """Loss and accuracy on images that are never trained on, as the head in use sees them."""
    seen = pictures.held_out if model.active_head == "upright" else turned(pictures.held_out)
    logits_BK = model(seen)
    told_B = logits_BK.argmax(dim=1)
    return {
        "val_loss": F.cross_entropy(logits_BK, pictures.held_out_labels).item(),
        "accuracy": (told_B == pictures.held_out_labels).float().mean().item(),
    }


def next_free(folder: str) -> Path:
    """The first of ``folder-1``, ``folder-2``, ... that is not there yet."""
    return next(path for n in count(1) if not (path := Path(f"{folder}-{n}")).exists())


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graph", type=Path, default=GRAPH, help="the stages (grow.yaml)")
    parser.add_argument("--images", choices=["digits", "fashion"], default="digits")
    parser.add_argument("--steps", type=int, help="stop after so many (default: the graph's end)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    parser.add_argument("--run", type=Path, help="a folder, new or not (runs/grow_images-1)")
    args = parser.parse_args(argv)
    run = args.run or next_free("runs/grow_images")
    try:
        train(sg.load(args.graph), run=run, images=args.images, steps=args.steps, seed=args.seed)
    except sg.StageGraphError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
