"""A small residual model, and a plain training loop around an engine."""

from __future__ import annotations

import copy
import json

import torch
from torch import nn
from torch.optim import AdamW, lr_scheduler

import stagegraph as sg
from stagegraph.actions.randomness import RandomState

WIDTH = 6

EVERY_STAGE = """
stagegraph: 1
name: every kind of stage
metrics: {val_loss: {goal: minimize, every: 3 steps}}
budget: {steps: 200, params: 5k}
initial: train
stages:
  train:
    kind: train
    transitions:
      - target: grow
        when: plateau(val_loss, worth=5%, over=24 steps) and affordable(grow)
        at_most: 1
      - {target: anneal, when: visits(grow) >= 1 and elapsed(4 steps)}
  grow: {kind: grow, actions: [{type: deepen, stack: blocks, add: 1}], next: warmup}
  warmup:
    kind: warmup
    during:
      - {type: alpha_ramp, of: grown, over: 6 steps}
      - {type: lr_ramp, of: grown, start: 0, end: 1, over: 6 steps}
    next: settle
  settle: {kind: settle, lr_factor: 0.5, duration: 4 steps, next: consolidate}
  consolidate:
    kind: consolidate
    during: [{type: freeze, of: inp}]
    duration: 4 steps
    next: train
  anneal:
    kind: train
    during: [{type: lr_ramp, end: 0, over: 6 steps}]
    duration: 6 steps
    next: done
  done: {kind: final}
"""
EVERY_MOVE = [
    (None, "main:train", 0),
    ("main:train", "main:warmup", 48),
    ("main:warmup", "main:settle", 54),
    ("main:settle", "main:consolidate", 58),
    ("main:consolidate", "main:train", 62),
    ("main:train", "main:anneal", 66),
    ("main:anneal", "main:done", 72),
]
"""Where ``EVERY_STAGE`` goes when the validation loss is ``flattening``."""


def flattening(update):
    """A loss that has flattened to within five per cent by update 48."""
    return 1 + 1 / (update + 1)


class Block(nn.Module):
    """One residual block: norm, up, down."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        return x + self.drop(self.down(torch.tanh(self.up(self.norm(x)))))


class Net(nn.Module):
    """A stack of residual blocks that knows its depth from its constructor only."""

    def __init__(self, depth=2, dropout=0.0):
        super().__init__()
        self.inp = nn.Linear(4, WIDTH)
        self.blocks = nn.ModuleList(Block(dropout) for _ in range(depth))
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x):
        x = self.inp(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


PROBE = torch.linspace(-1, 1, 20).view(5, 4)


class Records(list):
    """Keeps the records that an engine writes."""

    def write(self, records):
        self.extend(records)

    def of(self, *kinds):
        return [record for record in self if record["type"] in kinds]


class Training:
    """Model, optimizer, scheduler and engine in a plain loop.

    Args:
        document: The graph.
        model: Another model than ``Net``.
        val_loss: The validation loss as a function of the updates ever made.
        dropout: Of the blocks; random numbers then matter.
        device: Where the model is, its probe and its batches.
        more: Further arguments of the engine.
    """

    def __init__(
        self,
        document,
        *,
        model=None,
        val_loss=flattening,
        dropout=0.0,
        optimizer=AdamW,
        device="cpu",
        **more,
    ):
        state = torch.get_rng_state()
        torch.manual_seed(3)
        self.model = Net(dropout=dropout) if model is None else model
        torch.set_rng_state(state)
        self.model.to(device)
        self.device = device
        self.optimizer = optimizer(self.model.parameters(), lr=0.1)
        self.scheduler = lr_scheduler.LambdaLR(self.optimizer, lambda step: 0.99**step)
        self.val_loss = val_loss
        self.updates = 0
        self.records = Records()
        self.engine = sg.Engine(
            sg.load(document),
            model=self.model,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            probe=PROBE.to(device),
            **more,
        )
        self.engine.listen(self.records)

    def update(self):
        """One optimizer update; the engine is not told yet."""
        x = torch.randn(5, 4, generator=torch.Generator().manual_seed(self.updates))
        x = x.to(self.device)
        loss = self.engine.loss((self.model(x) - x.sum(1, keepdim=True)).pow(2).mean())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        self.updates += 1
        return loss

    def observe(self):
        """The evaluation, if the engine wants one."""
        if self.engine.wants_evaluation:
            self.engine.observe(val_loss=self.val_loss(self.updates))

    def tick(self):
        """One update with its boundary."""
        self.engine.step(loss=self.update(), samples=5)
        self.observe()

    def go(self, updates=1000, *, until=None):
        """Train for some updates, up to a stage, or to the end."""
        for _ in range(updates):
            if self.engine.done or (until is not None and self.stage == until):
                break
            self.tick()
        return self

    @property
    def stage(self):
        return self.engine.stages.get("main")

    @property
    def moves(self):
        return [(r["source"], r["target"], r["step"]) for r in self.records.of("move")]

    # A checkpoint, as a trainer would write it

    def save(self):
        tensors = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }
        return {
            "engine": json.dumps(self.engine.state_dict()),
            "tensors": copy.deepcopy(tensors),
            "random": RandomState.capture(),
            "updates": self.updates,
        }

    def load(self, checkpoint):
        self.engine.load_state_dict(json.loads(checkpoint["engine"]))
        tensors = copy.deepcopy(checkpoint["tensors"])
        self.model.load_state_dict(tensors["model"])
        self.optimizer.load_state_dict(tensors["optimizer"])
        self.scheduler.load_state_dict(tensors["scheduler"])
        self.updates = checkpoint["updates"]
        checkpoint["random"].restore()
        return self

    # What is compared

    def weights(self):
        """Every weight and the optimizer's state, as bytes and numbers."""
        return weights(self.model), moments(self.model, self.optimizer)


def weights(model):
    return {name: value.tolist() for name, value in model.state_dict().items()}


def moments(model, optimizer):
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names.get(id(p), "gone"): {
            key: torch.as_tensor(value).tolist() for key, value in entry.items()
        }
        for p, entry in optimizer.state.items()
    }


def rates_in_step(training):
    """From here on, the learning rate of each parameter inside each optimizer step, by name."""
    seen = []

    def look(optimizer, _args, _kwargs):
        names = {id(p): name for name, p in training.model.named_parameters()}
        seen.append({names[id(p)]: g["lr"] for g in optimizer.param_groups for p in g["params"]})

    training.optimizer.register_step_pre_hook(look)
    return seen
