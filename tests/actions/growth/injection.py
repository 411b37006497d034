"""Failures at every step of a growth: the k-th torch operation, or the k-th call of a function.

What is injected is what happens: memory runs out. Each failure must leave model, optimizer and
engine as they were, identities included, and training must go on. An operation is one line in
``test_injection.py``.
"""

from __future__ import annotations

import functools
import inspect
import sys
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stagegraph.errors import ActionError
from tests.actions.models import digest, train

HOMES = (
    "stagegraph.actions.growth.",
    "stagegraph.actions.growing",
    "stagegraph.actions.optimizing.optimizers",
    "stagegraph.actions.optimizing.optimizer_state",
    "stagegraph.actions.parameters",
    "stagegraph.actions.probes",
    "stagegraph.actions.rehearsal",
)
"""Modules whose functions fail. Not those that undo: a way back that fails leads nowhere."""


class Full(torch.OutOfMemoryError):
    """The failure."""


class Undone(Exception):
    """A transaction that went well to its end, and is refused there."""


class _Fuse:
    """Counts, and raises once."""

    def __init__(self, at=None):
        self.at, self.count, self.where = at, 0, None

    def burn(self, where):
        self.count += 1
        if self.count == self.at:
            self.where = where
            raise Full(f"at {where}")


class _Operations(TorchDispatchMode):
    def __init__(self, fuse):
        super().__init__()
        self.fuse = fuse

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.fuse.burn(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def operations(at=None):
    """Let the ``at``-th operation of torch fail."""
    fuse = _Fuse(at)
    with _Operations(fuse):
        yield fuse


@contextmanager
def calls(at=None):
    """Let the ``at``-th call of a function of ours fail."""
    fuse = _Fuse(at)
    ours = {name: module for name, module in sys.modules.items() if name.startswith("stagegraph.")}
    wrapped = {}
    for name, module in ours.items():
        if name.startswith(HOMES):
            wrapped.update(_wrapped(module, fuse))
    with pytest.MonkeyPatch.context() as patch:
        for module in ours.values():
            for key, value in list(vars(module).items()):
                if inspect.isfunction(value) and value in wrapped:
                    patch.setattr(module, key, wrapped[value])
                elif type(value) is dict:
                    _patch_table(patch, value, wrapped)
        for name, module in ours.items():
            if name.startswith(HOMES):
                _patch_methods(patch, module, fuse)
        yield fuse


def _wrapped(module, fuse):
    return {
        value: _failing(value, fuse)
        for value in vars(module).values()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    }


def _failing(function, fuse):
    @functools.wraps(function)
    def failing(*args, **kwargs):
        fuse.burn(function.__qualname__)
        return function(*args, **kwargs)

    return failing


def _patch_table(patch, table, wrapped):
    for key, value in list(table.items()):
        if inspect.isfunction(value) and value in wrapped:
            patch.setitem(table, key, wrapped[value])


def _patch_methods(patch, module, fuse):
    for kind in vars(module).values():
        if inspect.isclass(kind) and kind.__module__ == module.__name__:
            for key, value in list(vars(kind).items()):
                if inspect.isfunction(value) and not key.startswith("__"):
                    patch.setattr(kind, key, _failing(value, fuse))


def check(model, optimizer, actor, boundary, failing, *, points=40, train=train):
    """Let a boundary fail at many of its steps, then succeed.

    Args:
        model: The model, trained for some steps.
        optimizer: Its optimizer.
        actor: What carries the boundary out.
        boundary: The boundary.
        failing: :func:`operations` or :func:`calls`.
        points: At how many steps, spread evenly.
        train: Trains the model with its optimizer for some updates.
    """

    def refuse(_outcome):
        raise Undone

    def seen():
        return digest(model, optimizer), actor.state_dict(), sorted(actor.snapshots())

    before, reached = seen(), []
    with failing() as fuse, pytest.raises(Undone):
        actor.transact(boundary, lambda outcome: refuse(reached.append(fuse.count) or outcome))
    assert seen() == before
    total = reached[0]  # what comes after is the way back
    assert total > points, "nothing to let fail"
    for at in sorted({1 + k * (total - 1) // (points - 1) for k in range(points)}):
        with failing(at) as fuse, pytest.raises((ActionError, Full)):
            actor.transact(boundary, refuse)
        assert seen() == before, f"{at} of {total}, {fuse.where}"
    train(model, optimizer, 1)
    actor.transact(boundary, lambda _outcome: None)
    train(model, optimizer, 1)
