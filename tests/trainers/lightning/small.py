"""A small LightningModule, automatic or manual, and what it learns; no network, no files."""

import hashlib
import json
import logging
import random
import tempfile

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

import stagegraph as sg
from stagegraph.trainers.lightning import StagegraphCallback, engine_of
from tests.actions.models import devices_numbers

for quiet in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(quiet).setLevel(logging.ERROR)

ITEMS, WIDTH, BATCH = 24, 6, 4
"""Six batches are a pass."""

GROWS = """
{stagegraph: 1, name: grows, initial: small,
 metrics: {val_loss: {goal: minimize, every: 3 steps}},
 stages: {
   small: {kind: train, transitions: [{target: grow, when: "elapsed(4 steps)"}]},
   grow: {kind: grow, actions: [{type: deepen, stack: blocks, add: 1}], next: warmup},
   warmup: {kind: warmup, during: [{type: alpha_ramp, of: grown, over: 5 steps}], next: large},
   large: {kind: train, duration: 5 steps, next: done},
   done: {kind: final}}}
"""
"""Grows at 4, ends at 14."""


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 8), nn.Linear(8, WIDTH)
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        return x + self.down(self.drop(torch.relu(self.up(self.norm(x)))))


class Module(pl.LightningModule):
    """Logs ``val_loss`` in validation, ``train_loss`` with each batch and over a pass."""

    def __init__(self, *, schedule=None, optimizer=torch.optim.AdamW, dropout=0.2):
        super().__init__()
        self.inp = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, 3)
        self.schedule, self.kind = schedule, optimizer
        for block in self.blocks:
            block.drop.p = dropout

    def forward(self, x):
        x = self.inp(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    def loss(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        optimizer = self.kind(self.parameters(), lr=1e-2)
        if self.schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer)}


class Manual(Module):
    """Two optimizers; each batch is an update of both, or, with ``every``, some of them are."""

    def __init__(self, *, every=1, **given):
        super().__init__(**given)
        self.automatic_optimization, self.every = False, every

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.manual_backward(loss / self.every)
        if (batch_idx + 1) % self.every == 0:
            for one in self.optimizers():
                one.step()
                one.zero_grad()
        self.log("train_loss", loss)
        return {"loss": loss.detach()}

    def configure_optimizers(self):
        rest = [p for name, p in self.named_parameters() if not name.startswith("head")]
        return [torch.optim.AdamW(rest, 1e-2), torch.optim.SGD(self.head.parameters(), 0.1)]


class Distilling(Module):
    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        loss = nn.functional.cross_entropy(logits, y)
        return engine_of(self.trainer).loss(loss, outputs=logits, inputs=x)


def items(seed=0, number=ITEMS):
    made = torch.Generator().manual_seed(seed)
    x = torch.randn(number, WIDTH, generator=made)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


def loader(seed=0, *, kind=StatefulDataLoader, batch_size=BATCH, **given):
    given = {"shuffle": True, **given}
    return kind(items(seed), batch_size=batch_size, **given)


def held_out(shuffle=False):
    return DataLoader(items(1), batch_size=12, shuffle=shuffle)


def trainer(callbacks, **given):
    usual = {
        "default_root_dir": tempfile.mkdtemp(), "max_steps": 30,
        "logger": False, "enable_progress_bar": False, "accelerator": "cpu",
        "enable_model_summary": False, "devices": 1, "num_sanity_val_steps": 0,
    }  # fmt: skip
    if "max_epochs" in given:
        usual.pop("max_steps")
    return pl.Trainer(callbacks=callbacks, **{**usual, **given})


def probe():
    return (items(7)[:4][0],)


def stages(text=GROWS, **given):
    return StagegraphCallback(sg.load(text), **{"probe": probe(), **given})


def of_tensors(named):
    made = hashlib.sha256()
    for name, value in named:
        tensor = torch.as_tensor(value)
        made.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        made.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return made.hexdigest()[:16]


