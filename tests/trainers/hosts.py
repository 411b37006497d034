"""One small model, its data and its optimizer, to be trained in each trainer alike."""

from dataclasses import dataclass

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from transformers import TrainingArguments

import stagegraph as sg
from stagegraph.runs.journal import read_journal
from stagegraph.trainers.accelerate import AcceleratedEngine
from stagegraph.trainers.huggingface import StagedTrainer
from stagegraph.trainers.huggingface import StagegraphCallback as OfHuggingFace
from stagegraph.trainers.lightning import StagegraphCallback as OfLightning
from tests.trainers.accelerate.small import fresh_accelerator

WIDTH, BATCH, ITEMS, HELD_OUT, CLIP, MOST = 6, 4, 48, 8, 0.5, 80
"""Twelve batches are a pass. A mean over eight like numbers is that number, to the last bit."""


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 8), nn.Linear(8, WIDTH)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Net(nn.Module):
    """Logits, or, with labels, what the Hugging Face Trainer wants.

    Args:
        curve: What an evaluation finds after each number of updates, from 0; ``None``: the loss.
    """

    def __init__(self, curve=None):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, 3)
        self.curve, self.updates = curve, 0

    def forward(self, x, labels=None):
        for block in self.blocks:
            x = block(x)
        logits = self.head(x)
        if labels is None:
            return logits
        loss = nn.functional.cross_entropy(logits, labels)
        if self.curve is not None and not self.training:
            loss = torch.tensor(self.curve[self.updates])
        return {"loss": loss, "logits": logits}

    def optimizing(self):
        """Optimizer and scheduler; the updates are counted, those taken back too."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-2)
        optimizer.register_step_post_hook(self.count)
        return optimizer, LambdaLR(optimizer, lambda step: 1 / (1 + step / 20))

    def count(self, *_):
        self.updates += 1


class Module(Net, pl.LightningModule):
    """The same with the names that Lightning calls."""

    def training_step(self, batch, batch_idx):
        return self(**batch)["loss"]

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self(**batch)["loss"])

    def configure_optimizers(self):
        optimizer, scheduler = self.optimizing()
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


class Items(Dataset):
    """Rows, each a function of its number, in their order."""

    def __init__(self, first=0, length=ITEMS):
        made = torch.Generator().manual_seed(first)
        self.x = torch.randn(length, WIDTH, generator=made)
        self.labels = (self.x[:, 0] > 0).long() + (self.x[:, 1] > 0).long()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index], "labels": self.labels[index]}


@dataclass(frozen=True)
class Run:
    """What a run was: its journal, its updates, its model, and where it ended."""

    records: list
    updates: int
    weights: dict
    trained: list
    ended: dict


class Host:
    """A run in one trainer.

    Args:
        text: The graph's file.
        folder: For the run, and for what the trainer keeps.
        micro: Micro-batches of an update.
        curve: As for :class:`Net`.
    """

    kind = Net

    def __init__(self, text, folder, *, micro=1, curve=None):
        self.graph, self.folder, self.micro = sg.load(text), folder, micro
        torch.manual_seed(0)
        self.net = self.kind(curve)
        self.parts = {"probe": (Items(7).x[:4],), "run": folder / "run"}

    def train(self):
        engine = self.fit()
        ended = dict(engine.stages)
        engine.close()
        net = self.net
        return Run(
            read_journal(self.folder / "run" / "journal.jsonl"),
            net.updates,
            {name: value.detach().clone() for name, value in net.state_dict().items()},
            [name for name, p in net.named_parameters() if p.requires_grad],
            ended,
        )

    def evaluate(self):
        """In a loop of one's own."""
        self.net.eval()
        with torch.no_grad():
            loss = self.net(**next(iter(loader(1, HELD_OUT, HELD_OUT))))["loss"]
        self.net.train()
        return loss


def loader(first=0, length=ITEMS, batch=BATCH):
    return DataLoader(Items(first, length), batch_size=batch)


class Plain(Host):
    def fit(self):
        net, micro = self.net, self.micro
        optimizer, scheduler = net.optimizing()
        engine = sg.Engine(
            self.graph, model=net, optimizer=optimizer, scheduler=scheduler, **self.parts
        )
        engine.resume()
        total, count = 0.0, 0
        for epoch in engine.epochs(loader()):
            for batch in epoch:
                loss = net(**batch)["loss"] / micro
                loss.backward()
                total, count = total + loss.detach(), count + 1
                if count % micro:
                    continue
                clip_grad_norm_(net.parameters(), CLIP)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                engine.step(loss=total, samples=BATCH * micro)
                total = 0.0
                if engine.wants_evaluation:
                    engine.observe(val_loss=self.evaluate())
        return engine


class HuggingFace(Host):
    def fit(self):
        optimizing = self.net.optimizing()
        parts = {**self.parts, "probe": {"x": self.parts["probe"][0]}}
        arguments = TrainingArguments(
            output_dir=str(self.folder / "kept"), per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=HELD_OUT, gradient_accumulation_steps=self.micro,
            max_steps=MOST, max_grad_norm=CLIP, train_sampling_strategy="sequential",
            save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
            dataloader_pin_memory=False, logging_steps=7,
        )  # fmt: skip
        trainer = StagedTrainer(
            model=self.net,
            args=arguments,
            train_dataset=Items(),
            eval_dataset=Items(1, HELD_OUT),
            optimizers=optimizing,
            callbacks=[OfHuggingFace(self.graph, **parts)],
        )
        trainer.train()
        return trainer.engine


class Lightning(Host):
    kind = Module

    def fit(self):
        stages = OfLightning(self.graph, **self.parts)
        trainer = pl.Trainer(
            max_steps=MOST, accelerator="cpu", devices=1, logger=False, callbacks=[stages],
            accumulate_grad_batches=self.micro, gradient_clip_val=CLIP, num_sanity_val_steps=0,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            check_val_every_n_epoch=None, val_check_interval=10**6,  # when the graph asks, alone
            default_root_dir=self.folder / "kept",
        )  # fmt: skip
        trainer.fit(self.net, loader(), loader(1, HELD_OUT, HELD_OUT))
        return stages.engine


class Accelerate(Host):
    def fit(self):
        accelerator = fresh_accelerator(gradient_accumulation_steps=self.micro)
        prepared = accelerator.prepare(self.net, *self.net.optimizing(), loader())
        model, optimizer, scheduler, batches = prepared
        engine = AcceleratedEngine(
            self.graph, accelerator, model=model, optimizer=optimizer, scheduler=scheduler,
            **self.parts,
        )  # fmt: skip
        engine.resume()
        for epoch in engine.epochs(batches):
            for batch in epoch:
                with accelerator.accumulate(model):
                    loss = model(**batch)["loss"]
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), CLIP)
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
                engine.step(loss=loss, samples=len(batch["x"]))
                if engine.wants_evaluation:
                    engine.observe(val_loss=self.evaluate())
        return engine


HOSTS = {one.__name__: one for one in (Plain, HuggingFace, Lightning, Accelerate)}
