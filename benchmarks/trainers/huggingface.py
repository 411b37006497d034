"""The Hugging Face Trainer."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import Any

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
        Place(StagegraphCallback, "on_step_end"),  # the host's own, which does nothing
        Place(StagedTrainerMixin, "_maybe_log_save_evaluate"),
        Place(Trainer, "_maybe_log_save_evaluate", host=True),
    ],
}
"""Where the Trainer calls us at an update, and we it."""


class Switched(StagedTrainer):
    """A Trainer with a stage graph, or as it would be without."""

    kind: type[Any] = StagedTrainer
    """Whose methods it has at present."""

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        return self.kind.training_step(self, model, inputs, num_items_in_batch)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self.kind._maybe_log_save_evaluate(self, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        return self.kind.evaluate(self, *args, **kwargs)


def train(updates: int, turn: Turn) -> None:
    """Train, and let those listen whose turn it is."""
    ours, nothing = StagegraphCallback(graph()), Nothing()
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
        trainer = Switched(
            model=Net(),
            args=args,
            data_collator=Collate(turn),
            train_dataset=Items(),
            eval_dataset=Items(2),
            callbacks=[ours],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.get_eval_dataloader = lambda *_: held_out()  # fetched within a turn
        handler = trainer.callback_handler
        others = [one for one in handler.callbacks if one is not ours]
        place = handler.callbacks.index(ours)

        def switch(variant: str) -> None:
            trainer.kind = StagedTrainer if variant == "stagegraph" else Trainer
            added = {"bare": [], "no-op": [nothing], "stagegraph": [ours]}[variant]
            handler.callbacks = [*others[:place], *added, *others[place:]]

        turn.begins(switch)
        trainer.train()