def without_seconds(state):
    """The engine's state without what the clock on the wall says."""
    if isinstance(state, dict):
        return {k: without_seconds(v) for k, v in state.items() if k not in ("seconds", "replay")}
    return [without_seconds(one) for one in state] if isinstance(state, list) else state


def of_optimizer(model, optimizer):
    names = {id(p): name for name, p in model.named_parameters()}
    groups = [
        {k: [names[id(p)] for p in v] if k == "params" else repr(v) for k, v in group.items()}
        for group in optimizer.param_groups
    ]
    moments = [
        (f"{names[id(p)]}.{key}", value)
        for p, entry in optimizer.state.items()
        for key, value in entry.items()
    ]
    return groups, of_tensors(sorted(moments, key=lambda one: one[0]))


def print_of(trainer, module):
    engine = engine_of(trainer)
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return {
        "weights": of_tensors(module.named_parameters()),
        "buffers": of_tensors(module.named_buffers()),
        "optimizers": [of_optimizer(module, one) for one in trainer.optimizers],
        "schedulers": [
            repr(sorted(one.scheduler.state_dict().items())) for one in trainer.lr_scheduler_configs
        ],
        "scaler": repr(scaler and scaler.state_dict()),
        "random": (
            of_tensors([("torch", torch.random.get_rng_state())]),
            hashlib.sha256(repr(np.random.get_state()).encode()).hexdigest(),
            hashlib.sha256(repr(random.getstate()).encode()).hexdigest(),
            *devices_numbers(),
        ),
        "trained": [n for n, p in module.named_parameters() if p.requires_grad],
        "engine": json.dumps(without_seconds(engine.state_dict()), sort_keys=True),
        "stages": dict(engine.stages),
        "blocks": len(module.blocks),
        "pass": trainer.current_epoch,
        "average": getattr(module, "average", None),
    }


class Prints(Callback):
    """Per batch: weights, buffers, moments, schedules, scaler, random numbers, engine."""

    def __init__(self):
        self.seen, self.metrics = {}, {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        number = trainer.fit_loop.total_batch_idx + 1
        self.seen[number] = {"batch": of_tensors([("x", batch[0])]), **print_of(trainer, pl_module)}

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            at = trainer.fit_loop.total_batch_idx + 1
            self.metrics[at] = float(trainer.callback_metrics["val_loss"])


class Places(ModelCheckpoint):
    """Saves at every place of the course of events at which a checkpoint is to be saved."""

    def __init__(self, folder, places=("batch", "validated", "pass", "end"), only=None):
        super().__init__(folder, save_top_k=0)
        self.folder, self.places, self.only = folder, places, only

    def save(self, trainer, place):
        at = trainer.fit_loop.total_batch_idx + 1
        if place in self.places and (self.only is None or at in self.only):
            trainer.save_checkpoint(f"{self.folder}/{at:03d}-{place}.ckpt")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.save(trainer, "batch")

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.save(trainer, "validated")

    def on_train_epoch_end(self, trainer, pl_module):
        self.save(trainer, "pass")

    def on_train_end(self, trainer, pl_module):
        self.save(trainer, "end")


def differences(whole, resumed):
    """From which batch on which parts of a resumed run are not those of the whole one."""
    for number in sorted(resumed):
        if number not in whole:
            return [f"batch {number} is none of the whole run's"]
        wrong = [key for key, value in resumed[number].items() if value != whole[number][key]]
        if wrong:
            return [f"batch {number}: {', '.join(wrong)}"]
    return [] if max(resumed) == max(whole) else [f"ends at {max(resumed)}, not {max(whole)}"]


def fit(module, ours, callbacks=(), *, train=None, val=True, resume=None, **given):
    """A Trainer that has fitted."""
    made = trainer([ours, *callbacks], **given)
    made.fit(
        module, train or loader(), held_out() if val is True else val or None, ckpt_path=resume
    )
    return made


class Moves:
    """Hears of moves: step and stage."""

    def __init__(self, engine):
        self.seen = []
        engine.listen(self)

    def write(self, records):
        self.seen += [(r["step"], r["target"]) for r in records if r["type"] == "move"]
