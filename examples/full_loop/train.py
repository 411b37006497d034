"""A plain training loop with all that such loops have, and a model that grows in it.

Gradient accumulation, mixed precision with a gradient scaler, gradient clipping, a learning-rate
scheduler, averaged weights, and ``torch.compile`` on demand. Run it as
``python -m examples.full_loop.train``; ``plain.py`` is the same without stagegraph, and
``grow.yaml`` says when the model grows. End it whenever you like: the same command with
``--run FOLDER`` goes on where the folder stands.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import stagegraph as sg
from examples.grow_gpt import data
from examples.grow_gpt.model import GPT
from examples.grow_gpt.train import next_free

BATCH, CONTEXT, MICRO_BATCHES = 4, 32, 2
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PRECISION = torch.float16 if DEVICE == "cuda" else torch.bfloat16
GRAPH = Path(__file__).with_name("grow.yaml")


def train(graph: sg.StageGraph, *, run: Path, seed: int = 0, compiled: bool = False) -> float:
    """Train to the graph's end; return the validation loss of the averaged weights there."""
    torch.set_num_threads(1)  # matrices this small gain nothing from a second thread
    torch.manual_seed(seed)
    text = data.load()
    held_out = on_device(text.validation_batch(size=32, context=CONTEXT))
    model = GPT(layers=2, context=CONTEXT).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    scheduler = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 30))
    scaler = torch.amp.GradScaler(DEVICE, enabled=PRECISION is torch.float16)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.98))
    forward = torch.compile(model) if compiled else model
    engine = sg.Engine(
        graph,
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        scaler=scaler,
        ema=averaged,
        probe=(held_out[0][:4],),
        run=run,
        seed=seed,
    )
    sg.Terminal(engine)
    engine.resume()

    while not engine.done:
        step = engine.progress.step
        for micro in range(MICRO_BATCHES):
            number = step * MICRO_BATCHES + micro
            inputs, targets = on_device(text.batch(seed, number, size=BATCH, context=CONTEXT))
            loss = loss_of(forward, inputs, targets) / MICRO_BATCHES
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        scheduler.step()
        averaged.update_parameters(model)
        engine.step(samples=BATCH * MICRO_BATCHES, tokens=BATCH * MICRO_BATCHES * CONTEXT)
        if engine.wants_evaluation:
            engine.observe(val_loss=evaluate(averaged, held_out))

    engine.finish()
    print(engine.summary())
    print(f"report: {engine.report()}")
    engine.close()
    return evaluate(averaged, held_out)


def on_device(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """A batch where the model is."""
    return batch[0].to(DEVICE), batch[1].to(DEVICE)


def loss_of(model: Callable[..., Tensor], inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross-entropy of the next byte, in nats; the forward pass in mixed precision."""
    with torch.autocast(DEVICE, dtype=PRECISION):
        logits = model(inputs_BT)
    return F.cross_entropy(logits.float().flatten(0, 1), targets_BT.flatten())


@torch.no_grad()
def evaluate(model: nn.Module, held_out: tuple[Tensor, Tensor]) -> float:
    """The loss on text that is never trained on."""
    return loss_of(model, *held_out).item()


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graph", type=Path, default=GRAPH, help="the stages (grow.yaml)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    parser.add_argument("--run", type=Path, help="a folder, new or to go on in (runs/full_loop-1)")
    args = parser.parse_args(argv)
    run = args.run or next_free("runs/full_loop")
    try:
        train(sg.load(args.graph), run=run, seed=args.seed, compiled=args.compile)
    except sg.StageGraphError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
