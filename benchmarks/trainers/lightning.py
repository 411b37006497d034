"""The Lightning Trainer."""

from __future__ import annotations

import logging
import warnings
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.trainers.inplace import Place
from benchmarks.trainers.task import EVERY, LR, Net, graph, held_out, loader
from benchmarks.trainers.turns import Turn
from stagegraph.trainers.lightning import StagegraphCallback

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Nothing(Callback):
    """A callback that does nothing."""


class Module(LightningModule):
    """The task's network, and how it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, **batch: Any) -> Any:
        return self.net(**batch)

    def training_step(self, batch: dict[str, Any], _index: int) -> torch.Tensor:
        loss: torch.Tensor = self.net(**batch)["loss"]
        return loss

    def validation_step(self, batch: dict[str, Any], _index: int) -> None:
        self.log("val_loss", self.net(**batch)["loss"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=LR)


PLACES = {
    variant: [Place(callback, f"on_train_batch_{end}") for end in ("start", "end")]
    for variant, callback in (("no-op", Nothing), ("stagegraph", StagegraphCallback))
}
"""Where the Trainer calls us at an update."""


def train(updates: int, turn: Turn) -> None:
    """Train, and let those listen whose turn it is."""
    ours, nothing = StagegraphCallback(graph()), Nothing()
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            max_steps=updates,
            callbacks=[ours],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            val_check_interval=EVERY,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
        )
        others = [one for one in trainer.callbacks if one is not ours]

        def switch(variant: str) -> None:
            added = {"bare": [], "no-op": [nothing], "stagegraph": [ours]}[variant]
            trainer.callbacks = [*added, *others]

        turn.begins(switch)
        trainer.fit(Module(), loader(turn), held_out())
