"""Small models of the kinds that people grow, and a digest of everything about them."""

from __future__ import annotations

import random
from types import SimpleNamespace

import torch
from pydantic import TypeAdapter
from torch import nn

from stagegraph.engine.ports import Boundary, Deed, Effect, Restore, Selected
from stagegraph.schema.actions import Deepen, SnapshotAction
from stagegraph.schema.activities import Activity

D = 8
ACTIVITY = TypeAdapter(Activity)


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, d=D, dropout=0.1):
        super().__init__()
        self.ln1 = nn.LayerNorm(d)
        self.q = nn.Linear(d, d)
        self.v = nn.Linear(d, d)
        self.o = nn.Linear(d, d)
        self.ln2 = nn.LayerNorm(d)
        self.fc1 = nn.Linear(d, 2 * d)
        self.fc2 = nn.Linear(2 * d, d)
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        h = self.ln1(x)
        mixed = torch.softmax(self.q(h) @ h.transpose(-1, -2), -1) @ self.v(h)
        x = x + self.drop(self.o(mixed))
        return x + self.drop(self.fc2(torch.relu(self.fc1(self.ln2(x)))))


class Model(nn.Module):
    """A small transformer with a batch norm above."""

    def __init__(self, num=2, block=Block, *, norm=True):
        super().__init__()
        self.inp = nn.Linear(4, D)
        self.blocks = nn.ModuleList([block() for _ in range(num)])
        self.bn = nn.BatchNorm1d(D) if norm else nn.Identity()
        self.head = nn.Linear(D, 3)

    def forward(self, x):
        x = self.inp(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.bn(x.mean(1)))


class Counting(Model):
    """A model whose loop goes by its config, as many published ones do."""

    def __init__(self, num=2):
        super().__init__(num)
        self.config = SimpleNamespace(num_hidden_layers=num, layer_types=["full"] * num)
        for index, block in enumerate(self.blocks):
            block.layer_idx = index

    def forward(self, x):
        x = self.inp(x)
        for block in self.blocks[: self.config.num_hidden_layers]:
            x = block(x)
        return self.head(self.bn(x.mean(1)))


def activity(**fields):
    return ACTIVITY.validate_python(fields)


def effect(place, of, value=None, **fields):
    written = activity(of="grown" if of.cohorts else "all", **fields)
    return Effect(place, written, of, value)


def deepen(**fields):
    return Deepen(type="deepen", **{"stack": "blocks", "add": 2, **fields})


def growth(action=None, cohort="main:grow#1", place="main:grow.actions[0]"):
    return Deed(place, action or deepen(), cohort, None, 7)


def snapshot(name="before", key="before@0"):
    return Deed("main:grow.actions[9]", SnapshotAction(type="snapshot", name=name), None, key, 7)


def boundary(step=0, *, deeds=(), held=(), alphas=None, restore=None, forget=()):
    return Boundary(step, restore, tuple(deeds), tuple(held), alphas or {}, tuple(forget))


def back_to(key="before@0", *, rewind_data=False, lr_factor=None, fork=None):
    return Restore("undo.actions[0]", key, rewind_data, lr_factor, fork)


def alpha_ramp(cohort="main:grow#1", value=0.0):
    of = Selected(cohorts=(cohort,))
    return effect("main:warmup.during[0]", of, value, type="alpha_ramp", over="10 steps")


def lr_factor(value, *globs, cohorts=(), place="main:warmup.during[1]"):
    of = Selected(everything=not globs and not cohorts, globs=globs, cohorts=cohorts)
    return Effect(place, activity(type="lr_factor", factor=max(value, 1e-9)), of, value)


def freeze(*globs, norms="keep", place="main:warmup.during[2]"):
    return Effect(
        place, activity(type="freeze", of=list(globs), norms=norms), Selected(globs=globs), None
    )


def accept(_outcome):
    return None


def batch(rows=5):
    return torch.randn(rows, 3, 4, generator=torch.Generator().manual_seed(1))


def train(model, optimizer, steps, *, scheduler=None):
    """Some updates with dropout and the global random numbers; the losses."""
    losses = []
    for _ in range(steps):
        x = torch.randn(5, 3, 4)
        optimizer.zero_grad()
        loss = model(x).pow(2).sum()
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(float(loss.detach()))
    return losses


def _bytes(tensor):
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return (tuple(tensor.shape), str(tensor.dtype), bytes(raw.tolist()))


def devices_numbers():
    """The states of CUDA's random numbers, where it is in use."""
    used = torch.cuda.is_available() and torch.cuda.is_initialized()
    return [state.tolist() for state in torch.cuda.get_rng_state_all()] if used else []


def digest(model, *optimizers):
    """Everything that a failed transaction must leave as it was, identities included."""
    modules = [
        (
            name,
            id(module),
            module.training,
            {k: id(v) for k, v in module._modules.items()},
            {k: id(v) for k, v in module._parameters.items()},
            {k: id(v) for k, v in module._buffers.items()},
            {k: list(v) for k, v in vars(module).items() if k.endswith("hooks")},
            {k: v for k, v in vars(module).items() if isinstance(v, int | str | float)},
        )
        for name, module in model.named_modules()
    ]
    parameters = [
        (n, id(p), p.requires_grad, p.data_ptr(), id(p.grad), _bytes(p))
        for n, p in model.named_parameters()
    ]
    buffers = [(n, id(b), _bytes(b)) for n, b in model.named_buffers()]
    groups = [
        (
            id(group),
            id(group["params"]),
            [id(p) for p in group["params"]],
            {k: repr(v) for k, v in group.items() if k != "params"},
        )
        for optimizer in optimizers
        for group in optimizer.param_groups
    ]
    state = [
        (id(p), id(entry), {k: (id(v), _bytes(v)) for k, v in entry.items()})
        for optimizer in optimizers
        for p, entry in optimizer.state.items()
    ]
    config = vars(model.config).copy() if hasattr(model, "config") else None
    numbers = (torch.get_rng_state().tolist(), random.getstate(), *devices_numbers())
    return modules, parameters, buffers, groups, state, config, numbers


def values(model, *optimizers):
    """The numbers alone: weights, buffers and optimizer state in order."""
    found = [_bytes(t) for t in (*model.parameters(), *model.buffers())]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for p in group["params"]:
                found += [_bytes(v) for v in optimizer.state.get(p, {}).values()]
    return found
