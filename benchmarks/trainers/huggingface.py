"""The Hugging Face Trainer."""

from __future__ import annotations

from tempfile import TemporaryDirectory

from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

from benchmarks.trainers.inplace import Place
from benchmarks.trainers.task import BATCH, EVERY, LR, Collate, Items, Net, graph, held_out
from benchmarks.trainers.turns import Turn
from stagegraph.trainers.huggingface import StagedTrainer, StagedTrainerMixin, StagegraphCallback

logging.disable_progress_bar()


class Nothing(TrainerCallback):
    """A callback that does nothing."""


PLACES = {
    "no-op": [Place(Nothing, "on_step_end")],
    "stagegraph": [
        Place(StagedTrainerMixin, "training_step"),
        Place(Trainer, "training_step", host=True),
        Place(StagegraphCallback, "on_step_end"),
        Place(StagedTrainerMixin, "_maybe_log_save_evaluate"),
        Place(Trainer, "_maybe_log_save_evaluate", host=True),
    ],
}
"""Where the Trainer calls us at an update, and we it."""


def train(variant: str, updates: int, turn: Turn) -> None:
    """Train without stagegraph, with a callback that does nothing, or with an engine."""
    kind, callbacks = Trainer, []
    if variant == "no-op":
        callbacks = [Nothing()]
    elif variant == "stagegraph":
        kind, callbacks = StagedTrainer, [StagegraphCallback(graph())]
    with TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            max_steps=updates,
            learning_rate=LR,
            per_device_train_batch_size=BATCH,
            eval_strategy="steps",
            eval_steps=EVERY,
            logging_steps=EVERY,
            save_strategy="no",
            remove_unused_columns=False,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        )
        trainer = kind(
            model=Net(),
            args=args,
            data_collator=Collate(turn),
            train_dataset=Items(),
            eval_dataset=Items(2),
            callbacks=callbacks,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.get_eval_dataloader = lambda *_: held_out()  # fetched within a turn
        trainer.train()
