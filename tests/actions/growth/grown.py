"""Models with MLPs to grow, and what it takes to grow them."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import AdamW

from stagegraph.actions import TorchActor
from stagegraph.actions.undo import untouched
from stagegraph.schema.actions import AddExperts, Attach, Upcycle
from tests.actions.models import D, Model, accept, batch, boundary, growth


class MLP(nn.Module):
    """Up, tanh, down."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.up = nn.Linear(D, 2 * D)
        self.down = nn.Linear(2 * D, D)
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        return self.drop(self.down(torch.tanh(self.up(x))))


class Residual(nn.Module):
    """Pre-norm MLP."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.norm = nn.LayerNorm(D)
        self.mlp = MLP(dropout)

    def forward(self, x):
        return x + self.mlp(self.norm(x))


class Listed(nn.Module):
    """Pre-norm MLP that is a list of layers."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(D)
        self.mlp = nn.Sequential(nn.Linear(D, 2 * D), nn.Tanh(), nn.Linear(2 * D, D))

    def forward(self, x):
        return x + self.mlp(self.norm(x))


def attach(**fields):
    given = {"host": ("blocks.*.mlp",), "module": "adapter", **fields}
    if given["module"] == "adapter":
        given.setdefault("bottleneck", 3)
    return Attach(type="attach", **given)


def upcycle(**fields):
    return Upcycle(type="upcycle", **{"host": ("blocks.*.mlp",), "experts": 4, **fields})


def add_experts(**fields):
    given = {"moe": ("blocks.*.mlp.moe",), **fields}
    if not {"add", "to"} & set(given):
        given.setdefault("factor", 2)
    return AddExperts(type="add_experts", **given)


class Scene:
    """A model with an actor that grows it."""

    def __init__(self, block=Residual, *, dtype=torch.float32, model=None, optimizer=None, **more):
        state = torch.get_rng_state()
        torch.manual_seed(0)
        self.model = (Model(block=block) if model is None else model).to(dtype)
        torch.set_rng_state(state)
        make = optimizer or (lambda model: AdamW(model.parameters(), lr=0.01))
        self.optimizer = make(self.model)
        self.x = batch().to(dtype)
        self.actor = TorchActor(self.model, self.optimizer, **{"probe": self.x, **more})

    def grow(self, action, cohort="new", *, step=0, alpha=1.0, held=()):
        """Grow, and what the certificate says."""
        act = boundary(
            step, deeds=[growth(action, cohort=cohort)], held=held, alphas={cohort: alpha}
        )
        return self.actor.transact(act, accept).evidence["main:grow.actions[0]"]

    def shake(self, seed=5):
        """Move all weights, as training would."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in self.model.parameters():
                p.add_(0.2 * torch.randn(p.shape, generator=generator, dtype=p.dtype))

    def output(self, *, training=False):
        with untouched(self.model), torch.no_grad():
            torch.manual_seed(11)
            return self.model.train(training)(self.x)

    def changed(self, before, **mode):
        return float((self.output(**mode) - before).abs().max())

    def gradients(self):
        """Names of parameters with a gradient that is not zero."""
        with untouched(self.model):
            self.model.zero_grad()
            self.model.train()(self.x).pow(2).sum().backward()
            named = list(self.model.named_parameters())
            return [name for name, p in named if p.grad is not None and p.grad.any()]
