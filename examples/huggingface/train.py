"""Fine-tune a MiniLM from the top down, with the Hugging Face Trainer.

Run it as ``python -m examples.huggingface.train``; ``plain.py`` is the same without stagegraph, and
``graph.yaml`` says what is trained when. Killed, it goes on with ``--resume``, bit for bit.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

import stagegraph as sg
from examples.huggingface import data
from examples.huggingface.model import NotInstalledError, load
from stagegraph.trainers.huggingface import StagedTrainer, StagegraphCallback

HELD_OUT, PRINTED = 120, 20
GRAPH = Path(__file__).with_name("graph.yaml")


def arguments(folder: Path, *, steps: int, seed: int) -> TrainingArguments:
    """How the Trainer trains."""
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=40,
        learning_rate=5e-4,
        lr_scheduler_type="linear",
        warmup_steps=8,
        logging_steps=PRINTED,
        save_strategy="steps",
        save_steps=2 * PRINTED,
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        seed=seed,
    )


def train(
    graph: sg.StageGraph, *, folder: Path, steps: int = 160, seed: int = 0, resume: bool = False
) -> float:
    """Train, and return the share of held-out docstrings whose package is told right."""
    torch.set_num_threads(1)  # a second one gains little on texts this short
    torch.manual_seed(seed)
    model, tokenizer = load(len(data.PACKAGES))
    texts, held_out = data.load()

    stages = StagegraphCallback(graph, run=folder / "run", seed=seed)
    trainer = StagedTrainer(
        model=model,
        args=arguments(folder, steps=steps, seed=seed),
        train_dataset=data.Encoded(texts, tokenizer),
        eval_dataset=data.Encoded(held_out, tokenizer, limit=HELD_OUT),
        compute_metrics=accuracy,
        callbacks=[stages],
    )
    trainer.train(resume_from_checkpoint=resume)

    print(trainer.engine.summary())
    print(f"report: {trainer.engine.report()}")
    return float(trainer.evaluate()["eval_accuracy"])


def accuracy(told: Any) -> dict[str, float]:
    """The share that is told right."""
    return {"accuracy": float((told.predictions.argmax(axis=-1) == told.label_ids).mean())}


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graph", type=Path, default=GRAPH, help="the stages (graph.yaml)")
    parser.add_argument("--folder", type=Path, default=Path("runs/huggingface"))
    parser.add_argument("--resume", action="store_true", help="go on with what the folder holds")
    parser.add_argument("--steps", type=int, default=160, help="how long (default: 160)")
    parser.add_argument("--seed", type=int, default=0, help="of head and batches (default: 0)")
    args = parser.parse_args(argv)
    try:
        told = train(
            sg.load(args.graph),
            folder=args.folder,
            steps=args.steps,
            seed=args.seed,
            resume=args.resume,
        )
    except (NotInstalledError, sg.StageGraphError) as error:
        parser.exit(2, f"{error}\n")
    print(f"accuracy: {told:.3f}")


if __name__ == "__main__":
    main()
