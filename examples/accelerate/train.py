"""Train a network that grows on images, in a loop around an ``accelerate.Accelerator``.

Run it as ``python -m examples.accelerate.train``; ``plain.py`` is the same without stagegraph, and
``graph.yaml`` says when it grows. Killed, the same command goes on where the folder stands: from
the run's own checkpoints, or with ``--save-state`` from those of ``accelerator.save_state``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

import stagegraph as sg
from examples.accelerate.model import Net
from examples.grow_images import data
from stagegraph.trainers.accelerate import AcceleratedEngine, newest_whole

BATCH, SAVED = 16, 20
GRAPH = Path(__file__).with_name("graph.yaml")


def train(
    graph: sg.StageGraph,
    *,
    folder: Path,
    seed: int = 0,
    precision: str = "no",
    save_state: bool = False,
) -> float:
    """Train to the graph's end; return the share of held-out images that are told right."""
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

    engine = AcceleratedEngine(
        graph,
        accelerator,
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        probe=(held_out[:8],),
        run=folder / "run",
        checkpoints=None if save_state else sg.Checkpoints(every=f"{SAVED} steps"),
        seed=seed,
    )
    sg.Terminal(engine)
    newest = newest_whole(folder / "checkpoints") if save_state else None
    if newest is not None:
        accelerator.load_state(str(newest))
    engine.resume()

    for epoch in engine.epochs(loader):
        for image_B1HW, class_B in epoch:
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(image_B1HW), class_B)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            engine.step(loss=loss, samples=len(image_B1HW))
            if engine.wants_evaluation:
                engine.observe(accuracy=evaluate(model, held_out, pictures.held_out_labels))
            if save_state and accelerator.sync_gradients and engine.progress.step % SAVED == 0:
                accelerator.save_state(str(folder / f"checkpoints/step_{engine.progress.step}"))

    print(engine.summary())
    print(f"report: {engine.report()}")
    engine.close()
    return evaluate(model, held_out, pictures.held_out_labels)


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images that are told right."""
    told: Tensor = model(images).argmax(dim=1)
    return (told.cpu() == labels).float().mean().item()


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graph", type=Path, default=GRAPH, help="the stages (graph.yaml)")
    parser.add_argument("--folder", type=Path, default=Path("runs/accelerate"))
    parser.add_argument("--save-state", action="store_true", help="accelerate keeps checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    parser.add_argument("--precision", choices=["no", "bf16", "fp16"], default="no")
    args = parser.parse_args(argv)
    try:
        told = train(
            sg.load(args.graph),
            folder=args.folder,
            seed=args.seed,
            precision=args.precision,
            save_state=args.save_state,
        )
    except sg.StageGraphError as error:
        parser.exit(2, f"{error}\n")
    print(f"accuracy: {told:.3f}")


if __name__ == "__main__":
    main()
